"""Video files in, RGB frames out, through OpenCV's FFmpeg. Must not resize, sample or otherwise decide what a clip is.

Rotation metadata is honoured (OpenCV's auto-rotation), so that a phone's portrait video comes out upright.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Self

import cv2
import numpy as np
import numpy.typing as npt

from d3d_edge.errors import DataError
from d3d_edge.video import interlaced, seek
from d3d_edge.video.container import (
    address_of,
    declared_of,
    first_time_s,
    opened,
    promise_of,
    rate_hz_of,
    refuse_cut,
)
from d3d_edge.video.seek import Frame as Frame
from d3d_edge.video.seek import time_s_of

_LOSS_TOLERATED = 0.05
"""Share of the declared frames, and of the declared time, that may be missing in a healthy file."""


NEAR_S = 5e-4
"""Times this near are the same: they are multiples of a time base, and 1.0 may come as 0.9999999."""


class TimedFrame(NamedTuple):
    """One frame and its time in the video."""

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
_UNSEEN: Frame = np.empty((0, 0, 3), np.uint8)
"""Instead of a frame of which the time alone is asked for."""


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
        if span == WHOLE:
            refuse_cut(path)
        declared = declared_of(capture)
        indices = _chosen(choose, range(declared)) if span == WHOLE else None
        if indices and not seek.may_pay(indices, declared):
            frames, times_s = _walk(capture, path, set(indices), convert)
            if len(times_s) == declared:
                return Reading([frames[index] for index in indices], declared)
            indices = None
        if indices or span != WHOLE:
            timeline = seek.timeline_of(path)
            if timeline.times_s and span != WHOLE and span.end_s > timeline.times_s[-1] + NEAR_S:
                _check_end(path, timeline.times_s)
            if indices := _chosen(choose, span.of(timeline.times_s)):
                counted = span == WHOLE
                pictures = Pictures.of_file(capture, path)
                found = seek.read(capture, timeline, indices, counted, lambda: convert(pictures.now()))
                if found is not None:
                    return Reading([found.frames[index] for index in indices], found.decoded)
                with opened(path) as again:
                    frames, times_s = _walk(again, path, set(indices), convert)
                if _same(times_s, timeline.times_s):
                    return Reading([frames[index] for index in indices], len(times_s))
            elif timeline.times_s and span != WHOLE:
                # A list's wrong time need not cost a film: what decodes about there shows that the times are true.
                places = span.of(timeline.times_s)
                about = [*places] or [min(places.start, len(timeline.times_s) - 1)]
                if seek.read(capture, timeline, about, False, lambda: _UNSEEN):
                    _indices(choose, timeline.times_s, span, path)
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
    indices = _indices(choose, times_s, span, path)
    with opened(path) as capture:
        frames = _walk(capture, path, set(indices), convert)[0]
    return Reading([frames[index] for index in indices], 2 * len(times_s))


def _indices(choose: Callable[[int], Collection[int]], times_s: Sequence[float], span: Span, path: Path) -> list[int]:
    """What is chosen of the frames of a span.

    Raises:
        DataError: there is none; or what `choose` raises.
    """
    places = span.of(times_s)
    if not places:
        where = f"from {span.start_s:g} s" + (f" to {span.end_s:g} s" if span.end_s < math.inf else "")
        raise DataError(f"{path} has no frame {where}: its last is at {times_s[-1]:.3f} s")
    return [places[index] for index in sorted(choose(len(places)))]


def _walk(
    capture: cv2.VideoCapture, path: Path, wanted: set[int], convert: Callable[[Frame], Frame]
) -> tuple[dict[int, Frame], list[float]]:
    """The wanted frames of a freshly opened file by their numbers, and the times of all."""
    frames = {}
    times_s: list[float] = []
    first_s = 0.0
    pictures = Pictures.of_file(capture, path)
    while capture.grab():
        first_s = first_s if times_s else first_time_s(capture)
        if len(times_s) in wanted:
            frames[len(times_s)] = convert(pictures.now())
        times_s.append(time_s_of(capture))
    _check_complete(capture, path, times_s, first_s)
    return frames, _rising(times_s, rate_hz_of(capture))


def _rising(times_s: list[float], rate_hz: float) -> list[float]:
    """The times of all frames; by their number where one falls: a file such as an AVI with reordered frames has none.

    Equal ones are of a file that tells times in coarse steps.
    """
    if rate_hz and any(now > following for now, following in pairwise(times_s)):
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
        first_s = 0.0
        pictures = Pictures.of_file(capture, path)
        while capture.grab():
            first_s = first_s if times_s else first_time_s(capture)
            times_s.append(time_s_of(capture))
            yield TimedFrame(times_s[-1], pictures.now())
        _check_complete(capture, path, times_s, first_s)


def first_frame(path: Path) -> Frame:
    """The first frame, without a look at the others.

    Raises:
        DataError: `path` is missing, not a video or without frames.
    """
    with opened(path) as capture:
        if not capture.grab():
            raise _nothing_decodes(capture, path)
        return Pictures(capture, str(path)).now()


def _check_end(path: Path, times_s: Sequence[float]) -> None:
    """Refuse a file whose packets, at `times_s`, end before what its container declares.

    Raises:
        DataError: they do.
    """
    with opened(path) as capture:
        if capture.grab():
            _check_complete(capture, path, times_s, first_time_s(capture))


def _check_complete(capture: cv2.VideoCapture, path: Path, times_s: Sequence[float], first_s: float) -> None:
    """Refuse a file that ends early. FFmpeg conceals it: decoding just stops, as at the end of a healthy file.

    Frames and time must both be missing: a variable frame rate spoils the one, sound after the pictures the other.
    """
    refuse_cut(path)
    if not times_s:
        raise _nothing_decodes(capture, path)
    promise = promise_of(capture, path, first_s)
    frames_missing = len(times_s) < promise.frames * (1 - _LOSS_TOLERATED)
    if frames_missing and max(times_s) < promise.end_s - max(promise.end_s * _LOSS_TOLERATED, promise.sound_s):
        raise DataError(
            f"{path} is truncated or damaged: {len(times_s)} of {promise.frames:.0f} frames decode",
            hint="or its sound is longer than its pictures: ffmpeg -i IN -an -c copy OUT" if promise.sound_s else "",
        )


def _nothing_decodes(capture: cv2.VideoCapture, path: Path) -> DataError:
    codec = int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little", signed=True).strip(b"\0 ")
    name = codec.decode() if codec.isalnum() and codec.isascii() else "unknown"
    return DataError(
        f"{path} holds no frame that decodes",
        hint=f"its codec is {name}: if a player shows it, this OpenCV lacks that codec; ffmpeg -i IN -c:v libx264 OUT",
    )


class Pictures:
    """The pictures of a capture as frames.

    name      what to call the video in an error
    address   where FFmpeg finds the file once more, to tell a picture that stands still from one that was not
              converted; empty for what is live
    """

    def __init__(self, capture: cv2.VideoCapture, name: str, address: str = "") -> None:
        self._capture, self._name, self._address = capture, name, address
        self._last: npt.NDArray[Any] | None = None

    @classmethod
    def of_file(cls, capture: cv2.VideoCapture, path: Path) -> Self:
        """Those of a file that `capture` has open."""
        return cls(capture, str(path), address_of(path))

    def now(self) -> Frame:
        """The frame that the capture grabbed last.

        Raises:
            DataError: it cannot be converted.
        """
        good, image = self._capture.retrieve()
        if not good or image.ndim != 3:
            raise DataError(f"{self._name} holds a frame that cannot be converted to RGB")
        if self._address and self._last is not None and _same_picture(image, self._last):
            if interlaced.is_refused(self._address, time_s_of(self._capture)):
                raise DataError(
                    f"{self._name} is interlaced, which OpenCV {cv2.__version__} does not convert",
                    hint="ffmpeg -i IN -vf yadif OUT makes frames of its fields",
                )
            self._address = ""  # looking once is enough
        self._last = image
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _same_picture(image: npt.NDArray[Any], other: npt.NDArray[Any]) -> bool:
    # Most pictures differ somewhere in these few rows.
    return np.array_equal(image[::32], other[::32]) and np.array_equal(image, other)
