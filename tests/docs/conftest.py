"""What the docs show is tried with what the command-line tests use."""

from tests.cli.conftest import cache, clips, d3d_edge, made, recipe_file, shared

__all__ = ["cache", "clips", "d3d_edge", "made", "recipe_file", "shared"]
