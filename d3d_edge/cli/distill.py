"""d3d-edge distill."""

from __future__ import annotations

from pathlib import Path

import click

from d3d_edge import recipe as recipes
from d3d_edge.cli import options
from d3d_edge.cli.console import TerminalProgress
from d3d_edge.cli.tables import print_report
from d3d_edge.manifest import Source
from d3d_edge.report import FILE_NAME


@click.command("distill")
@click.argument("recipe")
@options.data
@click.option("--out", required=True, type=options.PATH, metavar="RUN", help="The run folder.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a setting, e.g. seed=1.")
@click.option("--resume", is_flag=True, help="Only go on with a run that exists; never begin a new one.")
@options.decoding
def command(
    recipe: str,
    data: Source,
    out: Path,
    settings: tuple[str, ...],
    resume: bool,
    cache_dir: Path,
    workers: int,
    strict: bool,
) -> None:
    """Train the flow teacher of RECIPE on DATA, and distil the RGB student from it.

    RECIPE is the name of one that ships (d3d-edge recipes ls) or a file. The same command goes on with a run that was
    interrupted, and keeps what is finished.

    \b
    d3d-edge distill compact --data clips/ --out run
    d3d-edge distill mine.yaml --data clips.csv --out run --set student.train.epochs=100
    d3d-edge distill compact --data ucfTrainTestlist/ --videos UCF-101/ --fold 1 --out run
    d3d-edge distill compact --data kinetics/annotations/ --videos kinetics/ --out run
    """
    loaded = recipes.load(recipe, settings)
    from d3d_edge.pipeline.distill import distill

    report = distill(
        loaded,
        data,
        out,
        cache_dir=cache_dir,
        workers=workers,
        strict=strict,
        resume=resume,
        progress=TerminalProgress(),
    )
    print_report(report, out / FILE_NAME)
    click.echo(f"next: d3d-edge quantize {out}")
