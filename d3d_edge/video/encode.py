"""Videos written whole or not at all, through OpenCV's FFmpeg. Decides no pixel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import cv2

from d3d_edge import native
from d3d_edge.errors import DataError, RecipeError, StorageError
from d3d_edge.files import atomic_file, sweep
from d3d_edge.video import seek
from d3d_edge.video.container import address_of
from d3d_edge.video.decode import Frame, first_frame

_MOST_HZ, _LARGEST = 1000.0, 65535
"""The most pictures a second that are worth writing, and the largest whole number in the time base of MPEG-4, which has
16 bits; OpenCV makes that number of a rate by as many tens as its fraction needs."""
# What every build of OpenCV from PyPI encodes: its FFmpeg has no H.264. Browsers play WebM only.
_CODEC_OF = {".mp4": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "MJPG", ".webm": "VP90"}


def check_name(path: Path) -> None:
    """Refuse a name whose suffix is no container that can be written.

    Raises:
        RecipeError: it is not.
    """
    if path.suffix.lower() not in _CODEC_OF:
        raise RecipeError(f"cannot tell the format of the video {path}", hint=f"a name in {', '.join(_CODEC_OF)}")


def fitting(rate_hz: float) -> float:
    """The rate nearest to `rate_hz` that every container can have."""
    rate_hz = min(rate_hz, _MOST_HZ)
    return next(fits for digits in (3, 2, 1) if (fits := round(rate_hz, digits)) * 10**digits <= _LARGEST)


@contextmanager
def writer(path: Path, rate_hz: float, width: int, height: int) -> Iterator[Callable[[Frame], None]]:
    """Yield a function that adds one frame [height, width, 3]; the video appears at `path` when the block ends well.

    `rate_hz` is a `fitting` one. What killed processes left half-written in the folder is deleted.

    Raises:
        RecipeError: the suffix is not one of a video.
        StorageError: it cannot be written.
    """
    check_name(path)
    with atomic_file(path) as partial:
        sweep(partial.parent)
        # OpenCV picks the container by the suffix, which the partial file has not.
        scratch = partial.with_name(partial.name + path.suffix.lower())
        fourcc = cv2.VideoWriter.fourcc(*_CODEC_OF[path.suffix.lower()])
        with native.notes():  # that WebM has no name for its own codec, for one
            video = cv2.VideoWriter(address_of(scratch), cv2.CAP_FFMPEG, fourcc, rate_hz, (width, height))
        try:
            if not video.isOpened():
                raise StorageError(f"cannot write the video {path}", hint="is its folder writable, and the disk full?")

            written = 0

            def write(frame: Frame) -> None:
                nonlocal written
                video.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
                written += 1

            yield write
            video.release()
            _check(scratch, path, written)
            scratch.replace(partial)
        finally:
            video.release()
            with suppress(OSError):
                scratch.unlink()


def _check(scratch: Path, path: Path, written: int) -> None:
    """OpenCV says nothing of a full disk. An MP4 without its index, which is written last, does not open; of other
    containers what was written until then can be read."""
    try:
        first_frame(scratch)
    except DataError as error:
        raise StorageError(f"cannot write the video {path}: {error.message}", hint="is the disk full?") from error
    if (there := seek.count_packets(scratch)) < written:
        raise StorageError(f"cannot write the video {path}: {there} of its {written} frames", hint="is the disk full?")
