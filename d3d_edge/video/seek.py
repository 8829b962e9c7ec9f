"""Reading a few frames of a long video without decoding the rest, to the same bytes. Opens no video to be decoded.

The packets of a file are read without decoding them, which takes about a tenth of the time or less. Their presentation
times, sorted, are those of the frames, so a frame's index and its time say the same. Every frame that is decoded after
a seek must come at the time that follows from this list; where one does not, the caller decodes the file as a whole.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from d3d_edge.video import boxes
from d3d_edge.video.container import address_of
from d3d_edge.video.once import once

Frame = npt.NDArray[np.uint8]
"""uint8 [h, w, 3] RGB."""

_LEAD_FRAMES = 16
"""OpenCV seeks at least this many frames before the one asked for, and decodes from there (cap_ffmpeg_impl.hpp)."""
_NEAR_S = 0.002
"""Edit lists count in steps of a thousandth of a second, mostly."""
_SHARE = 0.5
"""A file is decoded whole when more than this share of its frames must be decoded anyway."""


class Timeline(NamedTuple):
    """The frames of a file by its packets. Empty where these do not tell."""

    times_s: Sequence[float]
    """Presentation time of every frame, rising."""
    keys: Sequence[int]
    """Indices of the frames that can be decoded without those before, rising; the first is 0."""
    counts: bool
    """Whether every packet is a frame, as far as the format says."""

    def lead(self, index: int) -> int:
        """The key frame to begin at for frame `index`: not the last before it, but the one before that.

        Pictures behind a key frame in the file and before it in time may need frames of the group before it (an open
        group of pictures), so a decoder that begins at the key frame leaves them out or gets them wrong.
        """
        return self.keys[max(bisect_right(self.keys, index) - 2, 0)]


class Found(NamedTuple):
    """Frames by index, and how many were decoded to get them."""

    frames: dict[int, Frame]
    decoded: int


def may_pay(indices: Sequence[int], declared: int) -> bool:
    """Whether the sorted `indices` lie so close together that reading packets is worth a try."""
    return indices[-1] - indices[0] + 4 * _LEAD_FRAMES < _SHARE * declared


def count_packets(path: Path) -> int:
    """How many pictures the video at `path` holds, decoded or not."""
    capture = _undecoded(path)
    try:
        return sum(1 for _ in iter(capture.grab, False))
    finally:
        capture.release()


def _undecoded(path: Path) -> cv2.VideoCapture:
    """A video that gives its packets instead of frames."""
    return cv2.VideoCapture(address_of(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_FORMAT, -1])


@once(keep=8)
def timeline_of(path: Path) -> Timeline:
    """The frames of the video at `path`, from its packets."""
    nothing = Timeline((), (), False)
    capture = _undecoded(path)
    try:
        counts = int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little", signed=True) != b"VP80"
        packets = []
        while capture.grab():
            packets.append((time_s_of(capture), bool(capture.get(cv2.CAP_PROP_LRF_HAS_KEY_FRAME))))
    finally:
        capture.release()
    packets.sort()
    times_s = [time_s for time_s, _ in packets]
    keys = [index for index, (_, key) in enumerate(packets) if key]
    # Some containers (MPEG program streams) have no times for some packets, and those come with another one's.
    if not keys or keys[0] != 0 or any(now >= following for now, following in pairwise(times_s)):
        return nothing
    # Of a part of a video that was cut out, packets before the cut come too, and are no frames.
    if (shown_s := boxes.shown_s(path)) and times_s[-1] > shown_s - _NEAR_S:
        return nothing
    # VP8 keeps frames that are never shown in packets of their own.
    return Timeline(times_s, keys, counts)


def read(
    capture: cv2.VideoCapture, timeline: Timeline, indices: Sequence[int], counted: bool, retrieve: Callable[[], Frame]
) -> Found | None:
    """The frames at the sorted `indices`; None where decoding the whole file is surer, or not dearer.

    `capture` is freshly opened, and `retrieve` gives the frame that it has decoded last. `counted`: the indices follow
    from the number of frames in the file, so its first and last group of pictures are decoded too, to see that the
    frames are those that the packets promise.
    """
    total = len(timeline.times_s)
    parts = [(timeline.lead(indices[0]), indices[-1])]
    if counted:
        if not timeline.counts:
            return None
        second = timeline.keys[1] if len(timeline.keys) > 1 else total - 1
        parts = [(0, second), *parts, (timeline.lead(total - 1), total - 1)]
    if sum(last - first + 1 + _LEAD_FRAMES for first, last in parts) > _SHARE * total:
        return None
    # Where frames have no times of their own, as in an AVI with reordered frames, all come late by the same time.
    if not capture.grab() or time_s_of(capture) != timeline.times_s[0]:
        return None
    wanted = set(indices)
    frames: dict[int, Frame] = {}
    decoded = 1
    for first, last in parts:
        steps = _decode(capture, timeline, first, last, wanted, frames, retrieve)
        if steps is None:
            return None
        decoded += steps
    if counted and capture.grab():
        return None  # more frames than packets
    return Found(frames, decoded)


def _decode(
    capture: cv2.VideoCapture,
    timeline: Timeline,
    first: int,
    last: int,
    wanted: set[int],
    frames: dict[int, Frame],
    retrieve: Callable[[], Frame],
) -> int | None:
    """Decode from the key frame `first`, or somewhat before, to `last`; None if a frame is not at its time.

    A part that begins with the file comes first, when its first frame has just been decoded.
    """
    times_s = timeline.times_s
    if first > 0 and not (capture.set(cv2.CAP_PROP_POS_MSEC, times_s[first] * 1e3) and capture.grab()):
        return None
    # Whatever the seek makes of the time, the first frame must be the key frame asked for, or be before it.
    at = bisect_left(times_s, time_s_of(capture))
    if at > first:
        return None
    steps = _LEAD_FRAMES if first > 0 else -1
    while at < len(times_s) and time_s_of(capture) == times_s[at]:
        steps += 1
        if at in wanted:
            frames[at] = retrieve()
        if at >= last:
            return steps
        if not capture.grab():
            return None
        at += 1
    return None


def time_s_of(capture: cv2.VideoCapture) -> float:
    """Presentation time of the frame or packet that was read last."""
    return float(capture.get(cv2.CAP_PROP_POS_MSEC)) / 1e3
