"""d3d-edge distill: the flow teacher, then the RGB student that learns from it."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from d3d_edge import manifest
from d3d_edge.distill import loop, loss
from d3d_edge.distill.checkpoint import Checkpoint
from d3d_edge.distill.loop import Job
from d3d_edge.errors import DataError
from d3d_edge.harness import accuracy
from d3d_edge.manifest import Source
from d3d_edge.models.build import network
from d3d_edge.models.recogniser import OFFSET, SCALE, Recogniser
from d3d_edge.models.s3dg import S3DG
from d3d_edge.pipeline.data import RunData, batch_size, prepare
from d3d_edge.pipeline.environment import environment
from d3d_edge.progress import Progress
from d3d_edge.quantize import pt2e
from d3d_edge.recipe import NetworkSpec, Recipe, StillSpec, TrainSpec
from d3d_edge.report import FILE_NAME, Report, Role, Row
from d3d_edge.runner import Where
from d3d_edge.runs import Run, Stage, fingerprint
from d3d_edge.video.datasets import Batch, ClipDataset

EVALUATION_BATCH = 16
GRAPH_NAME = "graph.pt2"
_ROLE: dict[Stage, Role] = {"teacher": "teacher", "student": "float", "still": "still"}


def distill(
    recipe: Recipe,
    data: Path | Source,
    out: Path,
    *,
    cache_dir: Path,
    workers: int,
    strict: bool,
    resume: bool,
    progress: Progress,
) -> Report:
    """Train teacher and student of `recipe` on `data`, in the run folder `out`; finished stages are kept.

    Raises:
        RecipeError: `out` was begun with another recipe or other data.
        DataError: the data cannot be used; or `resume` is given and there is nothing to go on with.
        StorageError: the run or the cache cannot be written.
    """
    started = datetime.now(UTC)
    if resume and not (out / "recipe.yaml").is_file():
        raise DataError(f"{out} is not a run, so there is nothing to resume", hint="leave out --resume to begin")
    split = recipe.split
    clips = manifest.with_split(
        manifest.load(data), val_share=split.val_share, test_share=split.test_share, seed=split.seed
    )
    run = Run.start(out, recipe, clips)
    run_data = prepare(run, cache_dir, workers=workers, strict=strict, progress=progress)
    rows = [_teacher(run, run_data, progress), _student(run, run_data, progress)]
    if recipe.still:
        rows.append(_still(run, run_data, recipe.still, progress))
    report = Report(
        title=recipe.name,
        classes=len(run_data.labels),
        split="test",
        chance=accuracy.chance(run_data.label_indices("test")),
        environment=environment(started, ()),
        rows=tuple(rows),
        skipped=run.skipped(),
    )
    report.write(out / FILE_NAME)
    return report


def load_network(run: Run, stage: Stage, spec: NetworkSpec, *, in_channels: int) -> S3DG:
    """The trained network of a finished stage, frozen and in evaluation mode."""
    net = network(spec, len(run.data.labels), in_channels=in_channels)
    checkpoint = Checkpoint.read(run.folder(stage))
    if checkpoint is None:
        raise DataError(f"{run.folder(stage)} has no checkpoint", hint="d3d-edge distill trains it again")
    net.load_state_dict(checkpoint.model)
    return net.eval().requires_grad_(False)


def channels_last(net: S3DG) -> S3DG:
    """`net`, its weights in channels-last memory: faster to run here, but not to be lowered."""
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def teacher_logits(teacher: S3DG) -> Callable[[Batch], Tensor]:
    """The frozen teacher as a function of a batch: it sees the flow of the very clips the student sees."""
    return lambda batch: teacher(frames_of_flow(batch.flow), len(batch.flow))


def frames_of_flow(flow: Tensor) -> Tensor:
    """Flow float [B, T, H, W, 2] as frames [B*T, 2, H, W], in channels-last memory without a copy."""
    return flow.flatten(0, 1).permute(0, 3, 1, 2)


def frames_of_clip(clip: Tensor) -> Tensor:
    """Clips uint8 [B, T, H, W, 3] as frames [B*T, 3, H, W], normalised as the exported model does, channels-last."""
    return clip.flatten(0, 1).permute(0, 3, 1, 2).float().mul_(SCALE).add_(OFFSET)


def rgb_logits(net: S3DG) -> Callable[[Batch], Tensor]:
    """An RGB network as a function of a batch."""
    return lambda batch: net(frames_of_clip(batch.clip), len(batch.clip))


def _teacher(run: Run, data: RunData, progress: Progress) -> Row:
    spec = run.recipe.teacher
    torch.manual_seed(run.recipe.seed)
    net = network(spec.network, len(data.labels), in_channels=2)
    mark = _teacher_mark(run, data)
    job = _job(
        "teacher (flow)", net, teacher_logits(net), data, spec.train, loss.cross_entropy(spec.train.label_smoothing)
    )
    return _stage(run, "teacher", "flow teacher", job, data, mark, progress)


def _student(run: Run, data: RunData, progress: Progress) -> Row:
    recipe = run.recipe
    torch.manual_seed(recipe.seed + 1)
    net = network(recipe.student.network, len(data.labels), in_channels=3)
    teacher = channels_last(load_network(run, "teacher", recipe.teacher.network, in_channels=2))
    if recipe.student.initialise == "teacher":
        net.load_state_dict({k: v for k, v in teacher.state_dict().items() if not k.startswith("Conv2d_1a")}, False)
    train = recipe.student.train
    job = _job(
        "student (RGB)",
        net,
        rgb_logits(net),
        data,
        train,
        loss.d3d(recipe.distill, train.label_smoothing),
        teacher_logits(teacher) if recipe.distill.weight else None,
    )
    return _stage(run, "student", "D3D student", job, data, student_mark(run, data), progress)


def _write_graph(run: Run) -> None:
    """The student as one graph, uint8 [T, H, W, C] -> float32 [1, classes], next to its checkpoint."""
    net = load_network(run, "student", run.recipe.student.network, in_channels=3)
    program = pt2e.export_float(Recogniser(net), torch.zeros(run.recipe.clip.shape, dtype=torch.uint8))
    pt2e.save(program, run.folder("student") / GRAPH_NAME)


def _still(run: Run, data: RunData, spec: StillSpec, progress: Progress) -> Row:
    """The student's network on single frames, without a teacher."""
    torch.manual_seed(run.recipe.seed + 2)
    net = network(run.recipe.student.network, len(data.labels), in_channels=3)
    parts = [part.model_dump(mode="json") for part in (spec, run.recipe.student.network)]
    mark = fingerprint("still", _base_mark(run, data), parts)
    cross_entropy = loss.cross_entropy(spec.train.label_smoothing)
    job = _job("one frame (RGB)", net, rgb_logits(net), data, spec.train, cross_entropy, still=True)
    return _stage(run, "still", "one-frame student", job, data, mark, progress)


def _base_mark(run: Run, data: RunData) -> str:
    """Hash of the decoded data and how training changes it."""
    recipe = run.recipe
    parts = [part.model_dump(mode="json") for part in (recipe.clip, recipe.flow, recipe.augment)]
    return fingerprint(data.content(), parts, recipe.seed)


def _teacher_mark(run: Run, data: RunData) -> str:
    return fingerprint("teacher", _base_mark(run, data), run.recipe.teacher.model_dump(mode="json"))


def student_mark(run: Run, data: RunData) -> str:
    """Hash of everything that decides the student's weights."""
    parts = [part.model_dump(mode="json") for part in (run.recipe.student, run.recipe.distill)]
    return fingerprint("student", _teacher_mark(run, data), parts)


def _job(
    title: str,
    net: S3DG,
    forward: Callable[[Batch], Tensor],
    data: RunData,
    spec: TrainSpec,
    minimised: loss.Loss,
    teacher: Callable[[Batch], Tensor] | None = None,
    *,
    still: bool = False,
) -> Job:
    channels_last(net)
    training = data.dataset("train", training=True, still=still)
    held_out = data.dataset("val", still=still)
    size = batch_size(training, spec)
    return Job(
        title=title,
        model=net,
        forward=forward,
        teacher=teacher,
        loss=minimised,
        batches=lambda epoch: training.batches(size, epoch=epoch, shuffle=True, drop_last=True, workers=1),
        batches_per_epoch=len(training) // size,
        spec=spec,
        seed=data.recipe.seed,
        set_training=lambda mode: void(net.train(mode)),
        evaluate=(lambda: top1(forward, held_out)) if len(held_out) else None,
    )


def void(_: object) -> None:
    """Drop a value, where a callback must return nothing."""


def _stage(run: Run, stage: Stage, name: str, job: Job, data: RunData, mark: str, progress: Progress) -> Row:
    """Train a stage unless it is finished, measure it on the test split, and give its row."""
    done = run.results(stage, mark)
    if done is None:
        began = time.monotonic()
        loop.run(job, run.folder(stage), mark, progress)
        logits, labels = evaluate(job.forward, data.dataset("test", still=stage == "still"))
        done = {
            "top1": accuracy.topk(logits, labels, 1),
            "top5": accuracy.topk(logits, labels, 5),
            "clips": len(labels),
            "seconds": round(time.monotonic() - began, 1),
        }
        if stage == "student":
            _write_graph(run)
        run.finish(stage, mark, **done)
        progress.note(f"{job.title}: top-1 {done['top1']:.3f} on {done['clips']} test clips -> {run.folder(stage)}")
    else:
        progress.note(f"{job.title}: finished before, top-1 {done['top1']:.3f} -> {run.folder(stage)}")
    return trained_row(name, _ROLE[stage], "float32", done)


def trained_row(name: str, role: Role, precision: Literal["int8", "float32"], results: dict[str, Any]) -> Row:
    """The row of a stage, from what it recorded on the test split."""
    return Row(
        name=name,
        role=role,
        precision=precision,
        where=Where.HOST_TORCH,
        runtime=f"torch {torch.__version__}",
        clips=results["clips"],
        top1=results["top1"],
        top5=results["top5"],
    )


@torch.no_grad()
def evaluate(forward: Callable[[Batch], Tensor], dataset: ClipDataset) -> tuple[accuracy.Logits, NDArray[np.int64]]:
    """Logits float32 [N, classes] and labels [N] of a data set, in order."""
    pairs = [(forward(batch).numpy(), batch.label.numpy()) for batch in dataset.batches(EVALUATION_BATCH, workers=1)]
    return np.concatenate([logits for logits, _ in pairs]), np.concatenate([labels for _, labels in pairs])


def top1(forward: Callable[[Batch], Tensor], dataset: ClipDataset) -> float:
    """Top-1 on a data set, 0 to 1."""
    return accuracy.topk(*evaluate(forward, dataset), 1)
