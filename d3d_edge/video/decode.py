"""Video files in, RGB frames out, through OpenCV's FFmpeg. Must not resize, sample or otherwise decide what a clip is.

Rotation metadata is honoured (OpenCV's auto-rotation), so that a phone's portrait video comes out upright.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from d3d_edge.errors import DataError
from d3d_edge.video import seek
from d3d_edge.video.container import declared_of, duration_s, opened, rate_hz_of
from d3d_edge.video.seek import Frame as Frame
from d3d_edge.video.seek import time_s_of

_LOSS_TOLERATED = 0.05
"""Share of the declared frames, and of the declared time, that may be missing in a healthy file: containers without
a frame count (WebM, MKV) declare duration x rate, and the duration includes sound that ends after the pictures."""


NEAR_S = 5e-4
"""Times this near are the same: they are multiples of a time base, and 1.0 may come as 0.9999999."""


class TimedFrame(NamedTuple):
    """One frame and its place in the video."""

    number: int
    """From 0."""
    time_s: float
    """Presentation time."""
    image: Frame


class Span(NamedTuple):
    """A part of a video, in seconds from its start: frames with start_s <= presentation time < end_s."""

    start_s: float = 0.0
    end_s: float = math.inf

    def of(self, times_s: Sequence[float]) -> range:
        """The places of the span's frames in `times_s`, the rising times of all frames."""
        return range(*(bisect_left(times_s, time_s - NEAR_S) for time_s in (self.start_s, self.end_s)))


WHOLE = Span()


class _Walk(NamedTuple):
    """What a decoded file held: a frame at each of `times_s`, where the container declares `declared` of them."""

    times_s: list[float]
    declared: int
    duration_s: float

    @property
    def frames(self) -> int:
        return len(self.times_s)

    @property
    def end_s(self) -> float:
        return max(self.times_s, default=0.0)


class Reading(NamedTuple):
    """Chosen frames, in the order of the sorted indices, and what they cost."""

    frames: list[Frame]
    decoded: int
    """Frames that were decoded to get them."""


def read_frames(
    path: Path, choose: Callable[[int], Collection[int]], convert: Callable[[Frame], Frame], span: Span = WHOLE
) -> Reading:
    """The frames `choose(number of frames)` of a video's span, each passed through `convert`.

    The container's frame count is not believed: the whole file is decoded and counted, and read again with the true
    count where the two differ. Only where the chosen frames are a small part of the file, it is not decoded whole,
    and then what comes before, between and after them need not be healthy (`seek`); the frames are the same. An index
    may be chosen twice.

    Raises:
        DataError: `path` is missing, not a video, truncated or without frames in the span; or what `choose` and
            `convert` raise.
    """
    with opened(path) as capture:
        declared = declared_of(capture)
        indices = _chosen(choose, range(declared)) if span == WHOLE else None
        if indices and not seek.may_pay(indices, declared):
            frames, times_s = _walk(capture, path, set(indices), convert)
            if len(times_s) == declared:
                return Reading([frames[index] for index in indices], declared)
            indices = None
        if indices or span != WHOLE:
            timeline = seek.timeline_of(path)
            if indices := _chosen(choose, span.of(timeline.times_s)):
                counted = span == WHOLE
                found = seek.read(capture, timeline, indices, counted, lambda: convert(retrieve(capture, path)))
                if found is not None:
                    return Reading([found.frames[index] for index in indices], found.decoded)
                with opened(path) as again:
                    frames, times_s = _walk(again, path, set(indices), convert)
                if _same(times_s, timeline.times_s):
                    return Reading([frames[index] for index in indices], len(times_s))
    return _read_by_counting(path, choose, convert, span)


def _same(times_s: Sequence[float], others_s: Sequence[float]) -> bool:
    return len(times_s) == len(others_s) and all(abs(a - b) < NEAR_S for a, b in zip(times_s, others_s, strict=True))


def _chosen(choose: Callable[[int], Collection[int]], places: range) -> list[int] | None:
    """What would be chosen if the frames were at `places`; None if that is refused, since they are a guess."""
    if not places:
        return None
    try:
        return [places[index] for index in sorted(choose(len(places)))]
    except DataError:
        return None  # what decodes decides


def _read_by_counting(
    path: Path, choose: Callable[[int], Collection[int]], convert: Callable[[Frame], Frame], span: Span
) -> Reading:
    """Decode the whole file for its frames' times, and once more for those chosen."""
    with opened(path) as capture:
        times_s = _walk(capture, path, set(), convert)[1]
    places = span.of(times_s)
    if not places:
        where = f"from {span.start_s:g} s" + (f" to {span.end_s:g} s" if span.end_s < math.inf else "")
        raise DataError(f"{path} has no frame {where}: its last is at {times_s[-1]:.3f} s")
    indices = [places[index] for index in sorted(choose(len(places)))]
    with opened(path) as capture:
        frames = _walk(capture, path, set(indices), convert)[0]
    return Reading([frames[index] for index in indices], 2 * len(times_s))


def _walk(
    capture: cv2.VideoCapture, path: Path, wanted: set[int], convert: Callable[[Frame], Frame]
) -> tuple[dict[int, Frame], list[float]]:
    """The wanted frames of a freshly opened file by their numbers, and the times of all."""
    frames = {}
    times_s: list[float] = []
    while capture.grab():
        if len(times_s) in wanted:
            frames[len(times_s)] = convert(retrieve(capture, path))
        times_s.append(time_s_of(capture))
    _check_complete(path, _Walk(times_s, declared_of(capture), duration_s(capture)))
    return frames, _rising(times_s, rate_hz_of(capture))


def _rising(times_s: list[float], rate_hz: float) -> list[float]:
    """The times of all frames; by their number where the file has none that rise, as an AVI with reordered frames."""
    if rate_hz and any(now >= following for now, following in pairwise(times_s)):
        return [number / rate_hz for number in range(len(times_s))]
    return times_s


def count_frames(path: Path) -> int:
    """The number of frames that decode.

    Raises:
        DataError: `path` is missing, not a video, truncated or without frames.
    """
    with opened(path) as capture:
        return len(_walk(capture, path, set(), lambda frame: frame)[1])


def iterate_frames(path: Path) -> Iterator[TimedFrame]:
    """Every frame in order, one in memory at a time.

    Raises:
        DataError: `path` is missing or not a video; after the last frame, that it is truncated or had none.
    """
    with opened(path) as capture:
        times_s: list[float] = []
        while capture.grab():
            times_s.append(time_s_of(capture))
            yield TimedFrame(len(times_s) - 1, times_s[-1], retrieve(capture, path))
        walk = _Walk(times_s, declared_of(capture), duration_s(capture))
    _check_complete(path, walk)


def first_frame(path: Path) -> Frame:
    """The first frame, without a look at the others.

    Raises:
        DataError: `path` is missing, not a video or without frames.
    """
    with opened(path) as capture:
        if not capture.grab():
            raise DataError(f"{path} holds no frame that decodes")
        return retrieve(capture, path)


def _check_complete(path: Path, walk: _Walk) -> None:
    """Refuse a file that ends early. FFmpeg conceals it: decoding just stops, as at the end of a healthy file.

    Frames and time must both be missing: a variable frame rate spoils the one, sound after the pictures the other.
    """
    if not walk.frames:
        raise DataError(f"{path} holds no frame that decodes")
    frames_missing = walk.frames < walk.declared * (1 - _LOSS_TOLERATED)
    if frames_missing and walk.end_s < walk.duration_s * (1 - _LOSS_TOLERATED):
        raise DataError(f"{path} is truncated or damaged: {walk.frames} of {walk.declared} frames decode")


def retrieve(capture: cv2.VideoCapture, path: Path | str) -> Frame:
    """The frame that `capture` grabbed last; `path` is what to call it in an error.

    Raises:
        DataError: it cannot be converted.
    """
    good, image = capture.retrieve()
    if not good or image.ndim != 3:
        raise DataError(f"{path} holds a frame that cannot be converted to RGB")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)
