"""Calibration clips come from the training split, the classes taking turns, and the plan's seed decides."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from d3d_edge import resources
from d3d_edge.calibset import CalibrationPlan, CalibrationSet, draw, in_turns, load_plan, refuse_overlap
from d3d_edge.errors import DataError, RecipeError
from d3d_edge.manifest import Clip, Manifest


def plan(count: int = 6, per_class_max: int = 3, seed: int = 0) -> CalibrationPlan:
    return CalibrationPlan(
        name="p",
        description="d",
        split="train",
        count=count,
        per_class_max=per_class_max,
        seed=seed,
        observer="minmax",
    )


def manifest(**clips_of: int) -> Manifest:
    """Training clips of each class, and as many of the test split."""
    return Manifest(
        clips=tuple(
            Clip(path=f"/{split}/{label}/{n}.mp4", label=label, split=split, group=f"{split}{label}{n}")
            for split in ("train", "test")
            for label, count in clips_of.items()
            for n in range(count)
        )
    )


@pytest.mark.parametrize("name", resources.names("calibration"))
def test_a_shipped_plan_loads_under_the_name_of_its_file_and_by_path(name: str) -> None:
    assert load_plan(name).name == name
    assert load_plan(str(resources.find("calibration", name))) == load_plan(name)


def test_a_plan_that_is_not_there_or_wrong_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no calibration named 'balancd' .*did you mean 'balanced'"):
        load_plan("balancd")
    with pytest.raises(RecipeError, match="no calibration named 'xxx"):
        load_plan("x" * 300)
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(resources.find("calibration", "balanced").read_text().replace("split: train", "split: test"))
    with pytest.raises(RecipeError, match=r"wrong.yaml:\d+: split: input should be 'train'"):
        load_plan(str(wrong))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"observer": "percentile"}, "needs percentile"),
        ({"percentile": 99.9}, "no other takes it"),
        ({"observer": "percentile", "percentile": 50.0}, "greater than 50"),
        ({"observer": "percentile", "percentile": 100.1}, "less than or equal to 100"),
    ],
)
def test_a_percentile_belongs_to_the_observer_of_that_name(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CalibrationPlan.model_validate(plan().model_dump() | change)


def test_every_observer_has_a_plan_that_ships() -> None:
    plans = [load_plan(name) for name in resources.names("calibration")]
    observers = get_args(CalibrationPlan.model_fields["observer"].annotation)
    assert sorted(each.observer for each in plans) == sorted(observers)
    # They differ by the observer alone, so that what differs in accuracy is due to it.
    alike = {"name", "description", "observer", "percentile"}
    assert len({each.model_dump_json(exclude=alike) for each in plans}) == 1


@given(
    sizes=st.dictionaries(st.sampled_from("abcd"), st.integers(1, 9), min_size=1),
    count=st.integers(1, 30),
    cap=st.integers(1, 9),
    seed=st.integers(),
)
def test_a_draw_is_balanced_capped_and_from_the_training_split(
    sizes: dict[str, int], count: int, cap: int, seed: int
) -> None:
    drawn = draw(plan(count, cap, seed), manifest(**sizes))
    assert {clip.split for clip in drawn} == {"train"}
    assert len({clip.path for clip in drawn}) == len(drawn)
    assert len(drawn) == min(count, sum(min(size, cap) for size in sizes.values()))
    per_class = Counter(clip.label for clip in drawn)
    for label, size in sizes.items():
        assert per_class[label] <= min(size, cap)
        if per_class[label] < min(size, cap):
            assert max(per_class.values()) - per_class[label] <= 1, "the classes take turns"


@given(order=st.permutations(range(12)))
def test_a_draw_does_not_depend_on_the_order_of_the_manifest(order: list[int]) -> None:
    whole = manifest(a=3, b=3)
    shuffled = Manifest(clips=tuple(whole.clips[index] for index in order))
    assert draw(plan(), shuffled) == draw(plan(), whole)


def test_a_cap_beyond_every_class_asks_for_no_more_turns() -> None:
    assert len(draw(plan(count=10**9, per_class_max=10**9), manifest(a=9, b=3))) == 12


@pytest.mark.parametrize("seed", range(4))
def test_the_classes_take_turns_in_the_order_of_their_names_whatever_the_seed(seed: int) -> None:
    assert in_turns({"b": [3, 4], "a": [1], "c": [5]}, 9, seed) == (1, 3, 5, 4)


def test_the_seed_decides_which_of_many_classes_calibrate() -> None:
    many = manifest(**{f"c{number:03}": 2 for number in range(40)})
    shown = [{clip.label for clip in draw(plan(count=8, seed=seed), many)} for seed in range(4)]
    assert [len(labels) for labels in shown] == [8] * 4
    assert len(set(map(frozenset, shown))) == 4
    assert len(set().union(*shown)) > 16


@given(sizes=st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 4), min_size=1), few=st.integers(1, 9))
def test_a_few_of_a_draw_are_of_as_many_classes_as_can_be(sizes: dict[str, int], few: int) -> None:
    drawn = draw(plan(count=20, per_class_max=4), manifest(**sizes))
    of_class = {label: [clip for clip in drawn if clip.label == label] for label in sizes}
    some = in_turns(of_class, few, 0)
    assert len(some) == min(few, len(drawn))
    assert len({clip.label for clip in some}) == min(few, len(sizes))
    if len(sizes) <= few:
        assert some == drawn[:few]


def test_the_seed_decides() -> None:
    whole = manifest(a=9, b=9)
    assert draw(plan(), whole) == draw(plan(), whole)
    assert len({draw(plan(seed=seed), whole) for seed in range(8)}) > 1


def test_an_empty_training_split_is_refused() -> None:
    with pytest.raises(DataError, match="the training split is empty"):
        draw(plan(), Manifest(clips=(Clip(path="/a", label="a", split="test", group="a"),)))


@given(sizes=st.dictionaries(st.sampled_from("abc"), st.integers(1, 9), min_size=1), which=st.data())
def test_clips_that_evaluate_too_are_left_out_and_the_others_keep_their_order(
    sizes: dict[str, int], which: st.DataObject
) -> None:
    whole = manifest(**sizes)
    every = [clip.key for clip in draw(plan(count=99, per_class_max=99), whole)]
    copies = which.draw(st.sets(st.sampled_from(every), max_size=len(every) - 1))
    first, again = draw(plan(), whole), draw(plan(), whole, copies)
    assert not copies & {clip.key for clip in again}
    if not copies & {clip.key for clip in first}:
        assert again == first
    for label in sizes:
        of_label = [clip.key for clip in whole.clips if clip.label == label]
        assert [clip.key for clip in again if clip.label == label] == [
            key for key in every if key in of_label and key not in copies
        ][: sum(clip.label == label for clip in again)]


def test_a_training_split_that_evaluates_too_is_refused() -> None:
    whole = manifest(a=2, b=1)
    with pytest.raises(DataError, match="each training video is in the evaluation split too"):
        draw(plan(), whole, [clip.key for clip in whole.of("train")])


def test_no_video_both_calibrates_and_evaluates() -> None:
    refuse_overlap(["aa", "bb"], ["cc"])
    with pytest.raises(DataError, match=r"1 calibration clip\(s\) are also in the evaluation split, e.g. sha256 bb"):
        refuse_overlap(["aa", "bb"], ["bb", "cc"])


def test_the_hash_of_a_set_names_plan_preprocessing_and_clips_in_order() -> None:
    base = CalibrationSet(plan=plan(), clip_hash="c", clips=("aa", "bb"))
    others = [
        base.model_copy(update={"plan": plan(seed=1)}),
        base.model_copy(update={"clip_hash": "d"}),
        base.model_copy(update={"clips": ("bb", "aa")}),
    ]
    assert len({each.hash() for each in [base, *others]}) == 4
