"""d3d-edge export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import click

from d3d_edge import target as targets
from d3d_edge.bundle import Bundle
from d3d_edge.cli import options
from d3d_edge.cli.console import TerminalProgress, plain
from d3d_edge.cli.tables import columns
from d3d_edge.files import in_shell
from d3d_edge.runs import Run


@click.command("export")
@click.argument("run", type=options.PATH)
@click.option(
    "--target",
    "names",
    multiple=True,
    required=True,
    metavar="NAME|FOLDER",
    help="jetson, android, ios, another of `d3d-edge targets ls`, a folder with a target.yaml of your own "
    "(docs/export.md), or all (those of the recipe). May be repeated.",
)
@click.option(
    "--out",
    required=True,
    type=options.PATH,
    metavar="DIR",
    help="Bundles are written to DIR/<target>, those of another precision than int8 to DIR/<target>-<precision>.",
)
@click.option(
    "--precision",
    type=click.Choice(get_args(targets.Precision)),
    default="int8",
    show_default=True,
    help="What it computes in; `d3d-edge targets show NAME` has those a target takes.",
)
@click.option(
    "--set", "settings", multiple=True, metavar="OPTION=VALUE", help="Change an option of the targets that have it."
)
@click.option(
    "--allow-fallback",
    is_flag=True,
    help="Write a file that is slow on the target, or does not run there, and note why, instead of refusing.",
)
@options.workers
def command(
    run: Path,
    names: tuple[str, ...],
    out: Path,
    precision: targets.Precision,
    settings: tuple[str, ...],
    allow_fallback: bool,
    workers: int,
) -> None:
    """Lower the student of RUN to a bundle per target.

    Beside them go reference-float32 and reference-int8, the float student and the quantized graph, which `validate`
    compares the bundles with. They need not be shipped.

    \b
    d3d-edge export run --target android --out bundles
    d3d-edge export run --target all --out bundles
    d3d-edge export run --target targets/watch --out bundles
    d3d-edge export run --target ios --precision weights-int8 --set minimum_deployment_target=iOS18 --out bundles
    """
    opened = Run.open(run)
    wanted = dict.fromkeys(n for name in names for n in (opened.recipe.export.targets if name == "all" else (name,)))
    found = targets.configured([targets.load(name) for name in wanted], settings)
    from d3d_edge.pipeline.export import export
    from d3d_edge.pipeline.references import REFERENCES

    bundles = export(
        opened,
        found,
        out,
        precision=precision,
        workers=workers,
        progress=TerminalProgress(),
        allow_fallback=allow_fallback,
    )
    _show(bundles)
    shipped = " ".join(in_shell(bundle.path) for bundle in bundles if bundle.path.name not in REFERENCES.values())
    click.echo(f"next: d3d-edge validate {shipped} --data DIR")


def _show(bundles: Sequence[Bundle]) -> None:
    table = columns(("bundle", "precision"), ("MB", "fallbacks"))
    for bundle in bundles:
        made = bundle.manifest
        table.add_row(
            bundle.path.name, made.precision, f"{bundle.model_size_bytes / 1e6:.2f}", str(len(made.fallbacks))
        )
    console = plain(soft_wrap=True)
    console.print(table, crop=False)
    for bundle in bundles:
        for text in bundle.manifest.fallbacks:
            console.print(f"fallback in {bundle.path.name}: {text}")
