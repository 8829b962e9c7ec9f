"""d3d-edge export."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from d3d_edge import target as targets
from d3d_edge.cli import options
from d3d_edge.cli.console import TerminalProgress
from d3d_edge.runs import Run


@click.command("export")
@click.argument("run", type=options.PATH)
@click.option(
    "--target",
    "names",
    multiple=True,
    required=True,
    metavar="NAME",
    help="jetson, android, ios, another of `d3d-edge targets ls`, or all (those of the recipe). May be repeated.",
)
@click.option("--out", required=True, type=options.PATH, metavar="DIR", help="Bundles are written to DIR/<target>.")
@click.option("--precision", type=click.Choice(["int8", "float32"]), default="int8", show_default=True)
@options.workers
def command(run: Path, names: tuple[str, ...], out: Path, precision: Literal["int8", "float32"], workers: int) -> None:
    """Lower the student of RUN to a bundle per target.

    Beside them go reference-float32 and reference-int8, the float student and the quantized graph, which `validate`
    compares the bundles with. They need not be shipped.

    \b
    d3d-edge export run --target android --out bundles
    d3d-edge export run --target all --out bundles
    """
    opened = Run.open(run)
    wanted = dict.fromkeys(n for name in names for n in (opened.recipe.export.targets if name == "all" else (name,)))
    for name in wanted:
        targets.load(name)
    from d3d_edge.pipeline.export import export

    bundles = export(opened, wanted, out, precision=precision, workers=workers, progress=TerminalProgress())
    shipped = " ".join(str(bundle.path) for bundle in bundles if not bundle.path.name.startswith("reference-"))
    click.echo(f"next: d3d-edge validate {shipped} --data DIR")
