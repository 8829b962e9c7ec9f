"""Quantization-aware training of a run's student: the training loop, given a prepared graph. Writes no INT8 graph."""

from __future__ import annotations

from collections.abc import Sequence

from torch.fx import GraphModule

from d3d_edge.calibset import CalibrationPlan
from d3d_edge.distill import loop, loss
from d3d_edge.distill.job import Job, Teacher
from d3d_edge.distill.loss import Outputs, Taught
from d3d_edge.pipeline import calibration
from d3d_edge.pipeline.calibration import Student
from d3d_edge.pipeline.data import RunData, batch_size, epochs
from d3d_edge.pipeline.streams import channels_last, load_rgb, rgb_stream, teacher_of, top1
from d3d_edge.progress import Progress
from d3d_edge.quantize import pt2e
from d3d_edge.quantize.scheme import FOLLOWING
from d3d_edge.recipe import QATSpec
from d3d_edge.runs import Run, fingerprint
from d3d_edge.video.cache import CachedClip
from d3d_edge.video.datasets import Batch


def trained(
    run: Run,
    data: RunData,
    spec: QATSpec,
    plan: CalibrationPlan,
    drawn: Sequence[CachedClip],
    mark: str,
    progress: Progress,
    *,
    keep_float: Sequence[str] = (),
) -> GraphModule:
    """The student after quantization-aware training, prepared for one clip. Leaves checkpoints in RUN/quantized."""
    training = data.dataset("train", training=True)
    held_out = data.dataset("val")
    size = batch_size(training, spec.train)
    title = "quantization-aware training"
    student = Student.of(run, clips=size)
    graph = calibration.prepared(student, plan, qat=True, keep_float=keep_float)
    follows = plan.observer in FOLLOWING
    batches = calibration.batched(drawn, data, size)
    # Whatever is shown gives weights their ranges, which are needed even if they are fixed from the start.
    pt2e.calibrate(graph, batches if follows else batches[:1])
    if not follows:
        ranges = calibration.calibrated(student, data, plan, drawn, progress, keep_float=keep_float)
        pt2e.adopt_ranges(graph, ranges)
    one = calibration.prepared(Student.of(run), plan, qat=True, keep_float=keep_float)

    def held_out_top1() -> float:
        pt2e.transfer(graph, one)
        return top1(calibration.one_by_one(one), held_out, title)

    def begin_epoch(epoch: int) -> None:
        pt2e.set_rounding(graph, epoch >= spec.start_epoch)
        if epoch >= spec.freeze_epoch:
            pt2e.freeze_observers(graph)

    job = Job(
        title=title,
        model=graph,
        forward=lambda batch: Outputs(graph(batch.clip.flatten(0, 1))),
        teacher=_taught(run, spec, progress),
        loss=loss.quantization_aware(run.recipe.distill, spec.distill, spec.train.label_smoothing),
        batches=epochs(training, size),
        batches_per_epoch=len(training) // size,
        spec=spec.train,
        seed=run.recipe.seed,
        set_training=lambda mode: pt2e.set_training(graph, mode and spec.dropout),
        evaluate=held_out_top1 if len(held_out) else None,
        begin_epoch=begin_epoch,
        capture=False,  # torchao asks on the device whether to round and to observe
    )
    # A checkpoint fits a graph of the same form only, and a later version may write the same network as another graph.
    loop.run(job, run.folder("quantized"), fingerprint(mark, pt2e.form(graph)), progress)
    pt2e.transfer(graph, one)
    return one


def _taught(run: Run, spec: QATSpec, progress: Progress) -> Teacher | None:
    """What the rounded student learns from; None for nothing but the labels."""
    sources, answers = spec.distill.sources, run.recipe.distill.uses_answers
    if "teacher" in sources and not answers:
        progress.note(
            "quantization-aware training learns nothing from the teacher, of which only features count here "
            "(quantize.qat.distill.from: student takes the float student's logits)"
        )
    teacher = teacher_of(run) if "teacher" in sources and answers else None
    student = rgb_stream(channels_last(load_rgb(run, "student"))) if "student" in sources else None
    if teacher is None and student is None:
        return None

    def taught(batch: Batch) -> Taught:
        return Taught(teacher(batch) if teacher else None, student(batch) if student else None)

    return taught
