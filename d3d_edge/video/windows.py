"""Sliding windows: the clips of a video or stream that goes on, each by the bundle's own ClipSpec. Runs no network.

Window number k begins at k strides. With dense sampling it is the frames that a clip needs, from there on. With uniform
sampling it is a length of time: a training video's T frames are spread over the whole of it, so a window has to be
about as long as those videos were. Either way, it is the clip that `load_clip` reads from a video cut to that time.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from d3d_edge.clip import ClipSpec
from d3d_edge.video.decode import NEAR_S, Frame
from d3d_edge.video.preprocess import TooFewFrames, centre_crop, frame_indices, resize_short_side


class Window(NamedTuple):
    """One clip of a stream."""

    start_s: float
    end_s: float
    """The first moment that is not part of it."""
    clip: npt.NDArray[np.uint8]
    """[T, H, W, C] RGB."""


class _Kept(NamedTuple):
    time_s: float
    frame: Frame


class Windows:
    """Cuts frames, pushed in order, into windows. Holds the frames of one window, resized and cropped."""

    def __init__(self, spec: ClipSpec, *, window_s: float, stride_s: float, rate_hz: float) -> None:
        self._spec = spec
        self._window_s = window_s if spec.sampling == "uniform" else None
        self._stride_s = stride_s
        self._number = 0
        self._kept: deque[_Kept] = deque()
        self._interval_s = 1 / rate_hz
        self.cut = 0
        """How many windows there were."""

    def push(self, time_s: float, frame: Frame) -> Window | None:
        """Take the next frame [h, w, 3], and give the window that is complete now, if one is.

        Raises:
            DataError: the frame is too small for the crop.
            TooFewFrames: the window that is complete has too few frames, and the spec refuses short clips.
        """
        small = np.ascontiguousarray(centre_crop(resize_short_side(frame, self._spec), self._spec))
        if self._kept:
            self._interval_s = time_s - self._kept[-1].time_s
        if time_s >= self._start_s - NEAR_S:
            self._kept.append(_Kept(time_s, small))
        return self._timed(time_s) or self._counted()

    def flush(self) -> Window | None:
        """At the end of a video: the window that ends with it, or all of a video that is shorter than a window.

        Raises:
            DataError: as `push`.
        """
        if not self._kept:
            return None
        end_s = self._kept[-1].time_s + self._interval_s
        return self._timed(end_s) or (None if self.cut else self._cut(end_s))

    @property
    def _start_s(self) -> float:
        return self._number * self._stride_s

    def _timed(self, now_s: float) -> Window | None:
        """With uniform sampling: the window, if it is over at `now_s`."""
        if self._window_s is None or not self._kept or now_s < self._start_s + self._window_s - NEAR_S:
            return None
        try:
            return self._cut(self._start_s + self._window_s)
        finally:
            self._begin_after(now_s - self._window_s)

    def _counted(self) -> Window | None:
        """With dense sampling: the window, if its last frame is there."""
        if self._window_s is not None or len(self._kept) < self._spec.frames_needed:
            return None
        try:
            return self._cut(self._kept[-1].time_s + self._interval_s)
        finally:
            self._begin_after(self._kept[0].time_s)

    def _begin_after(self, time_s: float) -> None:
        """To the first window that begins after `time_s`; frames before it are let go."""
        self._number = max(self._number, math.floor((time_s + NEAR_S) / self._stride_s)) + 1
        while self._kept and self._kept[0].time_s < self._start_s - NEAR_S:
            self._kept.popleft()

    def _cut(self, end_s: float) -> Window:
        kept = list(self._kept)
        kept = kept[: bisect_left(kept, end_s - NEAR_S, key=lambda one: one.time_s)]
        try:
            indices = frame_indices(len(kept), self._spec)
        except TooFewFrames as error:
            raise TooFewFrames(f"from {self._start_s:.2f} s on, {error.message}", hint=error.hint) from error
        self.cut += 1
        return Window(self._start_s, end_s, np.stack([kept[index].frame for index in indices]))
