"""Recipes that ship load, read back equal, and say in their header what they are for."""

from __future__ import annotations

from pathlib import Path

import pytest

from d3d_edge import recipe, resources


@pytest.mark.parametrize("name", resources.names("recipes"))
class TestShipped:
    def test_it_loads_under_the_name_of_its_file(self, name: str) -> None:
        assert recipe.load(name).name == name

    def test_the_resolved_recipe_reads_back_equal(self, name: str, tmp_path: Path) -> None:
        loaded = recipe.load(name)
        resolved = tmp_path / "recipe.yaml"
        resolved.write_text(loaded.yaml(), encoding="utf-8")
        assert recipe.load(str(resolved)) == loaded

    def test_its_header_says_purpose_needs_and_command(self, name: str) -> None:
        header = "".join(
            line for line in resources.find("recipes", name).read_text().splitlines() if line.startswith("#")
        )
        for word in ("Purpose:", "Needs:", "d3d-edge "):
            assert word in header
