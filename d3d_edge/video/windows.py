"""Sliding windows: the clips of a video or stream that goes on, each by the bundle's own ClipSpec. Runs no network.

Window number k begins at k strides. With dense sampling it is the frames that a clip needs, from there on. With uniform
sampling it is a length of time: a training video's T frames are spread over the whole of it, so a window has to be
about as long as those videos were. Either way, it is the clip that `load_clip` reads from a video cut to that time.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
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
        self._begun = False
        self.cut = 0
        """How many windows there were."""
        self.left_out = 0
        """How many there were not, for want of frames."""
        self.too_few: TooFewFrames | None = None
        """Why not, of the last of them that held frames."""

    def push(self, time_s: float, frame: Frame) -> Iterator[Window]:
        """Take the next frame [h, w, 3], and give the windows that are complete now; ask for all of them.

        With uniform sampling these are all that end here: several where the stride is shorter than the time since the
        last frame. With dense sampling one at most, since those that begin between two frames are the same frames.

        Raises:
            DataError: the frame is too small for the crop.
        """
        small = np.ascontiguousarray(centre_crop(resize_short_side(frame, self._spec), self._spec))
        if self._kept:
            self._interval_s = time_s - self._kept[-1].time_s
        if not self._begun:  # windows that were over before there was a frame are none
            self._begun = True
            self._begin(self._open_at(time_s))
        if time_s >= self._start_s - NEAR_S:
            self._kept.append(_Kept(time_s, small))
        return self._counted() if self._window_s is None else self._timed(time_s)

    def until(self, end_s: float) -> Iterator[Window]:
        """Where the frames are looked at up to `end_s` only: the windows that are over then."""
        return self._timed(end_s)

    def flush(self) -> Iterator[Window]:
        """At the end of a video: the windows that end with it, or all of a video that is shorter than a window."""
        if not self._kept:
            return
        end_s = self._kept[-1].time_s + self._interval_s
        yield from self._timed(end_s)
        if self._kept and not self.cut and not self.left_out:
            yield from self._cut(end_s)

    @property
    def _start_s(self) -> float:
        return self._number * self._stride_s

    def _timed(self, now_s: float) -> Iterator[Window]:
        """With uniform sampling: the windows that are over at `now_s`."""
        while self._window_s is not None and now_s >= self._start_s + self._window_s - NEAR_S:
            first_s = self._kept[0].time_s if self._kept else now_s
            if first_s >= self._start_s + self._window_s - NEAR_S:
                number = max(self._open_at(first_s), self._number + 1)
                self.left_out += number - self._number  # they hold no frame
                self._begin(number)
            else:
                yield from self._cut(self._start_s + self._window_s)
                self._begin(self._number + 1)

    def _counted(self) -> Iterator[Window]:
        """With dense sampling: the window, if its last frame is there."""
        if len(self._kept) >= self._spec.frames_needed:
            yield from self._cut(self._kept[-1].time_s + self._interval_s)
            self._begin(max(self._number, math.floor((self._kept[0].time_s + NEAR_S) / self._stride_s)) + 1)

    def _open_at(self, time_s: float) -> int:
        """With uniform sampling: the first window, from the present one on, that is not over at `time_s`."""
        over = -1 if self._window_s is None else math.floor((time_s - self._window_s + NEAR_S) / self._stride_s)
        return max(self._number, over + 1)

    def _begin(self, number: int) -> None:
        """To window `number`; frames before it are let go."""
        self._number = number
        while self._kept and self._kept[0].time_s < self._start_s - NEAR_S:
            self._kept.popleft()

    def _cut(self, end_s: float) -> Iterator[Window]:
        kept = list(self._kept)
        kept = kept[: bisect_left(kept, end_s - NEAR_S, key=lambda one: one.time_s)]
        try:
            indices = frame_indices(len(kept), self._spec)
        except TooFewFrames as error:
            self.left_out += 1
            self.too_few = TooFewFrames(f"from {self._start_s:.2f} s on, {error.message}", hint=error.hint)
        else:
            self.cut += 1
            yield Window(self._start_s, end_s, np.stack([kept[index].frame for index in indices]))
