"""The overlay: a source's frames with the answers drawn on them, as a video. Answers nothing itself."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from d3d_edge.video import encode, overlay
from d3d_edge.video.decode import TimedFrame
from d3d_edge.video.overlay import Overlay, Score
from d3d_edge.video.stream import Source, opened


class Film:
    """A video begun with the first frame; a context manager, and the file appears when it is left without an error.

    It has a rate of its own: a source's frames are held or left out, so that times stay true.
    """

    def __init__(self, path: Path, rate_hz: float) -> None:
        self._path, self._rate_hz = path, encode.fitting(rate_hz)
        self._stack = ExitStack()
        self._written = 0

    def __enter__(self) -> Film:
        self._stack.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.__exit__(*exc_info)  # type: ignore[arg-type]

    def add(self, frame: TimedFrame, scores: Sequence[Score], waiting: str = "") -> None:
        """One more frame with its answer; `waiting` is said while there is none."""
        if not self._written:
            self._overlay = Overlay(*frame.image.shape[:2])
            size = (self._overlay.width, self._overlay.height)
            self._write = self._stack.enter_context(encode.writer(self._path, self._rate_hz, *size))
        due = max(1, round(frame.time_s * self._rate_hz) + 1)  # the first may be a little early
        if due <= self._written:
            return
        seconds = int(frame.time_s)
        note = f"{seconds // 60}:{seconds % 60:02d}" if scores else waiting
        drawn = self._overlay.draw(frame.image, scores, note)
        while self._written < due:
            self._write(drawn)
            self._written += 1


def named(scores: npt.NDArray[np.float64], labels: Sequence[str]) -> list[Score]:
    """The likeliest of `labels` by their `scores` [classes], as many as are drawn."""
    order = np.argsort(-scores, kind="stable")[: overlay.SHOWN]
    return [Score(labels[index], float(scores[index])) for index in order]


def of_file(
    source: Source, path: Path, middles_s: Sequence[float], answers: Sequence[Sequence[Score]], seconds: float | None
) -> None:
    """Draw a file: each frame has the answer of the window whose middle, of the rising `middles_s`, is nearest.

    Raises:
        DataError: the file cannot be read.
        StorageError: the video cannot be written.
    """
    halves_s = [(one + other) / 2 for one, other in pairwise(middles_s)]
    with opened(source) as stream, Film(path, stream.rate_hz) as film:
        for frame in stream.frames:
            if seconds is not None and frame.time_s >= seconds:
                break
            film.add(frame, answers[bisect_left(halves_s, frame.time_s)])
