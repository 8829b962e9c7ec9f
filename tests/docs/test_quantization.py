"""docs/quantization.md: the recipe it shows can be read, and its plans are those that ship."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from d3d_edge import recipe, resources
from d3d_edge.recipe import QATSpec, QuantizeSpec

TEXT = (Path(__file__).parents[2] / "docs" / "quantization.md").read_text(encoding="utf-8")


def test_the_recipe_it_shows_is_one_and_says_what_the_shipped_one_does() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    shown: dict[str, Any] = yaml.safe_load(block)["quantize"]
    assert QuantizeSpec.model_validate(shown) == recipe.load("compact").quantize
    assert set(shown) == set(QuantizeSpec.model_fields)
    assert set(shown["qat"]) == set(QATSpec.model_fields)


def test_every_plan_that_ships_is_told() -> None:
    assert re.findall(r"^\| `(\w+)` \| `", TEXT, re.MULTILINE) == sorted(
        resources.names("calibration"), key=lambda name: TEXT.index(f"| `{name}` |")
    )
