"""d3d-edge report: read what was measured before. Measures nothing."""

from __future__ import annotations

import click


@click.group("report")
def command() -> None:
    """Compare and show reports that `validate` and `benchmark` left."""
