"""Video files in, RGB frames out, through OpenCV's FFmpeg. Must not resize, sample or otherwise decide what a clip is.

Rotation metadata is honoured (OpenCV's auto-rotation), so that a phone's portrait video comes out upright.
"""

from __future__ import annotations

import math
import os
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from d3d_edge.errors import DataError
from d3d_edge.video import seek
from d3d_edge.video.seek import Frame as Frame
from d3d_edge.video.seek import time_s_of

# Damaged files make FFmpeg and OpenCV write to the C level's stderr; what is wrong is said by the DataErrors below.
# FFmpeg reads its level (-8 is AV_LOG_QUIET) when the first video is opened. Whoever sets a variable gets the log.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
if "OPENCV_LOG_LEVEL" not in os.environ:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

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
    with _opened(path) as capture:
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
                with _opened(path) as again:
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
    with _opened(path) as capture:
        times_s = _walk(capture, path, set(), convert)[1]
    places = span.of(times_s)
    if not places:
        where = f"from {span.start_s:g} s" + (f" to {span.end_s:g} s" if span.end_s < math.inf else "")
        raise DataError(f"{path} has no frame {where}: its last is at {times_s[-1]:.3f} s")
    indices = [places[index] for index in sorted(choose(len(places)))]
    with _opened(path) as capture:
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
    _check_complete(path, _Walk(times_s, declared_of(capture), _duration_s(capture)))
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
    with _opened(path) as capture:
        return len(_walk(capture, path, set(), lambda frame: frame)[1])


def iterate_frames(path: Path) -> Iterator[TimedFrame]:
    """Every frame in order, one in memory at a time.

    Raises:
        DataError: `path` is missing or not a video; after the last frame, that it is truncated or had none.
    """
    with _opened(path) as capture:
        times_s: list[float] = []
        while capture.grab():
            times_s.append(time_s_of(capture))
            yield TimedFrame(len(times_s) - 1, times_s[-1], retrieve(capture, path))
        walk = _Walk(times_s, declared_of(capture), _duration_s(capture))
    _check_complete(path, walk)


def first_frame(path: Path) -> Frame:
    """The first frame, without a look at the others.

    Raises:
        DataError: `path` is missing, not a video or without frames.
    """
    with _opened(path) as capture:
        if not capture.grab():
            raise DataError(f"{path} holds no frame that decodes")
        return retrieve(capture, path)


def frame_rate_hz(path: Path) -> float:
    """Average frames per second, as the container declares it; 0 where it does not.

    Raises:
        DataError: `path` is missing or not a video.
    """
    with _opened(path) as capture:
        return rate_hz_of(capture)


def declared_length_s(path: Path) -> float:
    """Length of a video as its container declares it; 0 where it does not.

    Raises:
        DataError: `path` is missing or not a video.
    """
    with _opened(path) as capture:
        rate_hz = rate_hz_of(capture)
        return declared_of(capture) / rate_hz if rate_hz else 0.0


@contextmanager
def _opened(path: Path) -> Iterator[cv2.VideoCapture]:
    if not path.is_file():
        raise DataError(f"there is no video file {path}")
    # As many threads as OpenCV has: one in a process that shares the processors with others.
    threads = [cv2.CAP_PROP_N_THREADS, max(cv2.getNumThreads(), 1)]
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, threads)
    try:
        if not capture.isOpened():
            raise DataError(_why_not_opened(path))
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
        yield capture
    finally:
        capture.release()


def _why_not_opened(path: Path) -> str:
    """One message for a file that FFmpeg does not open."""
    try:
        size_bytes = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(12)
    except OSError as error:
        return f"cannot read {path}: {error.strerror or error}"
    if not size_bytes:
        return f"{path} is empty"
    if start[4:8] == b"ftyp" and not _has_index(path, size_bytes):
        return f"{path} is truncated: it has no index of its frames (the moov box)"
    declared_bytes = int.from_bytes(start[4:8], "little") + 8
    if start[:4] == b"RIFF" and declared_bytes > size_bytes:
        return f"{path} is truncated: {size_bytes} of {declared_bytes} bytes are there"
    return f"{path} is not a video that FFmpeg can decode"


def _has_index(path: Path, size_bytes: int) -> bool:
    """Whether the top-level boxes of an MP4 or MOV (ISO/IEC 14496-12, 4.2) hold a whole `moov`."""
    place = 0
    with path.open("rb") as file:
        while place + 8 <= size_bytes:
            file.seek(place)
            header = file.read(16)
            length, kind = int.from_bytes(header[:4], "big"), header[4:8]
            if length == 1:
                length = int.from_bytes(header[8:16], "big")
            if kind == b"moov":
                return place + length <= size_bytes
            if length < 8:  # 0 means: to the end of the file
                return False
            place += length
    return False


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


def declared_of(capture: cv2.VideoCapture) -> int:
    """How many frames the container declares; 0 where it does not."""
    declared = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    # Unknown is negative (an int64 minimum passed through a double in some containers).
    return int(declared) if 0 < declared < 2**31 else 0


def rate_hz_of(capture: cv2.VideoCapture) -> float:
    """Frames a second as the container or camera declares them; 0 where it does not."""
    rate_hz = float(capture.get(cv2.CAP_PROP_FPS))
    return rate_hz if 0 < rate_hz < float("inf") else 0.0


def _duration_s(capture: cv2.VideoCapture) -> float:
    """Time of the last frame that the container declares."""
    rate_hz = rate_hz_of(capture)
    return max(declared_of(capture) - 1, 0) / rate_hz if rate_hz else 0.0
