"""Frames of a file, a camera or a stream, one after the other with their times. Must not resize, sample or drop any.

Times: a file and a stream bring presentation times. A camera's frame, and one of a Motion JPEG stream, which has no
times of its own, counts from when it came.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import unquote, urlsplit

import cv2

from d3d_edge.errors import DataError, DeviceError
from d3d_edge.video import container, decode
from d3d_edge.video.decode import TimedFrame
from d3d_edge.video.seek import time_s_of

_PATIENCE_MS = 10_000
"""How long a stream may take to open, and to send its next frame."""
_STALLED_SHARE = 0.9
"""A source that was waited for so long, of the patience, did not end. That of OpenCV's cameras is the same 10 s."""
_USUAL_RATE_HZ = 25.0
"""Where nobody says: the rate that FFmpeg assumes as well."""


@dataclass(frozen=True)
class Source:
    """Where frames come from."""

    kind: Literal["file", "camera", "stream"]
    address: str
    """Path, number of the camera, or URL."""

    @classmethod
    def of(cls, text: str) -> Source:
        """A number is a camera, what has :// in it is a stream, and all else is a file."""
        if text.isascii() and text.isdigit():
            return cls("camera", text)
        return cls("stream" if "://" in text else "file", text)

    @property
    def live(self) -> bool:
        """Whether it may never end."""
        return self.kind != "file"

    @property
    def files(self) -> tuple[str, ...]:
        """Paths of the file that it may be: FFmpeg takes what follows file: as it stands, others decode its %20."""
        if self.kind == "file":
            return (self.address,)
        scheme, _, path = self.address.partition("://")
        if self.kind == "camera" or scheme.lower() != "file":
            return ()
        path = f"/{path.lstrip('/')}"
        return (path, unquote(path))

    @property
    def name(self) -> str:
        """For people: without the password and the query that a URL may hold."""
        if self.kind == "camera":
            return f"camera {self.address}"
        if self.kind == "file":
            return self.address
        try:
            parts = urlsplit(self.address)
        except ValueError:  # brackets that are none of an address; OpenCV says the rest
            return f"{self.address.partition('://')[0]}://..."
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class Stream(NamedTuple):
    """An opened source."""

    rate_hz: float
    """Frames a second, as declared, or a guess."""
    frames: Iterator[TimedFrame]
    """In order; their times rise. What is wrong is raised on the way, or after the last frame."""


@contextmanager
def opened(source: Source) -> Iterator[Stream]:
    """Open a source.

    Raises:
        DataError: the file or stream cannot be read; also while its frames are taken.
        DeviceError: there is no such camera, or it gives no frame.
    """
    if source.kind == "file":
        path = Path(source.address)
        rate_hz = container.frame_rate_hz(path) or _USUAL_RATE_HZ
        yield Stream(rate_hz, _rising(decode.iterate_frames(path), rate_hz))
        return
    capture = _captured(source)
    try:
        rate_hz = container.rate_hz_of(capture) or _USUAL_RATE_HZ
        yield Stream(rate_hz, _live_frames(capture, source, rate_hz))
    finally:
        capture.release()


def _captured(source: Source) -> cv2.VideoCapture:
    if source.kind == "camera":
        capture = cv2.VideoCapture(int(source.address)) if len(source.address) < 6 else cv2.VideoCapture()
        if not capture.isOpened():
            raise DeviceError(f"{source.name} cannot be opened", hint="is it connected, and used by no other program?")
        return capture
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _PATIENCE_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _PATIENCE_MS]
    capture = cv2.VideoCapture(source.address, cv2.CAP_FFMPEG, limits)
    if not capture.isOpened():
        raise DataError(
            f"the stream {source.name} cannot be opened", hint="does it run, and does a video player show it?"
        )
    return capture


def _live_frames(capture: cv2.VideoCapture, source: Source, rate_hz: float) -> Iterator[TimedFrame]:
    """Frames until the source ends; times from the first frame on."""
    # Nobody declares how long a live Motion JPEG stream is, and FFmpeg makes its times up.
    motion_jpeg = int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little", signed=True) == b"MJPG"
    arrival = source.kind == "camera" or (motion_jpeg and not container.declared_of(capture))
    said_s = time_s = -1 / rate_hz
    begun = False
    pictures = decode.Pictures(capture, source.name)
    while True:
        asked_s = time.monotonic()
        if not capture.grab():
            # OpenCV does not say whether the source ended or was waited for too long.
            waited_s = time.monotonic() - asked_s
            break
        now_s = time.monotonic() if arrival else time_s_of(capture)
        passed_s = now_s - said_s
        # A stream's times may begin anywhere, and begin again; none is waited for longer than this.
        time_s += passed_s if begun and 0 < passed_s < _PATIENCE_MS / 1e3 else 1 / rate_hz
        said_s = now_s
        yield TimedFrame(time_s, pictures.now())
        begun = True
    error = DeviceError if source.kind == "camera" else DataError
    if waited_s > _STALLED_SHARE * _PATIENCE_MS / 1e3:
        raise error(f"{source.name} sent nothing for {waited_s:.0f} s", hint="is it still there, and the way to it?")
    if not begun:
        raise error(f"{source.name} gives no frame")


def _rising(frames: Iterator[TimedFrame], rate_hz: float) -> Iterator[TimedFrame]:
    """The frames; one whose time does not rise, as in an AVI with reordered frames, comes a frame's length later."""
    last_s = -1 / rate_hz
    for frame in frames:
        last_s = frame.time_s if frame.time_s > last_s else last_s + 1 / rate_hz
        yield frame._replace(time_s=last_s)
