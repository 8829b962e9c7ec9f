"""d3d-edge quantize: the student of a run made INT8, by calibration and quantization-aware training."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from d3d_edge import calibset
from d3d_edge.calibset import CalibrationPlan, CalibrationSet
from d3d_edge.distill import log
from d3d_edge.files import sha256_of_file, write_json
from d3d_edge.harness import accuracy
from d3d_edge.pipeline import calibration, motion, qat
from d3d_edge.pipeline.data import RunData, prepare
from d3d_edge.pipeline.distill import GRAPH_NAME, student_mark, trained_row
from d3d_edge.pipeline.environment import environment
from d3d_edge.pipeline.streams import load_rgb, rgb_stream
from d3d_edge.progress import Progress
from d3d_edge.quantize import pt2e
from d3d_edge.report import FILE_NAME, Report
from d3d_edge.runs import Run, fingerprint

_FORMAT = 2
"""Raised when the same recipe would record other figures, so that a finished stage is made again."""


def quantize(run: Run, *, cache_dir: Path, workers: int, strict: bool, progress: Progress) -> Report:
    """Write the INT8 graph of a run's student to RUN/quantized/graph.pt2; a finished one is kept.

    RUN/quantized/report.json compares it with the float student on the test clips, also reversed and shuffled.

    Raises:
        RecipeError: there is no such calibration plan.
        DataError: the student is not trained, or a calibration clip is also in the test split.
        StorageError: the graph cannot be written.
    """
    started = datetime.now(UTC)
    command = f"d3d-edge distill ... --out {run.path}"
    student = run.need("student", command)
    run.need("teacher", command)
    log.note_what_is_missing(progress)
    data = prepare(run, cache_dir, workers=workers, strict=strict, progress=progress)
    plan = calibset.load_plan(run.recipe.quantize.calibration)
    mark = fingerprint(
        "quantized",
        _FORMAT,
        student_mark(run, data),
        plan.model_dump(mode="json"),
        run.recipe.quantize.model_dump(mode="json"),
    )
    done = run.results("quantized", mark)
    if done is None:
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
    drawn = calibration.drawn_clips(data, plan)
    folder = run.folder("quantized")
    record = CalibrationSet(
        plan=plan, clip_hash=run.recipe.clip.hash(), clips=tuple(cached.video_sha256 for cached in drawn)
    )
    write_json(folder / "calibration.json", record.model_dump(mode="json"))
    spec = run.recipe.quantize.qat
    if spec is None:
        prepared = calibration.calibrated(run, data, plan, drawn, progress)
    else:
        prepared = qat.trained(run, data, spec, plan, drawn, mark, progress)
    program = pt2e.convert(prepared, calibration.sample(run))
    pt2e.save(program, folder / GRAPH_NAME)
    streams = {"float": rgb_stream(load_rgb(run, "student")), "int8": calibration.one_by_one(program.module())}
    answers = motion.answers(streams, data, progress)
    done: dict[str, Any] = {
        **motion.figures(answers["int8"], data, answers["float"]),
        "float_student": motion.figures(answers["float"], data),
        "logit_step": pt2e.logit_step(program),
        "calibration_hash": record.hash(),
        "graph_sha256": sha256_of_file(folder / GRAPH_NAME),
    }
    run.finish("quantized", mark, **done)
    return done
