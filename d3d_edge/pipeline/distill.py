"""d3d-edge distill: the flow teacher, then the RGB student that learns from it, and what it is compared with."""

from __future__ import annotations

import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from d3d_edge import manifest
from d3d_edge.distill import distributed, log, loop, loss
from d3d_edge.distill.checkpoint import Checkpoint, discard
from d3d_edge.distill.job import Job
from d3d_edge.distill.loss import Loss, Outputs
from d3d_edge.errors import DataError, RecipeError
from d3d_edge.files import atomic_folder, sha256_of_file
from d3d_edge.harness import accuracy
from d3d_edge.manifest import Source
from d3d_edge.models.build import network
from d3d_edge.models.recogniser import Recogniser
from d3d_edge.models.s3dg import S3DG
from d3d_edge.pipeline import checks, marks, videos, weights
from d3d_edge.pipeline.alone import alone
from d3d_edge.pipeline.data import RunData, batch_size, epochs, prepare
from d3d_edge.pipeline.environment import environment
from d3d_edge.pipeline.notes import (
    note_classes,
    note_copies,
    note_drawn,
    note_left_aside,
    note_unsettled,
    note_waiting,
)
from d3d_edge.pipeline.rows import trained_row
from d3d_edge.pipeline.streams import (
    Stream,
    channels_last,
    counted,
    evaluate,
    flow_stream,
    load_rgb,
    load_teacher,
    rgb_stream,
    teacher_of,
    top1,
)
from d3d_edge.progress import Progress
from d3d_edge.quantize import graph_files, pt2e
from d3d_edge.recipe import Recipe, TrainSpec
from d3d_edge.report import FILE_NAME, Report, Role, Row
from d3d_edge.runs import Run, Stage, first_difference
from d3d_edge.video.datasets import Batch


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
    teacher: Path | None = None,
) -> Report:
    """Train teacher and student of `recipe` on `data`, in the run folder `out`; finished stages are kept.

    `teacher` is a run with the same data and flow teacher, which is copied instead of trained again.

    Raises:
        RecipeError: `out` was begun with another recipe or other data, the teacher of `teacher` is another one, or
            its networks do not fit what else it says (see `checks`).
        DataError: the data cannot be used, or is too little for so many processes; the teacher of `teacher` has no
            weights, or damaged ones; or `resume` is given and there is nothing to go on with.
        StorageError: the run or the cache cannot be written.
    """
    started = datetime.now(UTC)
    if resume and not (out / "recipe.yaml").is_file():
        raise DataError(f"{out} is not a run, so there is nothing to resume", hint="leave out --resume to begin")
    hashes = checks.check(recipe, Run.begun(out))
    source = Run.open(teacher) if teacher else None
    split = recipe.split
    found = manifest.load(data)
    clips = manifest.with_split(found, val_share=split.val_share, test_share=split.test_share, seed=split.seed)
    note_left_aside(data, found, progress)
    note_classes(found, progress)
    note_drawn(found, clips, progress)
    with alone(out):
        run = distributed.from_main(lambda: Run.start(out, recipe, clips))
        distributed.from_main(lambda: weights.record(run, hashes))
        log.note_what_is_missing(progress)
        run_data = distributed.from_main(
            lambda: prepare(run, cache_dir, workers=workers, strict=strict, progress=progress)
        )
        note_copies(run_data, progress)
        checks.check_batches(recipe, len(run_data.of("train")) // distributed.processes())
        if source:
            distributed.from_main(lambda: _copy_teacher(source, run, run_data))
        rows = [_teacher(run, run_data, progress)]
        # The spatial stream comes before the student, which may learn from it too.
        if "spatial" in recipe.baselines:
            rows.append(_baseline(run, run_data, "spatial", progress))
        rows.append(_student(run, run_data, progress))
        rows += [_baseline(run, run_data, name, progress) for name in recipe.baselines if name != "spatial"]
    report = Report(
        title=recipe.name,
        classes=len(run_data.labels),
        split="test",
        chance=accuracy.chance(run_data.label_indices("test")),
        environment=environment(started, ()),
        rows=tuple(rows),
        skipped=run.skipped(),
    )
    if distributed.is_main():
        report.write(out / FILE_NAME)
    return report


def _copy_teacher(source: Run, run: Run, data: RunData) -> None:
    """Put the teacher of `source` in the place of one that `run` has not, or whose weights are no longer whole.

    Raises:
        RecipeError: it was made from something else.
        DataError: it is not finished, or its weights are missing or damaged. Nothing is copied.
    """
    mark = marks.teacher(run, data)
    if run.results("teacher", mark) is not None and _has_weights(run.folder("teacher")):
        return
    source.need("teacher")
    if source.results("teacher", mark) is None:
        other = f": {first_difference(source.data, run.data)}" if source.data != run.data else ""
        raise RecipeError(
            f"the teacher of {source.path} was trained by another recipe, or on other data or another seed{other}",
            hint="leave out --teacher to train one",
        )
    theirs = source.folder("teacher")
    if Checkpoint.kept(theirs) is None:
        raise DataError(
            f"{theirs} has no weights to take",
            hint=f"{source.command('teacher')} trains that one again; without --teacher, this run trains its own",
        )
    with atomic_folder(run.folder("teacher")) as own:
        # With new times, since what is old may be swept; and without what a killed process left hidden there.
        shutil.copytree(theirs, own, ignore=shutil.ignore_patterns(".*"), copy_function=shutil.copy, dirs_exist_ok=True)


def _has_weights(folder: Path) -> bool:
    try:
        return Checkpoint.kept(folder) is not None
    except DataError:
        return False


class Projected(nn.Module):
    """A network beside the linear map of its features to a teacher's. Only the network is used afterwards."""

    def __init__(self, net: S3DG, channels: int) -> None:
        super().__init__()
        self.net = net
        self.projection = nn.Linear(net.feature_channels, channels)

    def stream(self) -> Stream:
        """The network as a function of a batch, its features mapped."""
        outputs = rgb_stream(self.net, features=True)

        def mapped(batch: Batch) -> Outputs:
            logits, features = outputs(batch)
            return Outputs(logits, None if features is None else self.projection(features))

        return mapped


def _teacher(run: Run, data: RunData, progress: Progress) -> Row:
    spec = run.recipe.teacher
    torch.manual_seed(run.recipe.seed)
    net = network(spec.network, len(data.labels), in_channels=2)
    weights.start(net, run, "teacher", "teacher", progress)
    channels_last(net)
    minimised = loss.cross_entropy(spec.train.label_smoothing)
    job = _job("teacher (flow)", net, flow_stream(net), data, spec.train, minimised)
    return _stage(run, "teacher", "flow teacher", "teacher", job, data, marks.teacher(run, data), progress)


def _student(run: Run, data: RunData, progress: Progress) -> Row:
    spec, train = run.recipe.distill, run.recipe.student.train
    torch.manual_seed(run.recipe.seed + 1)
    net = _rgb_network(run, data, "student", run.recipe.student.initialise, progress)
    model: nn.Module = net
    stream = rgb_stream(net, features=bool(spec.features_weight))
    if spec.features_weight:
        channels = load_teacher(run).feature_channels
        if channels != net.feature_channels:
            model = projected = Projected(net, channels)
            stream = projected.stream()
    minimised = loss.distillation(spec, train.label_smoothing)
    job = _job("student (RGB)", model, stream, data, train, minimised, teacher_of(run))
    return _stage(run, "student", "D3D student", "float", job, data, marks.student(run, data), progress)


def _baseline(run: Run, data: RunData, name: str, progress: Progress) -> Row:
    spec = run.recipe.baselines[name]
    torch.manual_seed(run.recipe.seed + 2)
    net = _rgb_network(run, data, name, spec.initialise, progress)
    train = spec.train or run.recipe.student.train
    minimised = loss.cross_entropy(train.label_smoothing)
    job = _job(f"{name} (RGB)", net, rgb_stream(net), data, train, minimised, still=spec.frames == "one")
    return _stage(run, name, name.replace("_", " "), "baseline", job, data, marks.baseline(run, data, name), progress)


def _rgb_network(
    run: Run, data: RunData, stage: Stage, initialise: Literal["scratch", "teacher"], progress: Progress
) -> S3DG:
    """The student's network before `stage`. Only the first convolution of a teacher sees another input."""
    net = network(run.recipe.student.network, len(data.labels), in_channels=3)
    if initialise == "teacher":
        taught = load_teacher(run).state_dict()
        net.load_state_dict({k: v for k, v in taught.items() if not k.startswith("Conv2d_1a")}, strict=False)
    else:
        weights.start(net, run, "student", stage, progress)
    return channels_last(net)


def _write_graph(run: Run) -> str:
    """Hash of the student as one graph, uint8 [T, H, W, C] -> float32 [1, classes], next to its checkpoint."""
    net = load_rgb(run, "student")
    program = pt2e.export_float(Recogniser(net), torch.zeros(run.recipe.clip.shape, dtype=torch.uint8))
    graph_files.save(program, path := run.folder("student") / marks.GRAPH_NAME)
    return sha256_of_file(path)


def _job(
    title: str,
    model: nn.Module,
    stream: Stream,
    data: RunData,
    spec: TrainSpec,
    minimised: Loss,
    teacher: Stream | None = None,
    *,
    still: bool = False,
) -> Job:
    training = data.dataset("train", training=True, still=still)
    held_out = data.dataset("val", still=still)
    size = batch_size(training, spec)
    return Job(
        title=title,
        model=model,
        forward=stream,
        teacher=teacher,
        loss=minimised,
        batches=epochs(training, size, (distributed.rank(), distributed.processes())),
        batches_per_epoch=len(training) // size,
        spec=spec,
        seed=data.recipe.seed,
        set_training=model.train,
        evaluate=(lambda: top1(stream, held_out, title)) if len(held_out) else None,
    )


def _stage(
    run: Run, stage: Stage, name: str, role: Role, job: Job, data: RunData, mark: str, progress: Progress
) -> Row:
    """Train a stage unless it is finished, measure it on the test split, and give its row. Begun or finished with other
    clips, it is not thrown away for a file that is gone for now."""
    done = distributed.from_main(lambda: _finished(run, stage, job, mark, progress))
    if done is None:
        began = time.monotonic()
        note_unsettled(job, progress)
        note_waiting(job.title, loop.run(job, run.folder(stage), mark, progress), data, progress)
        with progress.task(f"{job.title}, test clips", len(data.of("test"))) as task:
            stream = counted(job.forward, task)
            done = distributed.from_main(lambda: _finish(run, stage, stream, data, mark, began))
        progress.note(f"{job.title}: top-1 {done['top1']:.3f} on {done['clips']} test clips -> {run.folder(stage)}")
    else:
        progress.note(f"{job.title}: finished before, top-1 {done['top1']:.3f} -> {run.folder(stage)}")
    return trained_row(name, role, "float32", done)


def _finished(run: Run, stage: Stage, job: Job, mark: str, progress: Progress) -> dict[str, Any] | None:
    """What a stage recorded, if it is finished and its weights are there."""
    folder, done = run.folder(stage), run.results(stage)
    if done is None:
        marks.hold(run, stage, mark)
        marks.begin(run, stage)
        return None
    checkpoint = Checkpoint.kept(folder)
    if checkpoint is None:
        progress.note(f"{job.title}: begins again, since the weights in {folder} are gone")
        discard(folder)
        marks.begin(run, stage)
        return None
    marks.refuse_others(run, stage, checkpoint)
    marks.hold(run, stage, mark)
    if stage == "student" and not marks.has_own_graph(run, stage):
        done["graph_sha256"] = _write_graph(run)
        run.finish(stage, **done)
    return done


def _finish(run: Run, stage: Stage, stream: Stream, data: RunData, mark: str, began: float) -> dict[str, Any]:
    """Measure a trained stage on the test split, record that, and write what comes after it needs."""
    still = stage in run.recipe.baselines and run.recipe.baselines[stage].frames == "one"
    logits, labels = evaluate(stream, data.dataset("test", still=still), stage)
    done: dict[str, Any] = {
        "top1": accuracy.topk(logits, labels, 1),
        "top5": accuracy.topk(logits, labels, 5),
        "clips": len(labels),
        "tested": data.hash_of("test"),
        "seconds": round(time.monotonic() - began, 1),
    }
    if stage == "student":
        done["graph_sha256"] = _write_graph(run)
        done[videos.NAME] = videos.looked_at(run).model_dump()
    marks.finish(run, stage, mark, **done)
    return done
