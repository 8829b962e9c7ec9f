"""Opens video files, says what their containers declare, and why one does not open. Decodes no frame."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2

from d3d_edge.errors import DataError
from d3d_edge.files import is_text
from d3d_edge.video import boxes

# Damaged files make FFmpeg and OpenCV write to the C level's stderr; what is wrong is said by the DataErrors below.
# FFmpeg reads its level (-8 is AV_LOG_QUIET) when the first video is opened. Whoever sets a variable gets the log.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
if "OPENCV_LOG_LEVEL" not in os.environ:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

_MATROSKA = b"\x1aE\xdf\xa3"
_SEGMENT = bytes.fromhex("18538067")
"""What a Matroska or WebM file begins with, and the element behind that header that holds all else (RFC 9559, 5.1)."""
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_ASF_LIVE = 1
"""What a WMV and its properties begin with, and the flag of one whose end was unknown when it was written (ASF
specification, 3.1 and 3.2)."""
_SOUND_S = 0.5


class Promise(NamedTuple):
    """What a container declares of its pictures. A file that was cut does not hold that."""

    frames: float
    """0 where it says nothing."""
    end_s: float
    """Time of the last one, from the first one on."""
    sound_s: float
    """By how much of this it may be the end of the sound instead."""


@contextmanager
def opened(path: Path) -> Iterator[cv2.VideoCapture]:
    """A video at its first frame.

    Raises:
        DataError: `path` is missing, truncated or not a video.
    """
    if not is_text(path):
        raise DataError(f"the name of the video {str(path)!r} is no text in this locale", hint="rename it")
    if not os.path.isfile(path):  # Path.is_file() raises where a name is too long
        raise DataError(f"there is no video file {path}")
    # As many threads as OpenCV has: one in a process that shares the processors with others.
    threads = [cv2.CAP_PROP_N_THREADS, max(cv2.getNumThreads(), 1)]
    capture = cv2.VideoCapture(address_of(path), cv2.CAP_FFMPEG, threads)
    try:
        if not capture.isOpened():
            raise DataError(_why_not_opened(path))
        _refuse_fewer(path, _asf_bytes(path))
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
        yield capture
    finally:
        capture.release()


def refuse_cut(path: Path) -> None:
    """Refuse a Matroska or WebM file that ends before what it says, and so somewhere in what it shows.

    Raises:
        DataError: it does.
    """
    _refuse_fewer(path, _matroska_bytes(path))


def _refuse_fewer(path: Path, declared_bytes: int) -> None:
    if declared_bytes > (size_bytes := os.path.getsize(path)):
        raise DataError(f"{path} is truncated: {size_bytes} of {declared_bytes} bytes are there")


def address_of(path: Path) -> str:
    """What to call a file before FFmpeg, which takes what stands before a colon for a protocol: 12:30.mp4."""
    return os.path.abspath(path)


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
    if start[4:8] == b"ftyp" and not boxes.has_index(path):
        return f"{path} is truncated: it has no index of its frames (the moov box)"
    declared_bytes = int.from_bytes(start[4:8], "little") + 8
    if start[:4] == b"RIFF" and declared_bytes > size_bytes:
        return f"{path} is truncated: {size_bytes} of {declared_bytes} bytes are there"
    return f"{path} is not a video that FFmpeg can decode"


def _asf_bytes(path: Path) -> int:
    """The bytes that a WMV says it has, of which FFmpeg reads as many as there are; 0 for anything else."""
    with path.open("rb") as file:
        if file.read(len(_ASF)) != _ASF:
            return 0
        header = file.read(64 * 1024)
    place = header.find(_ASF_PROPERTIES)
    live = header[place + 88 : place + 92]
    if place < 0 or int.from_bytes(live, "little") & _ASF_LIVE:
        return 0
    return int.from_bytes(header[place + 40 : place + 48], "little")


def _matroska_bytes(path: Path) -> int:
    """The bytes that a Matroska or WebM file says it has; 0 for anything else, or where its end was unknown."""
    with path.open("rb") as file:
        start = file.read(4096)
    if not start.startswith(_MATROSKA):
        return 0
    size, behind = _ebml_size(start, len(_MATROSKA))
    segment = behind + size
    if start[segment : segment + len(_SEGMENT)] != _SEGMENT:
        return 0
    size, behind = _ebml_size(start, segment + len(_SEGMENT))
    return behind + size if size else 0


def _ebml_size(data: bytes, place: int) -> tuple[int, int]:
    """The number at `place` and the place behind it (RFC 8794, 4): leading zero bits say how many bytes, a one follows.

    The number is 0 where it is unknown (all ones), or there is none.
    """
    length = 9 - data[place].bit_length() if data[place : place + 1] > b"\0" else 1
    number = int.from_bytes(data[place : place + length], "big") & ((1 << 7 * length) - 1)
    return (0 if number == (1 << 7 * length) - 1 else number), place + length


def frame_rate_hz(path: Path) -> float:
    """Average frames per second, as the container declares it; 0 where it does not.

    Raises:
        DataError: `path` is missing or not a video.
    """
    with opened(path) as capture:
        return rate_hz_of(capture)


def declared_length_s(path: Path) -> float:
    """Length of a video as its container declares it; 0 where it does not.

    Raises:
        DataError: `path` is missing or not a video.
    """
    with opened(path) as capture:
        rate_hz = rate_hz_of(capture)
        return declared_of(capture) / rate_hz if rate_hz else 0.0


def declared_of(capture: cv2.VideoCapture) -> int:
    """How many frames the container declares; 0 where it does not."""
    declared = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    # Unknown is negative (an int64 minimum passed through a double in some containers).
    return int(declared) if 0 < declared < 2**31 else 0


def rate_hz_of(capture: cv2.VideoCapture) -> float:
    """Frames a second as the container or camera declares them; 0 where it does not."""
    rate_hz = float(capture.get(cv2.CAP_PROP_FPS))
    return rate_hz if 0 < rate_hz < float("inf") else 0.0


def promise_of(capture: cv2.VideoCapture, path: Path, first_s: float) -> Promise:
    """What the container of a file at `path` declares, whose first frame has the time `first_s` in it.

    MP4, MOV and AVI count their pictures, and the edit lists of the former say for how long they are shown. For others,
    and an MP4 of fragments, OpenCV takes the length of the file times the rate: sound counts, and in a Matroska or WebM
    file what comes before the first picture.
    """
    frames, rate_hz = float(declared_of(capture)), rate_hz_of(capture)
    with path.open("rb") as file:
        start = file.read(12)
    counted = start[:4] == b"RIFF" or (start[4:8] in boxes.FIRST and not boxes.is_fragmented(path))
    if shown_s := boxes.shown_s(path):
        frames = min(frames, shown_s * rate_hz)
    if start[:4] == _MATROSKA:
        frames -= first_s * rate_hz
    return Promise(frames, max(frames - 1, 0) / rate_hz if rate_hz else 0.0, 0.0 if counted else _SOUND_S)


def first_time_s(capture: cv2.VideoCapture) -> float:
    """The time in its file of the first frame, once it is grabbed; 0 where the file does not say."""
    rate_hz = rate_hz_of(capture)
    return max(float(capture.get(cv2.CAP_PROP_PTS)), 0.0) / rate_hz if rate_hz else 0.0
