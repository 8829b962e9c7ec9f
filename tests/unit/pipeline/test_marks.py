"""A stage knows which weights it was made of, and what was measured of weights that are gone goes with them."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from d3d_edge.distill.checkpoint import Checkpoint, discard
from d3d_edge.errors import DataError
from d3d_edge.evaluation import FILE_NAME, Evaluation, System
from d3d_edge.files import sha256_of_file
from d3d_edge.pipeline import marks, streams
from d3d_edge.pipeline.data import RunData
from d3d_edge.pipeline.export import Source
from d3d_edge.recipe import Recipe
from d3d_edge.runs import Run
from tests.unit.page.samples import ENVIRONMENT
from tests.unit.pipeline.conftest import Make

STAGES = ("teacher", "spatial", "student")


Finished = Callable[..., Run]


@pytest.fixture(scope="module")
def originals() -> dict[tuple[str, ...], Run]:
    """Runs that are finished already, by their settings: they are copied."""
    return {}


@pytest.fixture
def finished(
    make: Make, originals: dict[tuple[str, ...], Run], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Finished:
    """Makes a run whose stages were finished one after the other."""

    def finished(*settings: str) -> Run:
        if settings not in originals:
            run = make(*settings).run
            for stage in STAGES:
                checkpoint = Checkpoint.kept(run.folder(stage))
                assert checkpoint is not None
                discard(run.folder(stage))
                marks.begin(run, stage)
                checkpoint.write(run.folder(stage))
                marks.finish(run, stage, stage)
            folder = shutil.copytree(run.path, tmp_path_factory.mktemp("finished") / "run")
            originals[settings] = Run(folder, run.recipe, run.data)
        known = originals[settings]
        return Run(Path(shutil.copytree(known.path, tmp_path / "own")), known.recipe, known.data)

    return finished


def train_again(run: Run, stage: str) -> None:
    """Other weights of the same settings, as another processor may give."""
    kept = Checkpoint.kept(run.folder(stage))
    assert kept is not None
    next(iter(kept.model.values())).add_(1)
    discard(run.folder(stage))
    marks.begin(run, stage)
    kept.write(run.folder(stage))
    marks.finish(run, stage, stage)


@pytest.mark.parametrize(
    ("settings", "stage", "again", "refused"),
    [
        ((), "student", "teacher", True),
        ((), "student", "spatial", False),
        (("distill.teacher=two_stream",), "student", "spatial", True),
        (("distill.weight=0", "student.initialise=teacher"), "student", "teacher", True),
        ((), "spatial", "teacher", False),
        (("baselines={spatial: {initialise: teacher}}",), "spatial", "teacher", True),
        ((), "teacher", "student", False),
    ],
)
def test_a_stage_that_learnt_from_weights_that_are_gone_is_not_gone_on_with(
    settings: tuple[str, ...], stage: str, again: str, refused: bool, finished: Finished
) -> None:
    run = finished(*settings)
    marks.hold(run, stage, stage)
    train_again(run, again)
    if not refused:
        marks.hold(run, stage, stage)
        return
    with pytest.raises(DataError, match=f"{stage} was finished before {again} was trained again .*delete the folder"):
        marks.hold(run, stage, stage)
    train_again(run, stage)
    marks.hold(run, stage, stage)


def test_neither_is_one_that_was_begun(finished: Finished) -> None:
    run = finished()
    run.begin("student")
    marks.hold(run, "student", "student")
    marks.begin(run, "student")  # goes on
    train_again(run, "teacher")
    marks.begin(run, "student")  # does not forget
    with pytest.raises(DataError, match="student was begun before teacher was trained again"):
        marks.hold(run, "student", "student")


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        ({"clip": {"short_side": 48}}, STAGES),
        ({"flow": {"bound_px": 3.0}}, ("teacher",)),
        ({"teacher": {"network": {"padding": "symmetric"}}}, ("teacher",)),
        ({"student": {"network": {"padding": "symmetric"}}}, ("spatial", "student")),
        ({"gates": {"agreement_min": 0.5}, "quantize": {"scheme": "affine"}}, ()),
    ],
)
def test_no_network_is_shown_what_the_recipe_says_since(
    change: dict[str, Any], stages: tuple[str, ...], finished: Finished
) -> None:
    """Whoever changes the quantization in RUN/recipe.yaml may change more there."""
    run = finished()
    load = {stage: partial(streams.load_rgb, stage=stage) for stage in STAGES} | {"teacher": streams.load_teacher}
    for stage in STAGES:
        load[stage](run)
    changed = Run(run.path, changed_by(run.recipe, change), run.data)
    for stage in STAGES:
        if stage not in stages:
            load[stage](changed)
            continue
        with pytest.raises(
            DataError, match=rf"{stage} was finished before the recipe's clip, .*undo that in .*recipe.yaml"
        ):
            load[stage](changed)
    if "student" in stages:
        with pytest.raises(DataError, match="student was finished before the recipe's clip"):
            Source.of(changed, "float32")


def test_no_network_names_its_classes_by_names_it_was_not_trained_on(finished: Finished) -> None:
    """Their order is that of the names, so one that is renamed in data.csv would be the answer for another."""
    run = finished()
    first, *others = run.data.labels
    clips = (c.model_copy(update={"label": f"z{first}"}) if c.label == first else c for c in run.data.clips)
    renamed = Run(run.path, run.recipe, run.data.model_copy(update={"clips": tuple(clips)}))
    assert renamed.data.labels == (*others, f"z{first}")
    said = rf"teacher was trained on other classes than .*data.csv has: {first}, z{first}"
    with pytest.raises(DataError, match=said):
        streams.load_teacher(renamed)
    with pytest.raises(DataError, match="student was trained on other classes"):
        Source.of(renamed, "float32")
    fewer = tuple(clip for clip in run.data.clips if clip.label != first)
    with pytest.raises(DataError, match=rf"teacher was trained on other classes than .*data.csv has: {first} "):
        streams.load_teacher(Run(run.path, run.recipe, run.data.model_copy(update={"clips": fewer})))


def changed_by(recipe: Recipe, change: dict[str, Any]) -> Recipe:
    """`recipe` with some of its values changed, as by hand in its file."""

    def merged(old: Any, new: Any) -> Any:
        return (
            {**old, **{key: merged(old.get(key), value) for key, value in new.items()}}
            if isinstance(new, dict)
            else new
        )

    return Recipe.model_validate(merged(recipe.model_dump(by_alias=True), change))


def test_the_mark_of_a_stage_changes_with_what_decides_its_weights_and_nothing_else(make: Make) -> None:
    made = make()

    def of(run: Run, data: RunData) -> dict[str, str]:
        spatial = marks.baseline(run, data, "spatial")
        return {"teacher": marks.teacher(run, data), "spatial": spatial, "student": marks.student(run, data)}

    before = of(made.run, made.data)
    for change, stages in (
        ({"seed": 1}, STAGES),
        ({"augment": {"brightness": 0.05}}, STAGES),
        ({"flow": {"bound_px": 3.0}}, STAGES),
        ({"clip": {"short_side": 48}}, STAGES),
        ({"teacher": {"train": {"epochs": 99}}}, ("teacher", "student")),
        ({"student": {"train": {"epochs": 99}}}, ("spatial", "student")),
        ({"distill": {"weight": 0.125}}, ("student",)),
        ({"gates": {"agreement_min": 0.5}, "quantize": {"scheme": "affine"}}, ()),
    ):
        after = of(Run(made.run.path, changed_by(made.run.recipe, change), made.run.data), made.data)
        assert tuple(stage for stage in STAGES if after[stage] != before[stage]) == stages, change
    fewer = of(made.run, dataclasses.replace(made.data, clips=made.data.clips[1:]))
    assert all(fewer[stage] != before[stage] for stage in STAGES)


def test_a_stage_of_an_older_version_does_not_say_whose_weights_it_learnt_from(finished: Finished) -> None:
    run = finished()
    (run.folder("student") / "taught_by.json").unlink()
    train_again(run, "teacher")
    marks.hold(run, "student", "student")


@pytest.mark.parametrize("stage", STAGES)
def test_weights_are_part_of_what_is_made_from_them(stage: str, finished: Finished) -> None:
    run = finished()
    before = marks.trained(run, stage)
    marks.finish(run, stage, stage)
    assert marks.trained(run, stage) == before
    train_again(run, stage)
    assert marks.trained(run, stage) != before


@pytest.mark.parametrize("stage", STAGES)
def test_weights_that_a_stage_was_not_finished_with_are_not_taken_for_its_own(stage: str, finished: Finished) -> None:
    run = finished()
    checkpoint = Checkpoint.kept(run.folder(stage))
    assert checkpoint is not None
    marks.refuse_others(run, stage, checkpoint)
    next(iter(checkpoint.model.values())).add_(1)
    with pytest.raises(DataError, match=f"{stage} was finished with other weights than it holds now"):
        marks.refuse_others(run, stage, checkpoint)
    run.finish(stage, "a version that did not say")
    marks.refuse_others(run, stage, checkpoint)
    run.begin(stage)
    marks.refuse_others(run, stage, checkpoint)


def evaluate(run: Run, *stages: str) -> Path:
    """Figures of the networks of these stages."""
    figures = {"parameters": 1, "gmac": 1.0, "right": 1, "mean_class": 0.5}
    figures |= dict.fromkeys(("top1", "top1_low", "top1_high", "top5"), 0.5)
    system = System(name="a", streams=stages, inputs=("RGB",), **figures)
    fields = {"title": "a", "classes": 2, "split": "test", "videos": 2, "clips_per_video": 1, "fusion": "logits"}
    Evaluation(**fields, chance=0.5, environment=ENVIRONMENT, systems=(system,)).write(run.path / FILE_NAME)
    return run.path / FILE_NAME


@pytest.mark.parametrize(("stage", "kept"), [("teacher", False), ("student", False), ("spatial", True)])
def test_an_evaluation_of_weights_that_are_gone_goes_with_them(stage: str, kept: bool, finished: Finished) -> None:
    run = finished()
    path = evaluate(run, "student", "teacher")
    marks.finish(run, stage, stage)
    assert path.is_file() == kept


@pytest.mark.parametrize("stage", STAGES)
def test_so_does_the_sensitivity_of_a_student(stage: str, finished: Finished) -> None:
    run = finished()
    paths = [run.path / name for name in ("sensitivity.json", "sensitivity.png")]
    for path in paths:
        path.touch()
    marks.finish(run, stage, stage)
    assert [path.is_file() for path in paths] == 2 * [stage != "student"]


def test_so_does_the_report_of_the_training(finished: Finished) -> None:
    run = finished()
    (run.path / "report.json").touch()
    marks.finish(run, "teacher", "teacher")
    assert not (run.path / "report.json").exists()


def test_what_is_no_evaluation_stays(finished: Finished) -> None:
    run = finished()
    (run.path / FILE_NAME).write_text("mine")
    marks.finish(run, "student", "student")
    assert (run.path / FILE_NAME).read_text() == "mine"


def test_a_graph_is_a_stages_own_by_the_hash_it_was_finished_with(finished: Finished) -> None:
    run = finished()
    graph = run.folder("student") / marks.GRAPH_NAME
    assert not marks.has_own_graph(run, "student")
    torch.save(torch.zeros(2), graph)
    assert marks.has_own_graph(run, "student")  # stages of older versions do not say
    run.finish("student", "mark", graph_sha256=sha256_of_file(graph))
    assert marks.has_own_graph(run, "student")
    torch.save(torch.ones(2), graph)
    assert not marks.has_own_graph(run, "student")
