"""Calibration of a run's student: the clips, and the float student prepared and shown them. Trains nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule

from d3d_edge import calibset
from d3d_edge.calibset import CalibrationPlan
from d3d_edge.distill.loss import Outputs
from d3d_edge.models.recogniser import Recogniser
from d3d_edge.pipeline.data import RunData
from d3d_edge.pipeline.streams import Stream, load_rgb
from d3d_edge.progress import Progress
from d3d_edge.quantize import pt2e
from d3d_edge.runs import Run
from d3d_edge.video.cache import CachedClip


def drawn_clips(data: RunData, plan: CalibrationPlan, progress: Progress) -> list[CachedClip]:
    """The clips of a plan, in the order of the draw. Clips of videos that are in the test split too are left out.

    Raises:
        DataError: there are none.
    """
    tested = {cached.video_sha256 for cached in data.of("test")}
    copies = [cached.clip.key for cached in data.of(plan.split) if cached.video_sha256 in tested]
    by_key = {cached.clip.key: cached for cached in data.clips}
    drawn = [by_key[clip.key] for clip in calibset.draw(plan, data.manifest, frozenset(copies))]
    calibset.refuse_overlap([cached.video_sha256 for cached in drawn], tested)
    if copies:
        progress.note(
            f"training clips left out of calibration, since their videos are in the test split too: {len(copies)}, "
            f"e.g. {copies[0]}"
        )
    shown, classes = len({cached.clip.label for cached in drawn}), len(data.labels)
    if shown < classes and len(drawn) == plan.count:
        progress.note(f"{shown} of {classes} classes calibrate: a plan of more clips than {plan.count} shows more")
    return drawn


def some(drawn: Sequence[CachedClip], count: int, plan: CalibrationPlan) -> list[CachedClip]:
    """`count` of the drawn clips of a plan, or all, the classes taking turns as in the draw."""
    of_class: dict[str, list[CachedClip]] = defaultdict(list)
    for cached in drawn:
        of_class[cached.clip.label].append(cached)
    return list(calibset.in_turns(of_class, count, plan.seed))


@dataclass(frozen=True)
class Student:
    """The float student of a run as a graph, which can be prepared in more than one way."""

    run: Run
    clips: int
    """How many it takes at a time."""
    graph: GraphModule

    @classmethod
    def of(cls, run: Run, clips: int = 1) -> Student:
        """The student, captured for `clips` clips at a time."""
        net = load_rgb(run, "student").requires_grad_(True)
        return cls(run, clips, pt2e.capture(Recogniser(net, clips=clips), sample(run, clips)))


def prepared(student: Student, plan: CalibrationPlan, *, qat: bool, keep_float: Sequence[str] = ()) -> GraphModule:
    """The student, prepared by a plan, with the groups that `keep_float` names left alone."""
    return pt2e.prepare(
        student.graph,
        scheme=student.run.recipe.quantize.scheme,
        observer=plan.observer,
        percentile=plan.percentile,
        keep_float=keep_float,
        qat=qat,
    )


def calibrated(
    student: Student,
    data: RunData,
    plan: CalibrationPlan,
    drawn: Sequence[CachedClip],
    progress: Progress,
    *,
    keep_float: Sequence[str] = (),
    weights: GraphModule | None = None,
) -> GraphModule:
    """The student, prepared by a plan and shown the drawn clips.

    `weights`: a prepared graph of the same network, trained maybe, whose weights it gets.
    """
    graph = prepared(student, plan, qat=False, keep_float=keep_float)
    if weights is not None:
        pt2e.take_weights(graph, weights)
    batches = batched(drawn, data, student.clips)
    with progress.task("calibration", len(batches)) as task:
        for batch in batches:
            pt2e.calibrate(graph, [batch])
            task.advance(1)
    return graph


def sample(run: Run, clips: int = 1) -> Tensor:
    """A black input uint8 [clips*T, H, W, C], for its shape."""
    frames, height, width, colours = run.recipe.clip.shape
    return torch.zeros((clips * frames, height, width, colours), dtype=torch.uint8)


def decoded(clips: Sequence[CachedClip], data: RunData) -> list[Tensor]:
    """Calibration clips uint8 [T, H, W, C] in the order given, centre-cropped as on the device."""
    dataset = data.dataset("train")
    places = {cached.clip.key: place for place, cached in enumerate(dataset.clips)}
    return [torch.from_numpy(dataset.item(places[cached.clip.key])[0].copy()) for cached in clips]


def batched(clips: Sequence[CachedClip], data: RunData, size: int) -> list[Tensor]:
    """Calibration clips as batches uint8 [size*T, H, W, C], the last one filled up with clips from the first."""
    found = decoded(clips, data)
    while len(found) % size:
        found.append(found[len(found) % len(clips)])
    return [torch.cat(found[start : start + size]) for start in range(0, len(found), size)]


def one_by_one(module: torch.nn.Module) -> Stream:
    """A graph captured for one clip, as a function of a batch."""
    return lambda batch: Outputs(torch.cat([module(clip) for clip in batch.clip]))
