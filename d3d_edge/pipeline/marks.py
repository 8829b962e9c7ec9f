"""Fingerprints of what decides the weights of `distill`'s stages, and of the weights: a stage of others is not ours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from d3d_edge import evaluation, report, sensitivity
from d3d_edge.distill.checkpoint import Checkpoint
from d3d_edge.errors import DataError, listed
from d3d_edge.evaluation import Evaluation
from d3d_edge.files import delete, is_whole_archive, read_json, sha256_of_file, write_json
from d3d_edge.pipeline import weights
from d3d_edge.pipeline.data import RunData
from d3d_edge.pipeline.notes import NAMED
from d3d_edge.runs import Run, Stage, fingerprint
from d3d_edge.schema import Schema

GRAPH_NAME = "graph.pt2"
"""In the folders of the student and of the quantized one, beside their checkpoints: what `export` lowers."""
_TAUGHT_BY = "taught_by.json"
"""In a stage's folder: by the name of each stage that it learns from, `trained` of it."""


def _base(run: Run, data: RunData) -> str:
    """Hash of the decoded data and how training changes it."""
    recipe = run.recipe
    parts = [part.model_dump(mode="json") for part in (recipe.clip, recipe.flow, recipe.augment)]
    return fingerprint(data.content(), parts, recipe.seed)


def hold(run: Run, stage: Stage, mark: str) -> None:
    """Raises DataError if a stage was finished, or begun, with something else: it is neither thrown away nor gone on
    with. A disk that is away for now must not cost days of training."""
    if (done := run.results(stage)) is not None:
        state, found = "finished", done["fingerprint"]
    elif (begun := Checkpoint.read(run.folder(stage))) is not None:
        state, found = "begun", begun.fingerprint
    else:
        return
    if found != mark:
        raise DataError(
            f"{run.folder(stage)} was {state} with other clips or settings than there are "
            "now, or by another version of d3d-edge",
            hint="bring the clips back as they were, choose another --out, or delete the folder to train it again",
        )
    if others := [name for name, was in _taught_by(run, stage).items() if was != _trained(run, name, otherwise=was)]:
        raise DataError(
            f"{run.folder(stage)} was {state} before {' and '.join(others)} was trained again",
            hint="bring that back as it was, choose another --out, or delete the folder to train it again",
        )


def refuse_others(run: Run, stage: Stage, found: Checkpoint) -> None:
    """Raises DataError if a stage was finished, and measured, with other weights than those that were `found` in it."""
    done = run.results(stage) or {}
    # Stages of older versions do not say.
    if "weights_hash" in done and done["weights_hash"] != found.weights_hash():
        raise DataError(
            f"{run.folder(stage)} was finished with other weights than it holds now",
            hint="bring these back, or delete the folder to train it again",
        )


def has_own_graph(run: Run, stage: Stage) -> bool:
    """Whether the graph of a finished stage is whole, and the one that it was finished with."""
    path, done = run.folder(stage) / GRAPH_NAME, run.results(stage) or {}
    # Stages of older versions do not say.
    return is_whole_archive(path) and done.get("graph_sha256") in (None, sha256_of_file(path))


def refuse_changed(run: Run, stage: Stage) -> None:
    """Raises DataError if a stage was finished with another network, or other frames, than the recipe says now, or with
    other classes than the run has.

    Needs no clip, as `hold` does: it keeps a network from being shown what it was not trained on.
    """
    done, now = run.results(stage) or {}, _seen(run, stage)
    # Stages of older versions do not say.
    if done.get("seen", now) != now:
        raise DataError(
            f"{run.folder(stage)} was finished before the recipe's clip, flow or network was changed",
            hint=f"undo that in {run.path / 'recipe.yaml'}, or train a run of its own by the changed recipe",
        )
    labels = list(run.data.labels)
    if (trained_on := done.get("labels", labels)) != labels:
        others = sorted({*trained_on} ^ {*labels})
        raise DataError(
            f"{run.folder(stage)} was trained on other classes than {run.path / 'data.csv'} has: "
            + listed(others, NAMED),
            hint="give the classes their names back there",
        )


def _seen(run: Run, stage: Stage) -> str:
    """Hash of what a stage's network is, and is shown."""
    recipe = run.recipe
    parts: list[Schema] = [recipe.clip, recipe.student.network]
    if stage == "teacher":
        parts = [recipe.clip, recipe.flow, recipe.teacher.network]
    frames = recipe.baselines[stage].frames if stage in recipe.baselines else ""
    return fingerprint([part.model_dump(mode="json") for part in parts], frames)


def notes_on_tests(run: Run, stages: Iterable[Stage], data: RunData) -> tuple[str, ...]:
    """Whether the test clips are those that finished stages were measured on; stages of older versions do not say."""
    now = data.hash_of("test")
    if all((run.results(stage) or {}).get("tested", now) == now for stage in stages):
        return ()
    return ("the test clips are not those that d3d-edge distill measured: what it reports is of others",)


def begin(run: Run, stage: Stage) -> None:
    """Mark a stage unfinished, and write down whose weights it learns from, before its first epoch.

    Raises:
        StorageError: the run cannot be written.
    """
    run.begin(stage)
    taught_by = {name: trained(run, name) for name in _teachers(run, stage)}
    if taught_by and Checkpoint.read(run.folder(stage)) is None:
        write_json(run.folder(stage) / _TAUGHT_BY, taught_by)


def _taught_by(run: Run, stage: Stage) -> dict[str, str]:
    """What `begin` wrote down; nothing of stages of older versions."""
    try:
        found = read_json(run.folder(stage) / _TAUGHT_BY)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _trained(run: Run, stage: Stage, *, otherwise: str) -> str:
    return otherwise if run.results(stage) is None else trained(run, stage)


def finish(run: Run, stage: Stage, mark: str, **results: Any) -> None:
    """Mark a trained stage finished, with the hash of the weights that it ends with.

    What was measured of weights before these is deleted: the page would show it beside them.

    Raises:
        StorageError: the run cannot be written.
    """
    kept = Checkpoint.kept(run.folder(stage))
    assert kept is not None
    for path in _measured(run, stage):
        delete(path)
    known = {"weights_hash": kept.weights_hash(), "seen": _seen(run, stage), "labels": list(run.data.labels)}
    run.finish(stage, mark, **known, **results)


def _teachers(run: Run, stage: Stage) -> tuple[Stage, ...]:
    """The stages whose weights a stage begins with, or learns from."""
    if stage == "teacher":
        return ()
    distilled = stage == "student" and run.recipe.distill.uses_teacher
    spec = run.recipe.student if stage == "student" else run.recipe.baselines[stage]
    teacher = ("teacher",) if distilled or spec.initialise == "teacher" else ()
    return (*teacher, "spatial") if distilled and run.recipe.distill.teacher == "two_stream" else teacher


def _measured(run: Run, stage: Stage) -> Iterator[Path]:
    """The files of a run that hold figures of a stage's earlier weights. `distill` writes its report in the end."""
    yield run.path / report.FILE_NAME
    if stage == "student":
        yield from (run.path / name for name in (sensitivity.FILE_NAME, sensitivity.FIGURE_NAME))
    path = run.path / evaluation.FILE_NAME
    try:
        found = Evaluation.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if any(stage in system.streams for system in found.systems):
        yield path


def trained(run: Run, stage: Stage) -> str:
    """Hash of a finished stage's own weights, and of what decided them, for what is made from it: deleted and trained
    again it may have other weights, or come from other clips.

    Raises:
        DataError: it is not finished.
    """
    done = run.need(stage)
    # Stages of older versions do not say.
    mark = str(done["fingerprint"])
    return fingerprint(mark, done["weights_hash"]) if "weights_hash" in done else mark


def teacher(run: Run, data: RunData) -> str:
    """Hash of everything that decides the flow teacher's weights."""
    spec = run.recipe.teacher.model_dump(mode="json", exclude={"weights"})
    return fingerprint("teacher", _base(run, data), spec, *weights.mark(run, "teacher"))


def baseline(run: Run, data: RunData, name: str) -> str:
    """The same of a baseline's."""
    recipe = run.recipe
    spec = recipe.baselines[name]
    parts = [
        part.model_dump(mode="json") for part in (spec, recipe.student.network, spec.train or recipe.student.train)
    ]
    if spec.initialise == "teacher":
        return fingerprint("baseline", teacher(run, data), parts)
    return fingerprint("baseline", _base(run, data), parts, *weights.mark(run, "student"))


def student(run: Run, data: RunData) -> str:
    """The same of the student's weights."""
    recipe = run.recipe
    parts = [part.model_dump(mode="json", exclude={"weights"}) for part in (recipe.student, recipe.distill)]
    spatial = [baseline(run, data, "spatial")] if recipe.distill.teacher == "two_stream" else []
    return fingerprint("student", teacher(run, data), parts, *spatial, *weights.mark(run, "student"))
