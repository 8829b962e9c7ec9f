"""The clip cache: each video decoded, resized and its flow computed once, then read as memory maps.

An entry's name is the hash of everything that decides its bytes, so an entry is never stale and never rewritten.
Crops and augmentations come after it (`datasets`). Must not know labels' indices or anything of training.
"""

from __future__ import annotations

import os
import tokenize
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from d3d_edge.clip import ClipSpec, FlowSpec
from d3d_edge.errors import DataError
from d3d_edge.files import atomic_file, sha256_of_file, sha256_of_value
from d3d_edge.manifest import Clip
from d3d_edge.progress import Progress
from d3d_edge.video.flow import flow_of_frames
from d3d_edge.video.preprocess import centre_crop, load_frames, naming
from d3d_edge.workers import mapper

_FORMAT = 1
"""Raised when the same specs would give other bytes, so that old entries are not found."""
_NOT_IN_THE_KEY = {"height", "width", "crop", "colour", "layout", "dtype"}
"""Fields of ClipSpec that an entry does not depend on: crops come later, and the rest has one value only."""
_UNREADABLE = (OSError, ValueError, EOFError, SyntaxError, tokenize.TokenError)
"""What numpy raises for a missing, cut or garbled .npy file."""


@dataclass(frozen=True)
class CachedClip:
    """One clip whose frames and flow are on disk."""

    clip: Clip
    video_sha256: str
    frames_path: Path
    flow_path: Path

    def frames(self) -> np.memmap[Any, np.dtype[np.uint8]]:
        """uint8 [T, h, w, 3] RGB, resized and not cropped; a read-only memory map."""
        return _mapped(self.frames_path)

    def flow(self) -> np.memmap[Any, np.dtype[np.float16]]:
        """float16 [T, h, w, 2] in [-1, 1], in units of the flow bound; a read-only memory map."""
        return _mapped(self.flow_path)


@dataclass(frozen=True)
class Skipped:
    """A clip that cannot be used, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Prepared:
    """What `prepare` made of its clips, in their order."""

    clips: tuple[CachedClip, ...]
    skipped: tuple[Skipped, ...]
    computed: int
    """Entries that were not in the cache, or were damaged there."""


_DIED = DataError(
    "a process that prepared clips died",
    hint="out of memory, or a video crashes the decoder; run again with one worker, finished clips are kept",
)
_Outcome = tuple[CachedClip, bool] | DataError
_Work = Callable[[Clip], _Outcome]


def default_cache_dir() -> Path:
    """$D3D_EDGE_CACHE, else $XDG_CACHE_HOME/d3d-edge, else ~/.cache/d3d-edge."""
    if chosen := os.environ.get("D3D_EDGE_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "d3d-edge"


def prepare(
    clips: Sequence[Clip],
    clip_spec: ClipSpec,
    flow_spec: FlowSpec,
    cache_dir: Path,
    *,
    workers: int,
    progress: Progress,
    strict: bool = False,
) -> Prepared:
    """Decode `clips` and compute their flow, as far as the cache does not hold them yet.

    Every entry is written whole or not at all, so a run that was killed goes on where it stood. `workers` processes
    share the work (0 or 1: this process does it).

    Raises:
        DataError: a clip cannot be used and `strict` is set; or a worker process died.
        StorageError: the cache cannot be written.
    """
    work = partial(_prepare_one, clip_spec=clip_spec, flow_spec=flow_spec, cache_dir=cache_dir)
    ready: list[CachedClip] = []
    skipped: list[Skipped] = []
    computed = 0
    with (
        progress.task("prepare clips", total=len(clips)) as task,
        mapper(min(workers, len(clips)), prepare=_one_thread, died=_DIED) as mapped,
    ):
        for clip, outcome in zip(clips, mapped(work, clips), strict=True):
            if not isinstance(outcome, DataError):
                ready.append(outcome[0])
                computed += outcome[1]
            elif strict:
                raise outcome
            else:
                skipped.append(Skipped(clip.path, str(outcome)))
            task.advance()
    return Prepared(tuple(ready), tuple(skipped), computed)


def _one_thread() -> None:
    cv2.setNumThreads(1)  # there is a process per core already


def _prepare_one(clip: Clip, clip_spec: ClipSpec, flow_spec: FlowSpec, cache_dir: Path) -> _Outcome:
    """The clip's entry and whether it had to be computed; or why the clip cannot be used."""
    path = Path(clip.path)
    try:
        entry = _entry(clip, clip_spec, flow_spec, cache_dir)
        if _is_whole(entry, clip_spec):
            with naming(path):
                centre_crop(entry.frames(), clip_spec)  # the crop is not part of the key, so it is checked again
            return entry, False
        frames = load_frames(path, clip_spec)
        with naming(path):
            flow = flow_of_frames(frames, flow_spec).astype(np.float16)
    except DataError as error:
        return error
    except cv2.error as error:
        return DataError(f"{path}: OpenCV refuses the frames: {error.err}")
    _write(entry.frames_path, frames)
    _write(entry.flow_path, flow)
    return entry, True


def _entry(clip: Clip, clip_spec: ClipSpec, flow_spec: FlowSpec, cache_dir: Path) -> CachedClip:
    """Where the clip's frames and flow are, or will be."""
    try:
        video_sha256 = sha256_of_file(Path(clip.path))
    except OSError as error:
        raise DataError(f"cannot read {clip.path}: {error.strerror or error}") from error
    sampled = clip_spec.model_dump(mode="json", exclude=_NOT_IN_THE_KEY)
    key = sha256_of_value([_FORMAT, video_sha256, sampled, flow_spec.model_dump(mode="json")])
    stem = cache_dir / key[:2] / key
    return CachedClip(clip, video_sha256, stem.with_suffix(".frames.npy"), stem.with_suffix(".flow.npy"))


def _is_whole(entry: CachedClip, spec: ClipSpec) -> bool:
    """Whether both files are there with the header and the length they must have."""
    try:
        frames, flow = entry.frames(), entry.flow()
        lengths = [path.stat().st_size for path in (entry.frames_path, entry.flow_path)]
    except _UNREADABLE:
        return False
    good_frames = frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[3] == 3
    good_flow = flow.dtype == np.float16 and flow.shape == (*frames.shape[:3], 2)
    if not (good_frames and good_flow and len(frames) == spec.frames and min(frames.shape[1:3]) == spec.short_side):
        return False
    return lengths == [array.offset + array.nbytes for array in (frames, flow)]


def _mapped(path: Path) -> np.memmap[Any, Any]:
    """The array in an .npy file as a read-only memory map; raises one of `_UNREADABLE` if it is damaged."""
    return np.lib.format.open_memmap(path, mode="r")


def _write(path: Path, array: npt.NDArray[Any]) -> None:
    """Write an .npy file, whole or not at all.

    Not `np.save`: when the disk is full, it loses the error code that StorageError explains.
    """
    with atomic_file(path) as partial_path, partial_path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(np.ascontiguousarray(array).data)
