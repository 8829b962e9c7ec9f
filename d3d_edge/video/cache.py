"""The clip cache: each clip decoded, resized and its flow computed once, then read as numbers or lossless pictures.

An entry's name is the hash of everything that decides its bytes, so an entry is never stale and never rewritten.
Crops and augmentations come after it (`datasets`). Must not know labels' indices or anything of training.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from d3d_edge.clip import ClipSpec, FlowSpec
from d3d_edge.errors import DataError
from d3d_edge.files import sha256_of_file, sha256_of_value, sweep
from d3d_edge.manifest import Clip
from d3d_edge.progress import Progress
from d3d_edge.report import SkippedClip
from d3d_edge.video import arrays
from d3d_edge.video.arrays import Form
from d3d_edge.video.flow import flow_of_frames
from d3d_edge.video.hashes import Hashed, Hashes
from d3d_edge.video.once import State, once
from d3d_edge.video.preprocess import check_crop, naming, read_clip
from d3d_edge.workers import PROCESSES, mapper

_FORMAT = 1
"""Raised when the same specs would give other bytes, so that old entries are not found."""
_NOT_IN_THE_KEY = {"height", "width", "crop", "colour", "layout", "dtype"}
"""Fields of ClipSpec that an entry does not depend on: crops come later, and the rest has one value only."""


@dataclass(frozen=True)
class CachedClip:
    """One clip whose frames and flow are on disk."""

    clip: Clip
    video_sha256: str
    frames_path: Path
    flow_path: Path
    count: int
    """T, the number of frames."""

    @property
    def content(self) -> str:
        """What decides frames and flow, given the specs: the video's SHA-256, and the times of a part of it."""
        return self.video_sha256 + self.clip.span

    @property
    def form(self) -> Form:
        """How both files are written."""
        return arrays.form_of(self.frames_path)

    @property
    def size_bytes(self) -> int:
        """Bytes of both files."""
        return self.frames_path.stat().st_size + self.flow_path.stat().st_size

    def frames(self) -> npt.NDArray[np.uint8]:
        """uint8 [T, h, w, 3] RGB, resized and not cropped, not to be written to."""
        return arrays.read(self.frames_path, self.count)

    def flow(self) -> npt.NDArray[np.float16]:
        """float16 [T, h, w, 2] in [-1, 1], in units of the flow bound; else as `frames`."""
        return arrays.read(self.flow_path, self.count)


@dataclass(frozen=True)
class Prepared:
    """What `prepare` made of its clips, in their order."""

    clips: tuple[CachedClip, ...]
    skipped: tuple[SkippedClip, ...]
    """By path, and times of a part of a video."""
    computed: int
    """Entries that were not in the cache, or were damaged there."""
    decoded: int
    """Frames of videos that were decoded for them."""


_DIED = DataError(
    "a process that prepared clips died",
    hint="out of memory, or a video crashes the decoder; run again with one worker, finished clips are kept",
)
_LOOK_S = 1.0
"""For how long entries are looked up before processes share that: about what it takes to start those."""


class _Made(NamedTuple):
    """An entry, the frames decoded for it (None where it was there), and what it was found by."""

    entry: CachedClip
    decoded: int | None
    hashed: Hashed


_Outcome = _Made | DataError
"""An entry, or why there is none."""
_Asked = tuple[Clip, Hashed | None]
"""A clip, and what is noted of its video."""


def prepare(
    clips: Sequence[Clip],
    clip_spec: ClipSpec,
    flow_spec: FlowSpec,
    cache_dir: Path,
    *,
    workers: int,
    progress: Progress,
    strict: bool = False,
    form: Form = "raw",
    engine: str = PROCESSES,
    verify: bool = False,
) -> Prepared:
    """Decode `clips` and compute their flow, as far as the cache does not hold them yet, in either form.

    Every entry is written whole or not at all, so a run that was killed goes on where it stood. With `verify` entries
    that are there are read to the last byte, and made anew if one of them is not what was written; and videos are read,
    which else are only where their files were changed (`hashes`). `workers` processes share the work (0 or 1: this
    process does it), or the cluster that `engine` names (`workers.mapper`). What is found within a second is not handed
    to them, so that they are not started where nothing is to be done.

    Raises:
        DataError: a clip cannot be used and `strict` is set; or a worker process died.
        StorageError: the cache cannot be written.
        MissingDependency: the engine's package is not installed.
    """
    work = partial(
        _prepare_one, clip_spec=clip_spec, flow_spec=flow_spec, cache_dir=cache_dir, form=form, verify=verify
    )
    ready: list[CachedClip] = []
    skipped: list[SkippedClip] = []
    computed = decoded = 0
    began = time.perf_counter()
    hashes = Hashes(cache_dir)
    asked: list[_Asked] = [(clip, None if verify else hashes.of(clip.path)) for clip in clips]
    found = {} if verify or engine != PROCESSES else _looked_up(asked, clip_spec, flow_spec, cache_dir, form, workers)
    rest = [one for place, one in enumerate(asked) if place not in found]
    with (
        hashes,
        progress.task("prepare clips", total=len(clips)) as task,
        mapper(min(workers, len(rest)), prepare=_one_thread, died=_DIED, engine=engine) as mapped,
    ):
        made = iter(mapped(work, rest))
        for place, clip in enumerate(clips):
            outcome = found.get(place) or next(made)
            if not isinstance(outcome, DataError):
                ready.append(outcome.entry)
                hashes.add(clip.path, outcome.hashed)
                if outcome.decoded is not None:
                    computed, decoded = computed + 1, decoded + outcome.decoded
            elif strict:
                raise outcome
            else:
                skipped.append(SkippedClip(path=clip.key, reason=str(outcome)))
            task.advance(1, f"{decoded / (time.perf_counter() - began):.0f} frames/s" if decoded else "")
    if computed:
        for folder in {entry.frames_path.parent for entry in ready}:
            sweep(folder)
    return Prepared(tuple(ready), tuple(skipped), computed, decoded)


def _looked_up(
    asked: Sequence[_Asked], clip_spec: ClipSpec, flow_spec: FlowSpec, cache_dir: Path, form: Form, workers: int
) -> dict[int, _Outcome]:
    """What is there already, by place: of all clips, or of the first until time is up or every worker has work."""
    found: dict[int, _Outcome] = {}
    until_s = time.perf_counter() + _LOOK_S
    for place, (clip, known) in enumerate(asked):
        if place - len(found) >= max(1, workers) or time.perf_counter() > until_s:
            break
        try:
            lookup = find(clip, clip_spec, flow_spec, cache_dir, form, known)
        except DataError as error:
            found[place] = error
        else:
            if lookup.whole:
                found[place] = _Made(lookup.entry, None, lookup.hashed)
    return found


def _one_thread() -> None:
    cv2.setNumThreads(1)  # there is a process per core already; of FFmpeg's threads too (`decode`)


def _prepare_one(
    asked: _Asked, clip_spec: ClipSpec, flow_spec: FlowSpec, cache_dir: Path, form: Form, verify: bool
) -> _Outcome:
    clip, known = asked
    try:
        found = find(clip, clip_spec, flow_spec, cache_dir, form, known)
        if found.whole and not (verify and _damaged(found.entry)):
            return _Made(found.entry, None, found.hashed)
        frames, flow, decoded = compute(clip, clip_spec, flow_spec)
        if _state(clip) != found.hashed.state:  # what was decoded may not be what was hashed
            raise DataError(f"{clip.path} changed while it was read", hint="run again once it is whole")
        with naming(Path(clip.path)):  # a form may not hold what some clip is
            arrays.write(found.entry.frames_path, frames)
            arrays.write(found.entry.flow_path, flow)
    except DataError as error:
        return error
    return _Made(found.entry, decoded, found.hashed)


def _state(clip: Clip) -> State:
    try:
        found = os.stat(clip.path)
    except OSError as error:
        raise DataError(f"cannot read {clip.path}: {error.strerror or error}") from error
    if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for, and some devices never end
        raise DataError(f"{clip.path} is a device, a pipe or a folder, and no file")
    return State.of(found)


def _damaged(entry: CachedClip) -> bool:
    try:
        entry.frames(), entry.flow()
    except DataError:
        return True
    return False


class Computed(NamedTuple):
    """What an entry is made of."""

    frames: npt.NDArray[np.uint8]
    flow: npt.NDArray[np.float16]
    decoded: int
    """Frames of the video that were decoded."""


def compute(clip: Clip, clip_spec: ClipSpec, flow_spec: FlowSpec) -> Computed:
    """The frames and the flow of a clip, from its video.

    Raises:
        DataError: the clip cannot be used.
    """
    path = Path(clip.path)
    try:
        frames, decoded = read_clip(path, clip_spec, start_s=clip.start_s, end_s=clip.end_s)
        with naming(path):
            return Computed(frames, flow_of_frames(frames, flow_spec).astype(np.float16), decoded)
    except cv2.error as error:
        raise DataError(f"{path}: OpenCV refuses the frames: {error.err}") from error


class Lookup(NamedTuple):
    """Where a clip's entry is, or will be."""

    entry: CachedClip
    whole: bool
    """Whether it is there."""
    hashed: Hashed
    """The video's hash, and the state that it was in before it was read."""


_sha256 = once(keep=64)(sha256_of_file)


def find(
    clip: Clip,
    clip_spec: ClipSpec,
    flow_spec: FlowSpec,
    cache_dir: Path,
    form: Form,
    known: Hashed | None = None,
) -> Lookup:
    """The clip's entry in whichever form it is there; else where it will be in `form`.

    `known`: the video's hash, if its file is still in that state.

    Raises:
        DataError: the video cannot be read, or the frames in the entry are too small for the crop.
    """
    state = _state(clip)
    settled = state.is_settled
    try:
        video_sha256 = known.sha256 if known and known.state == state else _sha256(Path(clip.path))
    except OSError as error:
        raise DataError(f"cannot read {clip.path}: {error.strerror or error}") from error
    hashed = Hashed(state, video_sha256, settled)
    sampled = clip_spec.model_dump(mode="json", exclude=_NOT_IN_THE_KEY)
    times = [clip.start_s, clip.end_s] if clip.span else []
    key = sha256_of_value([_FORMAT, video_sha256, sampled, flow_spec.model_dump(mode="json"), *times])

    def named(form: Form) -> CachedClip:
        frames, flow = (cache_dir / key[:2] / f"{key}.{what}{arrays.SUFFIXES[form]}" for what in ("frames", "flow"))
        return CachedClip(clip, video_sha256, frames, flow, clip_spec.frames)

    wanted = named(form)
    for entry in (wanted, named("compressed" if form == "raw" else "raw")):
        if shape := _shape_of(entry, clip_spec):
            with naming(Path(clip.path)):
                check_crop(shape, clip_spec)  # the crop is not part of the key, so it is checked again
            return Lookup(entry, True, hashed)
    return Lookup(wanted, False, hashed)


def _shape_of(entry: CachedClip, spec: ClipSpec) -> tuple[int, ...] | None:
    """[T, h, w, 3] of the frames, if both files are there with the header and the length they must have."""
    frames, flow = (arrays.header(path, spec.frames) for path in (entry.frames_path, entry.flow_path))
    if frames is None or flow is None:
        return None
    good_frames = frames.dtype == np.uint8 and len(frames.shape) == 4 and frames.shape[3] == 3
    good_flow = flow.dtype == np.float16 and flow.shape == (*frames.shape[:3], 2)
    if not (good_frames and good_flow and frames.shape[0] == spec.frames):
        return None
    return frames.shape if min(frames.shape[1:3]) == spec.short_side else None
