"""A preset is the lowest layer of a recipe: preset, extended recipe, recipe, --set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from d3d_edge import recipe
from d3d_edge.errors import RecipeError
from d3d_edge.presets import PRESETS, Shape

SIZES = ("frames", "short_side", "height", "width")


@pytest.fixture
def bare(recipe_data: dict[str, Any]) -> dict[str, Any]:
    """The least recipe, without anything that a preset says."""
    for name in SIZES:
        del recipe_data["clip"][name]
    recipe_data["teacher"]["network"] = {"bn_momentum": 0.1}
    del recipe_data["student"]["network"]
    return recipe_data


def write(path: Path, data: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_gives_clip_and_networks(name: str, bare: dict[str, Any], tmp_path: Path) -> None:
    preset = PRESETS[name]
    loaded = recipe.load(str(write(tmp_path / "mine.yaml", {"preset": name, **bare})))
    assert loaded.clip.shape == (preset.frames, preset.side, preset.side, 3)
    assert loaded.clip.short_side == preset.short_side
    for network in (loaded.teacher.network, loaded.student.network):
        assert (network.width, network.stem, network.temporal_from) == (
            preset.width,
            preset.stem,
            preset.temporal_from,
        )
    assert loaded.teacher.network.bn_momentum == 0.1


def test_the_resolved_recipe_needs_the_preset_no_more(bare: dict[str, Any], tmp_path: Path) -> None:
    loaded = recipe.load(str(write(tmp_path / "mine.yaml", {"preset": "nano", **bare})))
    (tmp_path / "resolved.yaml").write_text(loaded.yaml())
    assert "preset: nano" not in loaded.yaml()
    assert recipe.load(str(tmp_path / "resolved.yaml")) == loaded


def test_a_shape_says_which_of_its_stages_differ() -> None:
    plain, other = Shape.of(16, 56, 0.25), Shape.of(16, 56, 0.25, Mixed_5=0.5, Conv2d_1=1.0)
    assert str(plain) == "16x56x56 0.25 Conv2d_2c_3x3 conv3d_k3"
    assert str(other) == f"{plain} Conv2d_1=1,Mixed_5=0.5"
    assert "stage_widths" not in plain.network
    assert other.network["stage_widths"] == {"Conv2d_1": 1.0, "Mixed_5": 0.5}
    assert len({plain, other, Shape.of(16, 56, 0.25)}) == 2


def test_later_words_win(bare: dict[str, Any], tmp_path: Path) -> None:
    bare["clip"]["frames"] = 10
    bare["student"]["network"] = {"width": 0.4, "dropout": 0.3}
    write(tmp_path / "lower.yaml", {"preset": "small", **bare})
    over = {"extends": "lower", "student": {"network": {"dropout": 0.4}}}
    path = str(write(tmp_path / "over.yaml", over))
    loaded = recipe.load(path, ["clip.height=96"])
    assert (loaded.clip.frames, loaded.clip.height, loaded.clip.width) == (10, 96, PRESETS["small"].side)
    assert loaded.student.network.width == 0.4
    assert loaded.student.network.dropout == 0.4
    assert loaded.teacher.network.width == PRESETS["small"].width


@pytest.mark.parametrize(("where", "settings"), [({"preset": "base"}, []), ({}, ["preset=base"])], ids=["file", "set"])
def test_another_preset_takes_the_place_of_the_extended_recipes(
    where: dict[str, Any], settings: list[str], bare: dict[str, Any], tmp_path: Path
) -> None:
    write(tmp_path / "lower.yaml", {"preset": "small", **bare})
    loaded = recipe.load(str(write(tmp_path / "over.yaml", {"extends": "lower", **where})), settings)
    assert loaded.clip.height == PRESETS["base"].side
    assert loaded.student.network.width == PRESETS["base"].width


def test_the_compact_recipe_may_take_any_preset() -> None:
    assert recipe.load("compact").clip.height == PRESETS["medium"].side
    for name, preset in PRESETS.items():
        assert recipe.load("compact", [f"preset={name}"]).clip.height == preset.side


@pytest.mark.parametrize(
    ("preset", "message"),
    [
        (
            "smal",
            r"mine\.yaml: no preset named 'smal' \(did you mean 'small'\? known: nano, small, medium, base, paper\)",
        ),
        (["small"], r"no preset named \"\['small'\]\""),
        (3, "no preset named '3'"),
    ],
)
def test_an_unknown_preset_gets_the_near_miss(
    preset: object, message: str, bare: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe.load(str(write(tmp_path / "mine.yaml", {"preset": preset, **bare})))


@pytest.mark.parametrize("name", ["demo", "gestures"])
def test_a_recipe_with_a_size_of_its_own_follows_no_preset(name: str) -> None:
    assert recipe.load(name, ["preset=paper"]) == recipe.load(name)
