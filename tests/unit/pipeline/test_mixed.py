"""What stays in float: the smallest number of groups, searched by halves, and what they cost."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d3d_edge import recipe
from d3d_edge.errors import RecipeError
from d3d_edge.manifest import Clip, Manifest
from d3d_edge.pipeline import mixed
from d3d_edge.pipeline.mixed import fewest, most_in_float
from d3d_edge.progress import Silent
from d3d_edge.quantize import pt2e
from d3d_edge.quantize.groups import Group, Kind, kept_in_float
from d3d_edge.recipe import Recipe
from d3d_edge.runs import Run
from tests import networks


@given(most=st.integers(1, 300), needed=st.integers(1, 400))
def test_the_fewest_are_found_with_few_trials(most: int, needed: int) -> None:
    tried: list[int] = []

    def holds(count: int) -> bool:
        tried.append(count)
        return count >= needed

    assert fewest(most, holds) == (needed if needed <= most else None)
    assert len(tried) <= 2 * most.bit_length() + 1
    assert all(1 <= count <= most for count in tried)


@pytest.mark.parametrize(
    ("kinds", "most"),
    [
        (("stem", "pool", "head"), 2),
        (("stem", "head", "pool", "pool"), 1),
        (("head", "pool"), 0),
        (("pool", "head"), 1),
    ],
)
def test_something_that_is_no_pool_is_left_in_int8(kinds: tuple[Kind, ...], most: int) -> None:
    order = [Group(f"{place}", kind) for place, kind in enumerate(kinds)]
    assert most_in_float(order) == most
    kept_in_float(order, [group.name for group in order[:most]])
    with pytest.raises(RecipeError, match="leaves nothing in INT8"):
        kept_in_float(order, [group.name for group in order[: most + 1]])


def recipe_for(target: str) -> Recipe:
    loaded = recipe.load("demo")
    return loaded.model_copy(update={"export": loaded.export.model_copy(update={"targets": (target,)})})


def small_recipe() -> Recipe:
    """One whose clips the small network takes."""
    sizes = dict.fromkeys(("short_side", "height", "width"), networks.SIDE) | {"frames": networks.FRAMES}
    return recipe.load("demo", [f"clip.{name}={value}" for name, value in sizes.items()])


def test_a_target_that_is_not_found_from_here_costs_no_quantization() -> None:
    run = SimpleNamespace(recipe=recipe_for("./watch"))
    found = mixed.cost(run, networks.quantized(), networks.quantized(), Silent())  # type: ignore[arg-type]
    assert "not measured: no target named './watch'" in mixed.told(found)


def test_a_graph_that_cannot_be_lowered_costs_bytes_and_no_known_time() -> None:
    """All of a network in INT8 may be what cannot be lowered, and why some of it is to stay float."""
    pytest.importorskip("executorch")
    run = SimpleNamespace(recipe=small_recipe())
    whole = networks.with_bias("temporal.spatial.conv", -1e7)
    found = mixed.cost(run, whole, whole, Silent())  # type: ignore[arg-type]
    assert found["weights_bytes"] == found["int8_weights_bytes"] > 0
    assert "not measured: one of the graphs cannot be lowered: the bias of channel 2" in mixed.told(found)


def test_a_run_without_its_float_graph_costs_bytes_and_no_known_time(tmp_path: Path) -> None:
    pytest.importorskip("executorch")
    clip = Clip.model_validate({"path": "/0", "label": "a", "split": "train", "group": "0"})
    run = Run.start(tmp_path / "run", small_recipe(), Manifest(clips=(clip,)))
    found = mixed.cost(run, networks.quantized(), networks.quantized(), Silent())
    assert found["weights_bytes"] == found["int8_weights_bytes"] > 0
    assert "not measured: " in mixed.told(found)
    assert "student" in mixed.told(found)


def test_a_mix_takes_as_many_bytes_whether_its_weights_were_trained_for_int8_or_not() -> None:
    """Zero points are of another width, and count in neither."""
    trained = pt2e.convert(networks.prepared(qat=True), networks.clip())
    run = SimpleNamespace(recipe=recipe_for("./watch"))
    found = mixed.cost(run, trained, networks.quantized(), Silent())  # type: ignore[arg-type]
    assert found["weights_bytes"] == found["int8_weights_bytes"] > 0
