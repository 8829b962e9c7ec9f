"""d3d-edge models: the presets, and what a network costs before it is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
from rich.console import Console

from d3d_edge import recipe as recipes
from d3d_edge.cli import options
from d3d_edge.cli.tables import columns

if TYPE_CHECKING:
    from d3d_edge.pipeline.models import Model

KINETICS_CLASSES = 400
"""Classes of Kinetics-400, which published counts of parameters are of."""


@click.command("models")
@click.option("--recipe", metavar="RECIPE", help="Show the networks of this recipe, a name or a file, instead.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="With --recipe: a setting to change.")
@click.option(
    "--classes",
    type=click.IntRange(1),
    default=KINETICS_CLASSES,
    show_default=True,
    help="Classes of the classifier; those of your data decide in training.",
)
@options.as_json
def command(recipe: str | None, settings: tuple[str, ...], classes: int, as_json: bool) -> None:
    """List the presets, or show the networks of a recipe: how large, how much work, how much memory.

    A preset is a network and a clip size that go together. In a recipe, `preset: NAME` at the top sets both, and
    whatever else the recipe says wins over it. Nothing here is measured: the presets are not tuned yet by latency on a
    device.

    \b
    d3d-edge models
    d3d-edge models --recipe mine.yaml --classes 27
    d3d-edge models --recipe compact --set preset=base
    """
    if settings and recipe is None:
        raise click.UsageError("--set changes a recipe; name it with --recipe")
    loaded = recipes.load(recipe, settings) if recipe is not None else None
    from d3d_edge.pipeline import models

    found = models.of_presets(classes) if loaded is None else models.of_recipe(loaded, classes)
    if as_json:
        click.echo(found.model_dump_json(indent=2))
        return
    print_models(found.rows, classes)


def print_models(rows: Sequence[Model], classes: int) -> None:
    """Print a table that fits 80 columns, what each row is, and what the columns count."""
    table = columns(("model", "one clip"), ("params M", "GMAC", "act MB", "act int8 MB", "weights int8 MB"))
    for row in rows:
        sizes = (row.activation_float32_bytes, row.activation_int8_bytes, row.weights_int8_bytes)
        table.add_row(
            row.name,
            f"{row.input} {row.frames}x{row.height}x{row.width}",
            f"{row.parameters / 1e6:.2f}",
            f"{row.gmac:.2f}",
            *(f"{size / 1e6:.2f}" for size in sizes),
        )
    console = Console(soft_wrap=True)
    console.print(table)
    for row in rows:
        network = row.network
        what = f"width {network.width:g}, stem {network.stem}, temporal from {network.temporal_from}"
        console.print(f"{row.name}: {what}; {row.description}", markup=False, highlight=False)
    notes = (
        "",
        f"params and weights: with {classes} classes; GMAC: of one clip; weights: kernels, folded biases and scales",
        "act: the most memory that activations need at once, float32 and INT8, the clip included; batch norms and",
        "ReLUs belong to their convolutions; weights and a runtime's own buffers come on top",
        "all worked out, nothing measured on a device: d3d-edge benchmark times bundles",
    )
    for note in notes:
        console.print(note, markup=False, highlight=False)
