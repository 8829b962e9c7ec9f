"""d3d-edge evaluate: the paper's systems, from the networks of a run, on the same clips. Trains nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from d3d_edge.clip import ClipSpec
from d3d_edge.errors import DataError
from d3d_edge.evaluation import FILE_NAME, Evaluation, Fusion, System
from d3d_edge.files import check_writable
from d3d_edge.harness import accuracy
from d3d_edge.harness.accuracy import Scores
from d3d_edge.manifest import Split
from d3d_edge.models.build import network
from d3d_edge.models.count import mac_count, parameter_count
from d3d_edge.pipeline import marks
from d3d_edge.pipeline.data import RunData, prepare
from d3d_edge.pipeline.environment import environment
from d3d_edge.pipeline.streams import (
    EVALUATION_BATCH,
    Stream,
    channels_last,
    flow_stream,
    load_rgb,
    load_teacher,
    rgb_stream,
)
from d3d_edge.progress import Progress
from d3d_edge.recipe import NetworkSpec
from d3d_edge.runs import Run
from d3d_edge.video.cache import CachedClip
from d3d_edge.video.datasets import Batch
from d3d_edge.video.flow import flow_of_frames
from d3d_edge.video.preprocess import Part, centre_crop, load_frames

PAPER = {
    "spatial stream": ("spatial",),
    "temporal stream": ("teacher",),
    "two-stream": ("spatial", "teacher"),
    "D3D": ("student",),
    "D3D + spatial stream": ("student", "spatial"),
}
"""The systems of Stroud et al., arXiv 1812.08249, and the stages whose networks they average."""


@dataclass(frozen=True)
class _Network:
    spec: NetworkSpec
    stream: Stream
    in_channels: int


def evaluate(
    run: Run,
    *,
    split: Split,
    fusion: Fusion,
    clips: int,
    cache_dir: Path,
    workers: int,
    strict: bool,
    progress: Progress,
) -> Evaluation:
    """Measure every system whose networks are trained, and write RUN/evaluation.json.

    `clips` is the number of clips a video is seen in; see `preprocess.frame_indices`.

    Raises:
        RecipeError: $D3D_EDGE_DEVICE names no device of this machine.
        DataError: the teacher of the run is not trained, a network is of another recipe, or the split has no clips.
        StorageError: the evaluation or the cache cannot be written.
    """
    started = datetime.now(UTC)
    run.need("teacher")
    if not run.data.of(split):
        raise DataError(f"{run.path} has no clips in the split {split}", hint="choose another --split")
    networks = _networks(run)  # what is wrong with them, or with the device, is told before any clip is decoded
    check_writable(run.path / FILE_NAME)
    data = prepare(run, cache_dir, workers=workers, strict=strict, progress=progress, only=split)
    of_split = {clip.path for clip in run.data.of(split)}
    batches = _cached(data, split, progress) if clips == 1 else _sampled(data, split, clips, workers, progress)
    logits, labels = _answers(networks, batches, data, split, clips, fusion)
    systems = {name: stages for name, stages in PAPER.items() if set(stages) <= networks.keys()}
    systems |= {name: (name,) for name in networks if (name,) not in PAPER.values()}
    evaluation = Evaluation(
        title=run.recipe.name,
        classes=len(data.labels),
        split=split,
        videos=len(labels),
        clips_per_video=clips,
        fusion=fusion,
        chance=accuracy.chance(labels),
        environment=environment(started, ()),
        systems=tuple(
            _system(name, [networks[stage] for stage in stages], stages, run, logits, labels)
            for name, stages in systems.items()
        ),
        skipped=tuple(clip for clip in run.skipped() if clip.path in of_split),
        notes=(marks.notes_on_tests(run, ["teacher"], data) if split == "test" else ())
        + tuple(
            f"{name} is left out: the run has no {' and no '.join(sorted(set(stages) - networks.keys()))}"
            for name, stages in PAPER.items()
            if name not in systems
        )
        + tuple(
            f"{name} is left out: it sees single frames"
            for name, spec in run.recipe.baselines.items()
            if spec.frames != "clip" and run.results(name) is not None
        ),
    )
    evaluation.write(run.path / FILE_NAME)
    return evaluation


def _networks(run: Run) -> dict[str, _Network]:
    """The trained networks that see clips, by stage."""
    recipe = run.recipe
    found = {"teacher": _Network(recipe.teacher.network, flow_stream(load_teacher(run)), in_channels=2)}
    on_clips = [name for name, spec in recipe.baselines.items() if spec.frames == "clip"]
    for stage in ("student", *on_clips):
        if run.results(stage) is not None:
            stream = rgb_stream(channels_last(load_rgb(run, stage)))
            found[stage] = _Network(recipe.student.network, stream, in_channels=3)
    return found


def _cached(data: RunData, split: Split, progress: Progress) -> Iterator[Batch]:
    dataset = data.dataset(split)
    with progress.task("evaluate", len(dataset)) as task:
        for batch in dataset.batches(EVALUATION_BATCH, workers=1):
            yield batch
            task.advance(len(batch.label))


def _sampled(data: RunData, split: Split, clips: int, workers: int, progress: Progress) -> Iterator[Batch]:
    """One batch a video: its clips, decoded again, since the cache holds one a video."""
    spec = data.recipe.clip
    videos = data.of(split)

    def decode(cached: CachedClip) -> Batch:
        clip = cached.clip
        parts = [
            load_frames(Path(clip.path), spec, Part(number, clips), start_s=clip.start_s, end_s=clip.end_s)
            for number in range(clips)
        ]
        seen = np.stack([centre_crop(part, spec) for part in parts])
        flow = np.stack([centre_crop(flow_of_frames(part, data.recipe.flow), spec) for part in parts])
        label = torch.full((clips,), data.labels.index(cached.clip.label))
        return Batch(torch.from_numpy(seen), torch.from_numpy(flow), label)

    with progress.task("evaluate", len(videos)) as task, ThreadPoolExecutor(max(workers, 1)) as pool:
        for batch in _ahead(pool, decode, videos, max(workers, 1)):
            yield batch
            task.advance()


def _ahead(
    pool: ThreadPoolExecutor, work: Callable[[CachedClip], Batch], items: Iterable[CachedClip], count: int
) -> Iterator[Batch]:
    """Results in order, with at most `count` of them waiting in memory."""
    waiting = []
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > count:
            yield waiting.pop(0).result()
    for future in waiting:
        yield future.result()


@torch.no_grad()
def _answers(
    networks: Mapping[str, _Network], batches: Iterable[Batch], data: RunData, split: Split, clips: int, fusion: Fusion
) -> tuple[dict[str, Scores], np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """By stage, what is averaged [videos, classes], a mean over a video's clips already; and the videos' labels."""
    rows: dict[str, list[Scores]] = {stage: [] for stage in networks}
    for batch in batches:
        for stage, one in networks.items():
            logits = accuracy.finite(one.stream(batch).logits.cpu().numpy(), stage)
            rows[stage].append(accuracy.softmax(logits) if fusion == "softmax" else logits)
    found = {}
    for stage, parts in rows.items():
        whole = np.concatenate(parts)
        found[stage] = whole.reshape(-1, clips, whole.shape[1]).mean(axis=1)
    return found, data.label_indices(split)


def _system(
    name: str,
    networks: list[_Network],
    stages: tuple[str, ...],
    run: Run,
    logits: Mapping[str, Scores],
    labels: np.ndarray[tuple[int], np.dtype[np.int64]],
) -> System:
    answers = np.mean([logits[stage] for stage in stages], axis=0)
    clip = run.recipe.clip
    sizes = [_size(one.spec, answers.shape[1], one.in_channels, clip) for one in networks]
    right = accuracy.right(answers, labels)
    low, high = accuracy.wilson(right, len(labels))
    return System(
        name=name,
        streams=stages,
        inputs=tuple(sorted({"flow" if one.in_channels == 2 else "RGB" for one in networks})),
        parameters=sum(size.parameters for size in sizes),
        gmac=sum(size.macs for size in sizes) / 1e9,
        right=right,
        top1=right / len(labels),
        top1_low=low,
        top1_high=high,
        top5=accuracy.topk(answers, labels, 5),
        mean_class=accuracy.mean_class(answers, labels),
    )


class _Size(NamedTuple):
    """How large a network is, and how much it computes for one clip."""

    parameters: int
    macs: int


@functools.cache
def _size(spec: NetworkSpec, classes: int, in_channels: int, clip: ClipSpec) -> _Size:
    # Untrained, since loaded networks are frozen and a frozen scale of a batch norm is not a parameter.
    with torch.device("meta"):
        net = network(spec, classes, in_channels=in_channels)
    return _Size(parameter_count(net), mac_count(net, clip.frames, clip.height, clip.width))
