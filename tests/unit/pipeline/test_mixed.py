"""What stays in float: the smallest number of groups, searched by halves, and what they cost."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d3d_edge import recipe
from d3d_edge.errors import RecipeError
from d3d_edge.pipeline import mixed
from d3d_edge.pipeline.mixed import fewest, most_in_float
from d3d_edge.progress import Silent
from d3d_edge.quantize.groups import Group, Kind, kept_in_float
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


def test_a_target_that_is_not_found_from_here_costs_no_quantization() -> None:
    loaded = recipe.load("demo")
    export = loaded.export.model_copy(update={"targets": ("./watch",)})
    run = SimpleNamespace(recipe=loaded.model_copy(update={"export": export}))
    found = mixed.cost(run, networks.quantized(), networks.quantized(), Silent())  # type: ignore[arg-type]
    assert "not measured: no target named './watch'" in mixed.told(found)


def test_a_graph_that_cannot_be_lowered_costs_bytes_and_no_known_time() -> None:
    """All of a network in INT8 may be what cannot be lowered, and why some of it is to stay float."""
    pytest.importorskip("executorch")
    sizes = dict.fromkeys(("short_side", "height", "width"), networks.SIDE)
    size = [f"clip.{name}={value}" for name, value in ({"frames": networks.FRAMES} | sizes).items()]
    run = SimpleNamespace(recipe=recipe.load("demo", size))
    whole = networks.with_bias("temporal.spatial.conv", -1e7)
    found = mixed.cost(run, whole, whole, Silent())  # type: ignore[arg-type]
    assert found["weights_bytes"] == found["int8_weights_bytes"] > 0
    assert "not measured: one of the graphs cannot be lowered: the bias of channel 2" in mixed.told(found)
