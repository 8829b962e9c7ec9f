"""d3d-edge quantize: the student of a run made INT8, by calibration and quantization-aware training."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from d3d_edge import calibset
from d3d_edge.calibset import CalibrationPlan, CalibrationSet
from d3d_edge.distill import log, loop, loss
from d3d_edge.distill.loop import Job
from d3d_edge.distill.loss import Outputs
from d3d_edge.files import sha256_of_file, write_json
from d3d_edge.harness import accuracy
from d3d_edge.models.recogniser import Recogniser
from d3d_edge.pipeline.data import RunData, batch_size, prepare
from d3d_edge.pipeline.distill import GRAPH_NAME, student_mark, trained_row
from d3d_edge.pipeline.environment import environment
from d3d_edge.pipeline.streams import Stream, evaluate, load_rgb, teacher_of, top1
from d3d_edge.progress import Progress
from d3d_edge.quantize import pt2e
from d3d_edge.recipe import TrainSpec
from d3d_edge.report import Report
from d3d_edge.runs import Run, fingerprint
from d3d_edge.video.cache import CachedClip

OBSERVING_SHARE = 0.5
"""Share of quantization-aware training in which ranges still follow the activations; then they are fixed, so that the
weights settle on the grid that ships (Krishnamoorthi, arXiv 1806.08342, section 3.2)."""


def quantize(run: Run, *, cache_dir: Path, workers: int, strict: bool, progress: Progress) -> Report:
    """Write the INT8 graph of a run's student to RUN/quantized/graph.pt2; a finished one is kept.

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
        "quantized", student_mark(run, data), plan.model_dump(mode="json"), run.recipe.quantize.model_dump(mode="json")
    )
    done = run.results("quantized", mark)
    if done is None:
        done = _quantize(run, data, plan, mark, progress)
        progress.note(f"quantized: top-1 {done['top1']:.3f} on {done['clips']} test clips -> {run.folder('quantized')}")
    else:
        progress.note(f"quantized: finished before, top-1 {done['top1']:.3f} -> {run.folder('quantized')}")
    rows = (
        trained_row("float student", "float", "float32", student),
        trained_row("quantized graph", "quantized", "int8", done),
    )
    return Report(
        title=run.recipe.name,
        classes=len(data.labels),
        split="test",
        chance=accuracy.chance(data.label_indices("test")),
        environment=environment(started, ()),
        rows=rows,
        skipped=run.skipped(),
    )


def _quantize(run: Run, data: RunData, plan: CalibrationPlan, mark: str, progress: Progress) -> dict[str, Any]:
    drawn = _calibration_set(run, data, plan)
    folder = run.folder("quantized")
    calibration = CalibrationSet(
        plan=plan, clip_hash=run.recipe.clip.hash(), clips=tuple(cached.video_sha256 for cached in drawn)
    )
    write_json(folder / "calibration.json", calibration.model_dump(mode="json"))
    sample = torch.zeros(run.recipe.clip.shape, dtype=torch.uint8)
    if run.recipe.quantize.qat is None:
        prepared = _prepared(run, data, plan, clips=1)
        with progress.task("calibration", len(drawn)) as task:
            for clip in _decoded(drawn, data):
                pt2e.calibrate(prepared, [clip])
                task.advance(1)
    else:
        prepared = _trained(run, data, plan, drawn, mark, progress)
    program = pt2e.convert(prepared, sample)
    pt2e.save(program, folder / GRAPH_NAME)
    logits, labels = evaluate(_one_by_one(program.module()), data.dataset("test"))
    done: dict[str, Any] = {
        "top1": accuracy.topk(logits, labels, 1),
        "top5": accuracy.topk(logits, labels, 5),
        "clips": len(labels),
        "calibration_hash": calibration.hash(),
        "graph_sha256": sha256_of_file(folder / GRAPH_NAME),
    }
    run.finish("quantized", mark, **done)
    return done


def _calibration_set(run: Run, data: RunData, plan: CalibrationPlan) -> list[CachedClip]:
    by_key = {cached.clip.key: cached for cached in data.clips}
    drawn = [by_key[clip.key] for clip in calibset.draw(plan, data.manifest)]
    calibset.refuse_overlap(
        [cached.video_sha256 for cached in drawn], [cached.video_sha256 for cached in data.of("test")]
    )
    return drawn


def _prepared(run: Run, data: RunData, plan: CalibrationPlan, *, clips: int) -> GraphModule:
    """The float student, prepared for `clips` clips at a time."""
    quantize = run.recipe.quantize
    net = load_rgb(run, "student").requires_grad_(True)
    frames, height, width, colours = run.recipe.clip.shape
    sample = torch.zeros((clips * frames, height, width, colours), dtype=torch.uint8)
    return pt2e.prepare(
        Recogniser(net, clips=clips),
        sample,
        scheme=quantize.scheme,
        observer=plan.observer,
        qat=quantize.qat is not None,
    )


def _trained(
    run: Run, data: RunData, plan: CalibrationPlan, drawn: Sequence[CachedClip], mark: str, progress: Progress
) -> GraphModule:
    """The student after quantization-aware training, distilling from the same teacher, prepared for one clip."""
    recipe = run.recipe
    if recipe.quantize.qat is None:
        raise ValueError("the recipe has no quantization-aware training")
    spec: TrainSpec = recipe.quantize.qat.train
    training = data.dataset("train", training=True)
    held_out = data.dataset("val")
    size = batch_size(training, spec)
    graph = _prepared(run, data, plan, clips=size)
    pt2e.calibrate(graph, _batched(drawn, data, size))
    one = _prepared(run, data, plan, clips=1)

    def held_out_top1() -> float:
        pt2e.transfer(graph, one)
        return top1(_one_by_one(one), held_out)

    def begin_epoch(epoch: int) -> None:
        if epoch >= OBSERVING_SHARE * spec.epochs:
            pt2e.freeze_observers(graph)

    job = Job(
        title="quantization-aware training",
        model=graph,
        forward=lambda batch: Outputs(graph(batch.clip.flatten(0, 1))),
        teacher=teacher_of(run),
        # A captured graph gives its logits only.
        loss=loss.distillation(recipe.distill.model_copy(update={"features_weight": 0.0}), spec.label_smoothing),
        batches=lambda epoch: training.batches(size, epoch=epoch, shuffle=True, drop_last=True, workers=1),
        batches_per_epoch=len(training) // size,
        spec=spec,
        seed=recipe.seed,
        set_training=lambda mode: pt2e.set_training(graph, mode),
        evaluate=held_out_top1 if len(held_out) else None,
        begin_epoch=begin_epoch,
    )
    loop.run(job, run.folder("quantized"), mark, progress)
    pt2e.transfer(graph, one)
    return one


def _decoded(clips: Sequence[CachedClip], data: RunData) -> list[Tensor]:
    """Calibration clips uint8 [T, H, W, C], centre-cropped as on the device."""
    chosen = {cached.clip.key for cached in clips}
    dataset = data.dataset("train")
    places = [place for place, cached in enumerate(dataset.clips) if cached.clip.key in chosen]
    return [torch.from_numpy(dataset.item(place)[0].copy()) for place in places]


def _batched(clips: Sequence[CachedClip], data: RunData, size: int) -> list[Tensor]:
    """Calibration clips as batches uint8 [size*T, H, W, C], the last one filled up with clips from the first."""
    decoded = _decoded(clips, data)
    while len(decoded) % size:
        decoded.append(decoded[len(decoded) % len(clips)])
    return [torch.cat(decoded[start : start + size]) for start in range(0, len(decoded), size)]


def _one_by_one(module: torch.nn.Module) -> Stream:
    """A graph captured for one clip, as a function of a batch."""
    return lambda batch: Outputs(torch.cat([module(clip) for clip in batch.clip]))
