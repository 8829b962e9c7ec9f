"""d3d-edge demo."""

from __future__ import annotations

from pathlib import Path

import click

from d3d_edge.cli import options
from d3d_edge.cli.console import TerminalProgress
from d3d_edge.cli.validate import show
from d3d_edge.files import in_shell
from d3d_edge.processors import cpus
from d3d_edge.report import FILE_NAME


@click.command("demo")
@click.option(
    "--out", type=options.PATH, default=Path("demo"), show_default=True, metavar="DIR", help="Where all goes."
)
@options.as_json
def command(out: Path, as_json: bool) -> None:
    """The whole pipeline, in minutes, on clips that are rendered first.

    Ten classes of motion; texture, shape, size, place, background and speed are random, so that one frame says
    nothing about the class. Trains the flow teacher, distils the RGB student, quantizes it, exports for Android, iOS
    and Jetson, validates each bundle and prints one table. A second run reuses what is finished.
    """
    from d3d_edge.pipeline.demo import demo

    report = demo(out, workers=cpus(), progress=TerminalProgress())
    show(report, out / FILE_NAME, as_json=as_json)
    if not as_json:
        names = ("run", "bundles", "bundles/android", FILE_NAME, "clips", "report.html")
        run, bundles, android, measured, clips, page = (in_shell(f"{out}/{name}") for name in names)
        click.echo(f"try: d3d-edge report {run} {bundles} {measured} --data {clips} --html {page}")
        click.echo(f"try: d3d-edge predict {android} VIDEO, with a video below {clips}")
