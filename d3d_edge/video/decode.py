"""Video files in, RGB frames out, through OpenCV's FFmpeg. Must not resize, sample or otherwise decide what a clip is.

Rotation metadata is honoured (OpenCV's auto-rotation), so that a phone's portrait video comes out upright.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from d3d_edge.errors import DataError

# Damaged files make FFmpeg and OpenCV write to the C level's stderr; what is wrong is said by the DataErrors below.
# FFmpeg reads its level (-8 is AV_LOG_QUIET) when the first video is opened. Whoever sets a variable gets the log.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
if "OPENCV_LOG_LEVEL" not in os.environ:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

Frame = npt.NDArray[np.uint8]
"""uint8 [h, w, 3] RGB."""

_LOSS_TOLERATED = 0.05
"""Share of the declared frames, and of the declared time, that may be missing in a healthy file: containers without
a frame count (WebM, MKV) declare duration x rate, and the duration includes sound that ends after the pictures."""


class TimedFrame(NamedTuple):
    """One frame and its place in the video."""

    number: int
    """From 0."""
    time_s: float
    """Presentation time."""
    image: Frame


class _Walk(NamedTuple):
    """What a decoded file held: `frames` decoded of `declared`, the last one at `end_s` of `duration_s`."""

    frames: int
    declared: int
    end_s: float
    duration_s: float


def read_frames(path: Path, choose: Callable[[int], Collection[int]], convert: Callable[[Frame], Frame]) -> list[Frame]:
    """The frames `choose(number of frames)` of a video, each passed through `convert`.

    The container's frame count is not believed: the whole file is decoded and counted, and read again with the true
    count where the two differ. An index may be chosen twice; frames come in the order of the sorted indices.

    Raises:
        DataError: `path` is missing, not a video, truncated or without frames; or what `choose` and `convert` raise.
    """
    found = _read_guessing(path, choose, convert)
    if found is None:
        indices = sorted(choose(count_frames(path)))
        found = indices, _read(path, set(indices), convert)[0]
    indices, frames = found
    return [frames[index] for index in indices]


def _read_guessing(
    path: Path, choose: Callable[[int], Collection[int]], convert: Callable[[Frame], Frame]
) -> tuple[list[int], dict[int, Frame]] | None:
    """Read with the declared count, which makes one pass of two; None where it was wrong."""
    with _opened(path) as capture:
        declared = _declared(capture)
    try:
        indices = sorted(choose(declared))
    except DataError:
        return None  # too few frames declared; what decodes decides
    frames, walk = _read(path, set(indices), convert)
    return (indices, frames) if walk.frames == declared else None


def _read(path: Path, wanted: set[int], convert: Callable[[Frame], Frame]) -> tuple[dict[int, Frame], _Walk]:
    frames = {}
    with _opened(path) as capture:
        number, end_s = 0, 0.0
        while capture.grab():
            end_s = _time_s(capture)
            if number in wanted:
                frames[number] = convert(_retrieve(capture, path))
            number += 1
        walk = _Walk(number, _declared(capture), end_s, _duration_s(capture))
    _check_complete(path, walk)
    return frames, walk


def count_frames(path: Path) -> int:
    """The number of frames that decode.

    Raises:
        DataError: `path` is missing, not a video, truncated or without frames.
    """
    return _read(path, set(), lambda frame: frame)[1].frames


def iterate_frames(path: Path) -> Iterator[TimedFrame]:
    """Every frame in order, one in memory at a time.

    Raises:
        DataError: `path` is missing or not a video; after the last frame, that it is truncated or had none.
    """
    with _opened(path) as capture:
        number, time_s = 0, 0.0
        while capture.grab():
            time_s = _time_s(capture)
            yield TimedFrame(number, time_s, _retrieve(capture, path))
            number += 1
        walk = _Walk(number, _declared(capture), time_s, _duration_s(capture))
    _check_complete(path, walk)


def frame_rate_hz(path: Path) -> float:
    """Average frames per second, as the container declares it; 0 where it does not.

    Raises:
        DataError: `path` is missing or not a video.
    """
    with _opened(path) as capture:
        return _rate_hz(capture)


@contextmanager
def _opened(path: Path) -> Iterator[cv2.VideoCapture]:
    if not path.is_file():
        raise DataError(f"there is no video file {path}")
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
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


def _retrieve(capture: cv2.VideoCapture, path: Path) -> Frame:
    good, image = capture.retrieve()
    if not good or image.ndim != 3:
        raise DataError(f"{path} holds a frame that cannot be converted to RGB")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _declared(capture: cv2.VideoCapture) -> int:
    declared = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    # Unknown is negative (an int64 minimum passed through a double in some containers).
    return int(declared) if 0 < declared < 2**31 else 0


def _rate_hz(capture: cv2.VideoCapture) -> float:
    rate_hz = float(capture.get(cv2.CAP_PROP_FPS))
    return rate_hz if 0 < rate_hz < float("inf") else 0.0


def _duration_s(capture: cv2.VideoCapture) -> float:
    """Time of the last frame that the container declares."""
    rate_hz = _rate_hz(capture)
    return max(_declared(capture) - 1, 0) / rate_hz if rate_hz else 0.0


def _time_s(capture: cv2.VideoCapture) -> float:
    return float(capture.get(cv2.CAP_PROP_POS_MSEC)) / 1e3
