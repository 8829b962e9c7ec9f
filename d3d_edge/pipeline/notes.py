"""What is said of clips and of training. Needs no torch, whose import takes longer than many a cache is filled in."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d3d_edge import manifest
from d3d_edge.errors import listed
from d3d_edge.manifest import Manifest, Source
from d3d_edge.progress import Progress
from d3d_edge.report import SkippedClip

if TYPE_CHECKING:
    from d3d_edge.distill.job import Job
    from d3d_edge.pipeline.data import RunData
    from d3d_edge.video.cache import CachedClip

NAMED = 10
"""Skipped clips, or classes, that are named."""
WAITING_SHARE = 0.25
"""Of the time of training: more is worth a line."""
SETTLED_SHARE = 0.9
"""Of the way from where they start to what training sees: running statistics that go less far are worth a line."""
QUICK = 0.1
"""The momentum of batch norms for short training: PyTorch's own."""


def note_left_aside(data: Path | Source, found: Manifest, progress: Progress) -> None:
    """Say what else lies in the folder of the clips that were `found`."""
    if text := manifest.left_aside(data, found):
        progress.note(text)


def note_classes(found: Manifest, progress: Progress) -> None:
    """Name the first classes: where folders were not meant as they are read, it shows here."""
    progress.note(f"{len(found.labels)} classes: {listed(found.labels, NAMED)}")


def note_skipped(skipped: Sequence[SkippedClip], progress: Progress) -> None:
    """Name the first clips that were skipped, and count the others: a big set lacks thousands."""
    for clip in skipped[:NAMED]:
        progress.note(f"skipped {clip.path}: {clip.why}")
    if len(skipped) > NAMED:
        progress.note(f"skipped {len(skipped) - NAMED} more clips")


def note_drawn(given: Manifest, split: Manifest, progress: Progress) -> None:
    """Say how clips that were `given` without a split were shared out, and what keeps those of a person together."""
    if any(clip.split for clip in given.clips):
        return
    clips = Counter(clip.split for clip in split.clips)
    counts = ", ".join(f"{clips[name]} {name}" for name in ("train", "val", "test"))
    groups = len({clip.group for clip in split.clips})
    if groups < len(split.clips):
        progress.note(f"split drawn by group, {groups} of them: {counts}")
    else:
        progress.note(f"split drawn by file: {counts}; a CSV with a column `group` keeps a person's clips in one split")


def note_copies(data: RunData, progress: Progress) -> None:
    """Say which test clips are training clips under another name: what was learnt by heart counts as right there."""

    def shown(cached: CachedClip) -> tuple[object, ...]:
        return cached.video_sha256, cached.clip.start_s, cached.clip.end_s

    seen = set(map(shown, data.of("train")))
    if copies := [cached for cached in data.of("test") if shown(cached) in seen]:
        progress.note(
            f"test clips whose video is a training clip's too, so that accuracy says too much: {len(copies)}, "
            f"e.g. {copies[0].clip.key}"
        )


def note_waiting(title: str, history: Sequence[dict[str, float]], data: RunData, progress: Progress) -> None:
    """Say so where the device had little to do for want of clips."""
    shares = [row["waiting_for_data"] for row in history if "waiting_for_data" in row]
    if shares and (waited := statistics.fmean(shares)) > WAITING_SHARE:
        compressed = any(cached.form == "compressed" for cached in data.clips)
        raw = ", and so does a cache made without --compress" if compressed else ""
        progress.note(f"{title}: {waited:.0%} of the training was waiting for clips; more cores read faster{raw}")


def note_unsettled(job: Job, progress: Progress) -> None:
    """Say so where training is too short for the batch norms' running statistics, by which all answers are given.

    Its loss does not show it. Networks that begin with statistics of their own, published ones, have no such need.
    """
    steps = job.spec.epochs * job.batches_per_epoch
    norms: list[Any] = [layer for layer in job.model.modules() if getattr(layer, "running_var", None) is not None]
    momenta = [norm.momentum for norm in norms if norm.momentum and (norm.running_var == 1).all()]
    if momenta and (settled := 1 - (1 - (slowest := min(momenta))) ** steps) < SETTLED_SHARE:
        needed = math.ceil(math.log(1 - SETTLED_SHARE) / math.log(1 - slowest))
        faster = f"; network.bn_momentum is {slowest:g}, and {QUICK:g} suits few steps" if slowest < QUICK else ""
        progress.note(
            f"{job.title}: too few steps for right answers: in {steps} the running statistics of its batch "
            f"norms come {settled:.0%} of their way (epochs of {needed} steps in all would do{faster})"
        )
