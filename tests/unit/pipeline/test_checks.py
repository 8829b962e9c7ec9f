"""What a recipe asks of its networks is refused before any work where no network can do it."""

from __future__ import annotations

from pathlib import Path

import pytest

from d3d_edge import recipe, resources
from d3d_edge.errors import DataError, RecipeError
from d3d_edge.pipeline import checks
from d3d_edge.recipe import Recipe

SMALL = ("clip={frames: 8, short_side: 32, height: 32, width: 32}", "student.network.width=0.25")


def compact(*settings: str) -> Recipe:
    return recipe.load("compact", ["baselines={}", *SMALL, *settings])


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        (["teacher.train.batch_size=1"], r"teacher\.train\.batch_size is 1, .* 8x32x32"),
        (["student.train.batch_size=1"], r"student\.train\.batch_size is 1, .* 8x32x32"),
        (
            ["clip.frames=16", "student.train.batch_size=1", "baselines.still={frames: one}"],
            r"student\.train\.batch_size is 1, .* 1x32x32",
        ),
        (
            ["clip.frames=16", "baselines.still={frames: one, train: {epochs: 1, batch_size: 1, learning_rate: 1}}"],
            r"baselines\.still\.train\.batch_size is 1, .* 1x32x32",
        ),
    ],
    ids=["teacher", "student", "still, as the student", "still"],
)
def test_one_clip_at_a_time_of_which_one_position_is_left_is_refused(settings: list[str], where: str) -> None:
    with pytest.raises(RecipeError, match=rf"{where} .*a batch_size of 2 or more, or a larger clip"):
        checks.check(compact(*settings))


@pytest.mark.parametrize("settings", [["clip.frames=16"], ["clip={short_side: 64, width: 64}"]])
def test_one_clip_at_a_time_is_enough_of_a_larger_one(settings: list[str]) -> None:
    loaded = compact(*settings, "teacher.train.batch_size=1", "student.train.batch_size=1")
    checks.check(loaded)
    checks.check_batches(loaded, 1)


def test_so_few_clips_that_each_process_has_one_are_refused() -> None:
    checks.check_batches(compact(), 2)
    with pytest.raises(DataError, match=r"teacher: each process has one training clip.*start fewer"):
        checks.check_batches(compact(), 1)


def test_nothing_left_in_int8_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"keep_float leaves nothing in INT8 .*--precision float32"):
        checks.check(compact("quantize.keep_float=[stem, spatial, temporal, gate, join, head]"))


@pytest.mark.parametrize(
    ("targets", "hint"),
    [
        ("android, jetson, ios", r"set scheme: symmetric, or targets: \[android, ios\]"),
        ("jetson", r"set scheme: symmetric\)"),
        ("android, ios, host", None),
    ],
)
def test_a_scheme_that_a_target_does_not_take_is_refused(targets: str, hint: str | None) -> None:
    loaded = compact("quantize.scheme=affine", f"export.targets=[{targets}]")
    if hint is None:
        checks.check_scheme(loaded)
        return
    with pytest.raises(RecipeError, match=rf"jetson .* does not take quantize\.scheme: affine \({hint}"):
        checks.check_scheme(loaded)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("count: ", "coutn: "), r"plan\.yaml:\d+: unknown key 'coutn'; did you mean 'count'"),
        (("split: train", "split: test"), r"plan\.yaml:\d+: split: input should be 'train'"),
        (("split: train", "split: ["), r"plan\.yaml is not YAML"),
    ],
    ids=["a wrong key", "a wrong value", "not YAML"],
)
def test_a_calibration_plan_with_a_mistake_is_refused(change: tuple[str, str], message: str, tmp_path: Path) -> None:
    text = resources.find("calibration", "balanced").read_text(encoding="utf-8")
    plan = tmp_path / "plan.yaml"
    plan.write_text(text, encoding="utf-8")
    checks.check(compact(f"quantize.calibration={plan}"))
    plan.write_text(text.replace(*change), encoding="utf-8")
    with pytest.raises(RecipeError, match=message):
        checks.check(compact(f"quantize.calibration={plan}"))
