"""Which answer is drawn on which frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from d3d_edge.pipeline.film import Film, named, of_file
from d3d_edge.video import decode, encode
from d3d_edge.video.decode import Frame, TimedFrame
from d3d_edge.video.overlay import Overlay, Score
from d3d_edge.video.stream import Source

ANSWERS = ([Score("up", 0.9)], [Score("down", 0.1)])


def grey(side: int = 384) -> Frame:
    return np.full((side, side, 3), 128, np.uint8)


def written(path: Path) -> list[Frame]:
    return [frame.image for frame in decode.iterate_frames(path)]


def which(frame: Frame, note: str) -> int:
    """The place of the answer that `frame` shows."""
    pictures = [Overlay(384, 384).draw(grey(), scores, note).astype(float) for scores in ANSWERS]
    return int(np.argmin([np.abs(picture - frame).mean() for picture in pictures]))


@pytest.mark.parametrize(
    ("middles_s", "shown"), [([0.1, 0.56], [0, 0, 0, 0, 1, 1, 1, 1, 1, 1]), ([0.3], [0] * 10), ([9.0, 9.1], [0] * 10)]
)
def test_a_frame_of_a_file_shows_the_nearest_window(tmp_path: Path, middles_s: list[float], shown: list[int]) -> None:
    with encode.writer(tmp_path / "in.avi", 10, 384, 384) as write:
        for _ in range(10):
            write(grey())
    of_file(Source.of(str(tmp_path / "in.avi")), tmp_path / "out.avi", middles_s, ANSWERS[: len(middles_s)], None)
    assert [which(frame, "0:00") for frame in written(tmp_path / "out.avi")] == shown


def test_times_stay_true_when_frames_come_late_or_thick(tmp_path: Path) -> None:
    times_s = [0.0, 0.01, 0.02, 0.1, 0.5, 0.51]
    with Film(tmp_path / "out.avi", 10) as film:
        for number, time_s in enumerate(times_s):
            film.add(TimedFrame(time_s, grey(64)), ANSWERS[number == 4])
    frames = written(tmp_path / "out.avi")
    assert len(frames) == 6
    assert [which(frame, "0:00") for frame in frames] == [0, 0, 1, 1, 1, 1]


def test_a_first_frame_that_comes_early_is_written_once(tmp_path: Path) -> None:
    with Film(tmp_path / "out.avi", 10) as film:
        for time_s in (-0.09, 0.1):
            film.add(TimedFrame(time_s, grey(64)), ANSWERS[0])
    assert len(written(tmp_path / "out.avi")) == 2


def test_without_a_frame_nothing_is_written(tmp_path: Path) -> None:
    with Film(tmp_path / "out.avi", 10):
        pass
    assert not list(tmp_path.iterdir())


def test_the_likeliest_classes_are_named() -> None:
    scores = named(np.array([0.1, 0.5, 0.1, 0.3]), ["a", "b", "c", "d"])
    assert scores == [Score("b", 0.5), Score("d", 0.3), Score("a", 0.1)]
