"""d3d-edge sensitivity: what making each part of a run's student INT8 costs, alone. Changes no other stage."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from d3d_edge import calibset
from d3d_edge.files import check_writable, delete, write_json
from d3d_edge.harness import accuracy
from d3d_edge.harness.accuracy import Logits
from d3d_edge.pipeline import calibration, marks
from d3d_edge.pipeline.alone import at_work_alone
from d3d_edge.pipeline.calibration import Student
from d3d_edge.pipeline.data import RunData, prepare
from d3d_edge.pipeline.environment import environment
from d3d_edge.pipeline.kept import Kept
from d3d_edge.pipeline.sensitivity_figure import Bar, figure
from d3d_edge.progress import Progress
from d3d_edge.quantize.groups import Group
from d3d_edge.quantize.sensitivity import Switched
from d3d_edge.runs import Run, fingerprint
from d3d_edge.sensitivity import FIGURE_NAME, FILE_NAME, Cost, SensitivityReport
from d3d_edge.video.arrays import write_picture
from d3d_edge.video.cache import CachedClip

_PARTIAL = "partial.json"
_BATCH = 8
"""Clips the graph takes at a time."""
_FORMAT = 3
"""Raised when the same recipe would give other figures, so that what is finished is measured again."""


@at_work_alone
def sensitivity(
    run: Run, *, clips: int, cache_dir: Path, workers: int, strict: bool, progress: Progress
) -> SensitivityReport:
    """Measure each group of the student on `clips` clips of the calibration plan, and write json and png to `run`.

    Every group that is measured is kept, so that the same call goes on after an interruption.

    Raises:
        RecipeError: there is no such calibration plan.
        DataError: the student is not trained, or not by the recipe's clip, flow and networks; or the data cannot be
            used.
        StorageError: something cannot be written.
    """
    started = datetime.now(UTC)
    run.need("student")
    marks.refuse_changed(run, "student")
    marks.refuse_changed(run, "teacher")
    plan = calibset.load_plan(run.recipe.quantize.calibration)
    check_writable(run.path / FILE_NAME)
    data = prepare(run, cache_dir, workers=workers, strict=strict, progress=progress)
    marks.hold(run, "student", marks.student(run, data))
    drawn = calibration.drawn_clips(data, plan, progress)
    used = calibration.some(drawn, clips, plan)
    parts = [plan.model_dump(mode="json"), run.recipe.quantize.scheme, len(used)]
    mark = fingerprint("sensitivity", _FORMAT, marks.trained(run, "student"), *parts)
    done = run.results("sensitivity", mark)
    if done is None:
        student = Student.of(run, clips=min(_BATCH, len(drawn)))
        switched = Switched(calibration.calibrated(student, data, plan, drawn, progress))
        costs = _measured(run, switched, _Clips(data, used, student.clips), mark, progress)
        done = {"environment": environment(started, ()).model_dump(mode="json"), **costs}
        run.finish("sensitivity", mark, **done)
        delete(run.folder("sensitivity") / _PARTIAL)
    else:
        progress.note(f"sensitivity: finished before -> {run.path / FILE_NAME}")
    report = SensitivityReport(
        title=run.recipe.name,
        scheme=run.recipe.quantize.scheme,
        calibration=plan.name,
        clips=len(used),
        **{key: value for key, value in done.items() if key != "fingerprint"},
    )
    write_json(run.path / FILE_NAME, report.model_dump(mode="json"))
    write_picture(run.path / FIGURE_NAME, _figure(report))
    return report


class _Clips:
    """The clips to measure on, and what the float network says of them."""

    def __init__(self, data: RunData, used: Sequence[CachedClip], batch: int) -> None:
        self.batches: list[Tensor] = calibration.batched(used, data, batch)
        self.count = len(used)
        self.labels = np.array([data.labels.index(cached.clip.label) for cached in used], dtype=np.int64)

    def logits(self, switched: Switched, rounded: Sequence[Group]) -> Logits:
        """Logits float32 [clips, classes] with the groups `rounded` in INT8."""
        answers = switched.logits(rounded, self.batches)[: self.count].numpy()
        return accuracy.finite(answers, "the student, in part in INT8," if rounded else "the student")


def _measured(run: Run, switched: Switched, clips: _Clips, mark: str, progress: Progress) -> dict[str, Any]:
    """Every cost, from those that were measured before an interruption on."""
    reference = clips.logits(switched, ())
    right = accuracy.right(reference, clips.labels)
    groups = switched.groups
    wanted: dict[str, tuple[str, str, list[Group]]] = {"all": ("everything", "all", list(groups))}
    for each in dict.fromkeys(group.kind for group in groups):
        wanted[f"kind {each}"] = (each, each, [group for group in groups if group.kind == each])
    wanted |= {f"group {group.name}": (group.name, group.kind, [group]) for group in groups}
    kept = Kept(run.folder("sensitivity") / _PARTIAL, mark, Cost)

    def cost(key: str) -> Cost:
        name, kind, rounded = wanted[key]
        logits = clips.logits(switched, rounded)
        return Cost.model_validate(
            {
                "name": name,
                "kind": kind,
                "sqnr_db": round(accuracy.sqnr_db(logits, reference), 3),
                "changed": 1 - accuracy.agreement(logits, reference),
                "top1_drop_points": 100 * (right - accuracy.right(logits, clips.labels)) / len(clips.labels),
                "weights": sum(switched.weights(group) for group in rounded),
            }
        )

    with progress.task("sensitivity", len(wanted), len(kept.found)) as task:
        # In the order in which they are rounded, so that the float graph before them is computed once for all.
        rest = [key for key in wanted if key not in kept.found]
        for key in sorted(rest, key=lambda key: switched.first(wanted[key][2])):
            found = kept.of(key, partial(cost, key))
            task.advance(1, f"{found.name} {found.sqnr_db:.1f} dB")

    def worst_first(prefix: str) -> list[dict[str, Any]]:
        costs = [kept.found[key] for key in wanted if key.startswith(prefix)]
        return [cost.model_dump() for cost in sorted(costs, key=lambda cost: cost.sqnr_db)]

    return {
        "float_top1": right / len(clips.labels),
        "whole": kept.found["all"].model_dump(),
        "kinds": worst_first("kind "),
        "groups": worst_first("group "),
    }


def ranked(switched: Switched, batches: Sequence[Tensor], kept: Kept[float], progress: Progress) -> list[Group]:
    """The groups, the one whose rounding alone changes the logits most first; `kept` has the dB of each."""
    reference = switched.logits((), batches).numpy()

    def nearness(group: Group) -> float:
        rounded = partial(switched.logits, [group], batches)
        return kept.of(f"group {group.name}", lambda: accuracy.sqnr_db(rounded().numpy(), reference))

    with progress.task("sensitivity", len(switched.groups)) as task:
        for group in sorted(switched.groups, key=lambda group: switched.first([group])):
            task.advance(1, f"{group.name} {nearness(group):.1f} dB")
    return sorted(switched.groups, key=nearness)


def _figure(report: SensitivityReport) -> NDArray[np.uint8]:
    title = (
        f"{report.title}: SQNR of the logits with each part alone in INT8, {report.clips} clips, "
        f"plan {report.calibration}; the shorter the worse"
    )
    bars = [Bar(cost.name, cost.kind, cost.sqnr_db) for cost in report.groups]
    return figure(title, bars, whole_db=report.whole.sqnr_db)
