"""d3d-edge targets: the device families that ship."""

from __future__ import annotations

import click

from d3d_edge import resources, target


@click.group("targets")
def command() -> None:
    """List and show targets: device families, and what each needs."""


@command.command("ls")
def list_targets() -> None:
    """Name and description of each target."""
    for name in resources.names("targets"):
        click.echo(f"{name:<10} {target.load(name).description}")


@command.command("show")
@click.argument("name")
def show(name: str) -> None:
    """What the target NAME runs, needs and cannot do."""
    found = target.load(name)
    click.echo(f"{found.name}: {found.description}")
    click.echo(
        f"runtime: {found.runtime}; quantization: {', '.join(found.schemes)}; precisions: {', '.join(found.precisions)}"
    )
    for key, value in found.options.items():
        click.echo(f"{key}: {value}")
    for title, lines in (("needs", found.needs), ("limits", found.limits)):
        click.echo(f"{title}:")
        for line in lines:
            click.echo(f"  - {line}")
