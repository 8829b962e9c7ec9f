"""Results over several runs: seeds, shapes, INT8 and repeated timings are summed up as they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from benchmarks import int8, repeats, seeds, shapes
from d3d_edge import recipe
from d3d_edge.evaluation import Evaluation, System
from d3d_edge.manifest import Clip, Manifest
from d3d_edge.pipeline.data import RunData
from d3d_edge.recipe import Recipe
from d3d_edge.runs import Run
from tests.unit.harness.test_comparison import report, row, samples


def test_seeds_sums_up_each_system() -> None:
    def evaluation(*top1: float) -> Evaluation:
        systems = tuple(
            System(
                name=name,
                streams=(name,),
                inputs=("RGB",),
                parameters=1,
                gmac=1.0,
                right=round(10 * share),
                top1=share,
                top1_low=0.0,
                top1_high=1.0,
                top5=1.0,
                mean_class=share,
            )
            for name, share in zip(("spatial", "D3D"), top1, strict=True)
        )
        return Evaluation.model_construct(systems=systems)

    rows = seeds.summary([evaluation(0.2, 0.8), evaluation(0.4, 0.9), evaluation(0.6, 1.0)])
    assert [row["system"] for row in rows] == ["spatial", "D3D"]
    assert [row["mean"] for row in rows] == pytest.approx([0.4, 0.9])
    assert [row["sd"] for row in rows] == pytest.approx([0.2, 0.1])
    assert rows[1]["top1"] == [0.8, 0.9, 1.0]


def test_repeats_counts_the_verdicts_of_every_pair() -> None:
    found = repeats.verdicts([report(row(taken=samples(seed, p50_ms))) for seed, p50_ms in enumerate((2.0, 2.0, 3.0))])
    assert found["android"]["verdicts"] == {"within noise": 2, "slower": 2, "faster": 2}
    assert found["android"]["marked as busy"] == 0


def seed_of(**changes: float) -> int8.Seed:
    """A run with 4 clips a split, all named rightly by the float student; a model is off by a number in one logit."""
    labels = np.array([0, 1, 2, 0])
    logits = np.eye(3, dtype=np.float32)[labels]
    seed = int8.Seed(cast(Run, None), cast(RunData, None), dict.fromkeys(int8.SPLITS, labels))
    for name, change in {"float student": 0.0, **changes}.items():
        off = logits.copy()
        off[0, 1] += change
        seed.models[name] = int8.Answered(name, "here", {"val": logits + change / 100, "test": off})
    return seed


def test_int8_compares_each_model_with_the_float_student_clip_by_clip() -> None:
    seeds_ = [seed_of(quantized=0.5), seed_of(quantized=2.0)]
    row = int8.row(seeds_, "quantized")
    assert row["test"]["top1"] == [1.0, 0.75]
    assert row["test"]["mean"] == pytest.approx(0.875)
    assert row["test"]["difference_points"] == pytest.approx(-12.5)
    assert row["test"]["difference_points_low"] < -12.5 < row["test"]["difference_points_high"] <= 0
    assert row["val_and_test"]["difference_points"] == pytest.approx(-6.25)
    assert int8.row(seeds_, "float student")["test"]["difference_points_low"] == 0.0


def test_int8_bootstraps_clips_and_not_runs() -> None:
    # One clip is lost in every run: as uncertain as one run would be.
    difference = np.zeros((5, 10))
    difference[:, 0] = -1
    assert int8.interval(difference) == int8.interval(difference[:1])


def test_int8_chooses_the_plan_that_is_nearest_on_the_val_split() -> None:
    changes = {"ptq near": 0.1, "ptq far": 5.0}
    assert int8.best_plan([seed_of(**changes)], ["far", "near"]) == "near"


def test_int8_tells_how_far_the_forms_of_a_graph_are_apart() -> None:
    forms = {f"{kind} {form}": 0.0 for kind in int8.BOUNDS for form in ("graph", *int8.TARGETS)}
    seeds_ = [seed_of(**forms | {"qat ios": 2.0})]
    assert not any(pair["logit_difference_max"] for pair in int8.pairs(seeds_, "ptq"))
    found = int8.pairs(seeds_, "qat")
    assert len(found) == 6
    apart = [pair for pair in found if pair["logit_difference_max"] > 0]
    assert {pair["one"] for pair in apart} | {pair["other"] for pair in apart} == set(list(forms)[4:])
    assert {pair["agreement"] for pair in apart} == {7 / 8}
    assert {pair["logit_difference_max"] for pair in apart} == {2.0}


@pytest.mark.parametrize("shape", shapes.SHAPES, ids=str)
def test_a_shape_is_what_is_trained(shape: shapes.Shape) -> None:
    loaded = recipe.load("gestures", shapes.settings(shape, 3))
    assert (loaded.seed, loaded.clip.shape) == (3, (shape.frames, shape.side, shape.side, 3))
    for part in (loaded.teacher.network, loaded.student.network):
        assert {name: part.model_dump()[name] for name in shape.network} == shape.network
    assert not loaded.baselines


def test_shapes_names_those_that_none_beats(tmp_path: Path) -> None:
    """A, B and C are timed and trained: B is slower than A and no better; D is not trained yet."""
    rows = [
        {"shape": name, "parameters": 1, "gmac": 1.0, "teacher": {0: 0.8}, "int8": {}, "top1": top1}
        | {"times": {f"threads_{number}": {"latency_ms_p50": ms} for number in shapes.THREADS}}
        for name, ms, top1 in (("A", 1.0, {0: 0.5, 1: 0.7}), ("B", 2.0, {0: 0.6}), ("C", 3.0, {0: 0.9}), ("D", 1.0, {}))
    ]
    assert shapes.front(rows) == {"A", "C"}
    lines = shapes.table(rows)[2:]
    assert lines[0] == "| **A** | 1.00 | 1.00 | 0.00 | 1.00 | 0.800 | 0.500 0.700 | - | 0.600 |"
    assert sum("**" in line for line in lines) == 2


def test_a_clip_that_a_shape_cannot_take_counts_as_wrong(tmp_path: Path, recipe_data: dict[str, Any]) -> None:
    """Of ten test clips, one is too short: 6 of the other 9 are right."""
    names = [(number, ("up", "down")[number % 2]) for number in range(10)]
    clips = tuple(Clip(path=f"{number}.mp4", label=label, split="test", group="A") for number, label in names)
    clips += tuple(Clip(path=f"{label}.mp4", label=label, split="train", group="B") for label in ("up", "down"))
    for seed in (0, 11):
        run = shapes.run_of(tmp_path, shapes.SHAPES[0], seed)
        Run.start(run, Recipe.model_validate(recipe_data), Manifest(clips=clips))
        Run.open(run).finish("student", "mark", top1=6 / 9, clips=9)
    shapes.run_of(tmp_path, shapes.SHAPES[0], 2).mkdir()
    assert shapes.top1(tmp_path, shapes.SHAPES[0], "student") == {0: 0.6, 11: 0.6}
