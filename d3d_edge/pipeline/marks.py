"""Fingerprints of the stages of `distill`: what decides a stage's weights. A stage of another one is another's."""

from __future__ import annotations

from typing import Any

from d3d_edge.distill.checkpoint import Checkpoint
from d3d_edge.errors import DataError
from d3d_edge.pipeline import weights
from d3d_edge.pipeline.data import RunData
from d3d_edge.runs import Run, Stage, fingerprint


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


def finish(run: Run, stage: Stage, mark: str, **results: Any) -> None:
    """Mark a trained stage finished, with the hash of the weights that it ends with."""
    kept = Checkpoint.kept(run.folder(stage))
    assert kept is not None
    run.finish(stage, mark, weights_hash=kept.weights_hash(), **results)


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
