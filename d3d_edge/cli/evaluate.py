"""d3d-edge evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import click

from d3d_edge.cli import options
from d3d_edge.cli.console import TerminalProgress, json_of, plain
from d3d_edge.cli.tables import columns, gmac
from d3d_edge.evaluation import FILE_NAME, Evaluation, Fusion
from d3d_edge.manifest import Split
from d3d_edge.runs import Run


@click.command("evaluate")
@click.argument("run", type=options.PATH)
@click.option("--split", type=click.Choice(get_args(Split)), default="test", show_default=True)
@click.option(
    "--fusion",
    type=click.Choice(get_args(Fusion)),
    default="logits",
    show_default=True,
    help="What is averaged over the clips of a video and over the networks of a system.",
)
@click.option("--clips", type=click.IntRange(1), default=1, show_default=True, help="Clips that each video is seen in.")
@options.decoding
@options.as_json
def command(
    run: Path,
    split: Split,
    fusion: Fusion,
    clips: int,
    cache_dir: Path,
    workers: int,
    strict: bool,
    as_json: bool,
) -> None:
    """Measure the float networks of RUN as the systems of the D3D paper, on the same clips.

    The spatial stream is the recipe's baseline of that name, trained on RGB alone; the temporal stream is the flow
    teacher; two-stream averages both. D3D is the student: it needs RGB only. Leaves RUN/evaluation.json.

    \b
    d3d-edge evaluate run
    d3d-edge evaluate run --clips 10 --fusion softmax
    """
    opened = Run.open(run)
    from d3d_edge.pipeline.evaluate import evaluate

    evaluation = evaluate(
        opened,
        split=split,
        fusion=fusion,
        clips=clips,
        cache_dir=cache_dir,
        workers=workers,
        strict=strict,
        progress=TerminalProgress(),
    )
    if as_json:
        click.echo(json_of(evaluation))
    else:
        _print(evaluation, run / FILE_NAME)


def _print(evaluation: Evaluation, path: Path) -> None:
    console = plain()
    table = columns(("system", "needs"), ("top-1", "95 %", "top-5", "class", "params", "GMAC"))
    for system in evaluation.systems:
        table.add_row(
            system.name,
            " + ".join(system.inputs),
            f"{system.top1:.1%}",
            f"{100 * system.top1_low:.0f}-{100 * system.top1_high:.0f}",
            f"{system.top5:.1%}",
            f"{system.mean_class:.1%}",
            f"{system.parameters / 1e6:.2f}M",
            gmac(system.gmac),
        )
    console.print(
        f"{evaluation.title}: {evaluation.classes} classes, {evaluation.videos} {evaluation.split} videos, "
        f"{evaluation.clips_per_video} clip(s) each, mean of {evaluation.fusion}, chance {evaluation.chance:.1%}",
        style="bold",
    )
    console.print(table, crop=False)
    for note in evaluation.notes:
        console.print(f"note: {note}")
    console.print(
        "note: class: mean of the classes' top-1; GMAC: of the networks, for one clip, without computing flow",
    )
    console.print(f"wrote {path}")
