"""d3d-edge quantize: the student of a run made INT8, by calibration and quantization-aware training."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch.export import ExportedProgram

from d3d_edge import calibset
from d3d_edge.calibset import CalibrationPlan, CalibrationSet
from d3d_edge.distill import distributed, log
from d3d_edge.errors import RecipeError
from d3d_edge.files import delete, sha256_of_file, write_json
from d3d_edge.harness import accuracy
from d3d_edge.pipeline import calibration, checks, marks, mixed, motion, qat
from d3d_edge.pipeline.alone import at_work_alone
from d3d_edge.pipeline.calibration import Student
from d3d_edge.pipeline.data import RunData, prepare
from d3d_edge.pipeline.environment import environment
from d3d_edge.pipeline.kept import Kept
from d3d_edge.pipeline.rows import trained_row
from d3d_edge.pipeline.streams import load_rgb, rgb_stream
from d3d_edge.progress import Progress
from d3d_edge.quantize import graph_files, pt2e
from d3d_edge.quantize.running import module_of
from d3d_edge.report import FILE_NAME, Report
from d3d_edge.runs import Run, fingerprint
from d3d_edge.video.cache import CachedClip

_MEASURED = "measured.json"
"""In the folder of the stage until it is finished: what `keep_float: auto` has measured so far."""
_FORMAT = 4
"""Raised when the same recipe would record other figures, so that a finished stage is made again."""


@at_work_alone
def quantize(run: Run, *, cache_dir: Path, workers: int, strict: bool, progress: Progress) -> Report:
    """Write the INT8 graph of a run's student to RUN/quantized/graph.pt2; a finished one is kept.

    RUN/quantized/report.json compares it with the float student on the test clips, also reversed and shuffled.

    Raises:
        RecipeError: there is no such calibration plan, no such part of the student as keep_float names, or no such
            device as $D3D_EDGE_DEVICE names.
        DataError: the student is not trained, or not by the recipe's clip, flow and networks; or each training video
            is also in the test split.
        StorageError: the graph cannot be written.
    """
    started = datetime.now(UTC)
    student = run.need("student")
    run.need("teacher")
    # What is wrong with the recipe is told before any clip is decoded, and before a finished graph is given up.
    marks.refuse_changed(run, "student")
    marks.refuse_changed(run, "teacher")
    plan = calibset.load_plan(run.recipe.quantize.calibration)
    checks.check_keep_float(run.recipe)
    try:
        checks.check_scheme(run.recipe)
    except RecipeError as error:
        progress.note(f"note: {error}")  # the other targets take the graph
    log.note_what_is_missing(progress)
    distributed.device()
    data = prepare(run, cache_dir, workers=workers, strict=strict, progress=progress)
    # What it learns from may be gone for the moment only, and with it would go a finished graph.
    marks.hold(run, "student", marks.student(run, data))
    mark = fingerprint(
        "quantized",
        _FORMAT,
        marks.trained(run, "student"),
        plan.model_dump(mode="json"),
        run.quantize_hash,
    )
    done = run.results("quantized", mark)
    if done is None or not marks.has_own_graph(run, "quantized"):
        done = _quantize(run, data, plan, mark, progress)
        progress.note(f"quantized: top-1 {done['top1']:.3f} on {done['clips']} test clips -> {run.folder('quantized')}")
    else:
        progress.note(f"quantized: finished before, top-1 {done['top1']:.3f} -> {run.folder('quantized')}")
    rows = (
        trained_row("float student", "float", "float32", student | done["float_student"]),
        trained_row("quantized graph", "quantized", "int8", done),
    )
    report = Report(
        title=run.recipe.name,
        classes=len(data.labels),
        split="test",
        chance=accuracy.chance(data.label_indices("test")),
        environment=environment(started, ()),
        rows=rows,
        skipped=run.skipped(),
    )
    report.write(run.folder("quantized") / FILE_NAME)
    return report


def _quantize(run: Run, data: RunData, plan: CalibrationPlan, mark: str, progress: Progress) -> dict[str, Any]:
    drawn = calibration.drawn_clips(data, plan, progress)
    folder = run.folder("quantized")
    run.begin("quantized")
    record = CalibrationSet(
        plan=plan, clip_hash=run.recipe.clip.hash(), clips=tuple(cached.video_sha256 for cached in drawn)
    )
    write_json(folder / "calibration.json", record.model_dump(mode="json"))
    # First, since a student that gives no numbers has no ranges either.
    answers = motion.answers({"float student": rgb_stream(load_rgb(run, "student"))}, data, progress)
    program, mix = _program(run, data, plan, drawn, mark, progress)
    graph_files.save(program, folder / marks.GRAPH_NAME)
    answers |= motion.answers({"INT8 graph": calibration.one_by_one(module_of(program))}, data, progress)
    done: dict[str, Any] = {
        **motion.figures(answers["INT8 graph"], data, answers["float student"]),
        "float_student": motion.figures(answers["float student"], data),
        **mix,
        "logit_step": pt2e.logit_step(program),
        "calibration_hash": record.hash(),
        "recipe_hash": run.quantize_hash,
        "student": marks.trained(run, "student"),
        "graph_sha256": sha256_of_file(folder / marks.GRAPH_NAME),
    }
    run.finish("quantized", mark, **done)
    delete(folder / _MEASURED)
    return done


def _program(
    run: Run, data: RunData, plan: CalibrationPlan, drawn: Sequence[CachedClip], mark: str, progress: Progress
) -> tuple[ExportedProgram, dict[str, Any]]:
    """The INT8 graph, and which groups are float in it at what cost."""
    spec = run.recipe.quantize
    keep = spec.keep_float if isinstance(spec.keep_float, tuple) else ()
    if spec.qat is None:
        prepared = calibration.calibrated(Student.of(run), data, plan, drawn, progress, keep_float=keep)
    else:
        prepared = qat.trained(run, data, spec.qat, plan, drawn, mark, progress, keep_float=keep)
    facts: dict[str, Any] = {}
    if spec.keep_float == "auto":
        kept = Kept(run.folder("quantized") / _MEASURED, mark, float)
        made = mixed.automatic(run, data, plan, drawn, prepared, kept, progress)
        program, whole, keep, facts = made.program, made.whole, made.groups, {"held_out": made.held_out}
    else:
        program = pt2e.convert(prepared, calibration.sample(run))
        whole = program
        if keep:
            all_int8 = calibration.calibrated(Student.of(run), data, plan, drawn, progress, weights=prepared)
            whole = pt2e.convert(all_int8, calibration.sample(run))
    facts |= {"float_groups": list(keep), "float_convolutions": list(pt2e.float_convolutions(program))}
    if keep:
        facts["float_cost"] = mixed.cost(run, program, whole, progress)
        progress.note(f"in float: {', '.join(keep)}; {mixed.told(facts['float_cost'])}")
    return program, facts
