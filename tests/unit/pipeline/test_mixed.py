"""What stays in float: the smallest number of groups, searched by halves, and what they cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from d3d_edge import calibset, recipe
from d3d_edge.errors import DataError, GateFailed, RecipeError
from d3d_edge.manifest import Clip, Manifest
from d3d_edge.pipeline import calibration, mixed
from d3d_edge.pipeline.calibration import Student
from d3d_edge.pipeline.kept import Kept
from d3d_edge.pipeline.mixed import HeldOut, fewest, most_in_float
from d3d_edge.progress import Silent
from d3d_edge.quantize import pt2e
from d3d_edge.quantize.groups import Group, Kind, kept_in_float
from d3d_edge.quantize.sensitivity import Switched
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


def test_points_are_lost_against_the_float_student() -> None:
    held_out = HeldOut("val", None, np.zeros(20, np.int64), float_right=17)  # type: ignore[arg-type]
    right, wrong = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    for named, points in ((14, 15), (17, 0), (19, -10)):
        assert held_out.drop_points(torch.cat([right] * named + [wrong] * (20 - named))) == points


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


class Told:
    """Held-out clips that lose the points they are told to, call by call; a told error is raised."""

    split = "val"
    labels = range(10)

    def __init__(self, *points: float | BaseException) -> None:
        self.points = iter(points)

    def clips(self) -> list[Tensor]:
        return [networks.clip()]

    def drop_points(self, logits: Tensor) -> float:
        said = next(self.points)
        if isinstance(said, BaseException):
            raise said
        return said

    def drop_of(self, module: nn.Module) -> float:
        return self.drop_points(networks.clip())


class Search:
    """`keep_float: auto` of the small network, whose held-out clips are told what it loses."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.said: list[str] = []
        self.asked: list[list[str]] = []
        self.monkeypatch, self.path = monkeypatch, folder / "measured.json"
        self.run: Any = SimpleNamespace(recipe=recipe.load("demo", ["gates.top1_drop_points_max=5"]))
        self.student = Student(self.run, 1, pt2e.capture(networks.small(), networks.clip()))
        monkeypatch.setattr(Student, "of", lambda run: self.student)
        monkeypatch.setattr(calibration, "sample", lambda run: networks.clip())
        for name in ("batched", "decoded"):
            monkeypatch.setattr(calibration, name, lambda *_: [networks.clip()])
        logits = Switched.logits

        def asked(switched: Switched, chosen: Iterable[Group], batches: Sequence[Tensor]) -> Tensor:
            chosen = tuple(chosen)
            self.asked.append([group.name for group in chosen])
            return logits(switched, chosen, batches)

        monkeypatch.setattr(Switched, "logits", asked)

    def note(self, message: str) -> None:
        self.said.append(message)

    def __call__(self, *points: float | BaseException, mark: str = "this") -> mixed.Mixed:
        self.asked.clear()
        self.monkeypatch.setattr(HeldOut, "of", lambda *_: Told(*points))
        progress: Any = SimpleNamespace(task=Silent().task, note=self.note)
        plan = calibset.load_plan("balanced")
        prepared = calibration.prepared(self.student, plan, qat=False)
        pt2e.calibrate(prepared, [networks.clip()])
        kept = Kept(self.path, mark, float)
        return mixed.automatic(self.run, None, plan, [], prepared, kept, progress)  # type: ignore[arg-type]


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Search:
    return Search(tmp_path, monkeypatch)


def test_a_graph_that_holds_the_gate_stays_int8(search: Search) -> None:
    found = search(5.0)
    assert (found.groups, found.held_out["drop_points"], found.program) == ((), 5.0, found.whole)


def test_a_search_that_was_interrupted_goes_on(search: Search) -> None:
    # All INT8, all float, 1 and 2 groups in float by halves, and the graphs made of 2 and of 3.
    with pytest.raises(KeyboardInterrupt):
        search(50.0, 0.0, 40.0, 0.0, 30.0, KeyboardInterrupt())
    groups = {name for names in search.asked if len(names) == 1 for name in names}
    assert len(groups) > 5, "each is rounded alone"
    found = search(50.0, 4.0)
    assert search.asked == [[]], "nothing is measured again but the float answers"
    assert (len(found.groups), found.held_out["drop_points"]) == (3, 4.0)
    again = search(50.0)
    assert (again.groups, again.held_out) == (found.groups, found.held_out)
    with pytest.raises(StopIteration):
        search(50.0, mark="another")


def test_weights_that_lose_too_much_in_float_are_told_before_the_search(search: Search) -> None:
    already = "the weights that were trained for INT8 lose 20.00 in float already"
    with pytest.raises(GateFailed, match=f"no mix of INT8 and float .* at most 5.0 points .*: {already}") as caught:
        search(50.0, 20.0, *[50.0] * 99)
    assert "lower learning_rate in quantize.qat.train" in str(caught.value.hint)
    assert search.said[1] == f"keep_float: {already}"


@pytest.mark.parametrize(("in_float", "error"), [(20.0, GateFailed), (5.0, DataError)])
def test_weights_whose_ranges_fit_no_scale_are_blamed_where_they_lose_in_float(
    in_float: float, error: type[Exception], search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = Mock(side_effect=DataError("what is quantized reaches 2e+07", hint="train again"))
    monkeypatch.setattr(mixed, "Switched", wide)
    with pytest.raises(error, match="what is quantized reaches 2e") as caught:
        search(50.0, in_float)
    assert ("quantize.qat.train" in str(caught.value.hint)) is (error is GateFailed)  # type: ignore[attr-defined]


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
