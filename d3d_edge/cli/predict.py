"""d3d-edge predict."""

from __future__ import annotations

from pathlib import Path

import click

from d3d_edge.cli import options


@click.command("predict")
@click.argument("bundle", type=options.PATH)
@click.argument("video", type=options.PATH)
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="Classes to name.")
@options.threads
@options.as_json
def command(bundle: Path, video: Path, top: int, threads: int, as_json: bool) -> None:
    """Name the action in VIDEO, with any BUNDLE.

    All that is needed (sampling, size, labels) is in the bundle.

    \b
    d3d-edge predict bundles/android clip.mp4
    """
    from d3d_edge.pipeline.predict import predict

    found = predict(bundle, video, top=top, threads=threads)
    if as_json:
        click.echo(found.model_dump_json(indent=2))
        return
    width = max(len(answer.label) for answer in found.answers)
    for answer in found.answers:
        click.echo(f"{answer.label:<{width}}  {answer.probability:6.1%}")
    times = f"open {found.open_ms:.0f} ms, decode {found.decode_ms:.1f} ms, network {found.network_ms:.1f} ms"
    click.echo(f"{times} ({found.where}: {found.runtime})")
