"""d3d-edge recipes: what ships, and whether your own is right."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click
import yaml

from d3d_edge import recipe, resources
from d3d_edge.cli import options
from d3d_edge.errors import RecipeError
from d3d_edge.files import write_text
from d3d_edge.schema import read_text, read_yaml


@click.group("recipes")
def command() -> None:
    """List, show, copy and check recipes.

    A recipe is one YAML file that decides what is trained and shipped. Start from one that ships:

    \b
    d3d-edge recipes cp compact mine.yaml
    d3d-edge recipes check mine.yaml
    """


@command.command("ls")
def list_recipes() -> None:
    """Name and purpose of each recipe that ships."""
    for name in resources.names("recipes"):
        click.echo(f"{name:<10} {recipe.load(name).description}")


@command.command("show")
@click.argument("name")
@click.option("--resolved", is_flag=True, help="With what it extends and all defaults filled in.")
def show(name: str, resolved: bool) -> None:
    """Print a recipe, by NAME or path."""
    text = recipe.load(name).yaml() if resolved else read_text(recipe.find(name))
    click.echo(text, nl=False)


@command.command("cp")
@click.argument("name")
@click.argument("file", type=options.PATH)
def copy(name: str, file: Path) -> None:
    """Copy the recipe NAME to FILE, to edit it. The copy is named after its file."""
    if file.exists():
        raise RecipeError(f"{file} exists already", hint="choose another name")
    path = recipe.find(name)
    text = read_text(path)
    named = _named(path, text, file.stem)
    write_text(file, named or text)
    click.echo(f"wrote {file}" if named else f"wrote {file}, whose name is as it was")


def _named(path: Path, text: str, name: str) -> str:
    """`text`, of the recipe at `path`, with this name; empty where that would change more of it."""
    scalar = yaml.safe_dump(name, allow_unicode=True, width=math.inf).split("\n")[0]
    try:
        settings, _ = read_yaml(path)  # first: it knows what takes others for ever to read
        root: Any = yaml.compose(text, yaml.SafeLoader)
        own = [value for key, value in root.value if key.value == "name"]
        start, end = (own[0].start_mark, own[0].end_mark) if own else 2 * (root.start_mark,)
        changed = scalar if own else f"name: {scalar}\n" + " " * start.column
        changed = text[: start.index] + changed + text[end.index :]
        return changed if yaml.safe_load(changed) == settings | {"name": name} else ""
    except (RecipeError, yaml.YAMLError, ValueError):
        return ""


@command.command("check")
@click.argument("file")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A setting to change before the check.")
def check(file: str, settings: tuple[str, ...]) -> None:
    """Check the recipe FILE. Exit code 2 if it holds a mistake, 8 if a file of weights cannot be read.

    All mistakes in its keys and values are shown at once, with their lines; then what does not fit together, one at a
    time. Its networks are held against the size of its clips, the published weights that it names, and the parts that
    are to stay float. Its calibration plan is read as well, and its targets are to take its scheme.
    """
    loaded = recipe.load(file, settings)
    from d3d_edge.pipeline import checks  # takes seconds: it brings PyTorch

    checks.check_scheme(loaded)
    checks.check(loaded)
    click.echo(f"{file}: recipe {loaded.name!r} is well-formed")
