"""Sliding windows are the clips that load_clip reads from the same video cut to the same time."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d3d_edge.video import decode
from d3d_edge.video.preprocess import load_clip
from d3d_edge.video.windows import Window, Windows
from tests.unit.video.samples import VideoWriter, spec_of

RATE_HZ = 25.0


def windows_of(path: Path, window_s: float, stride_s: float, **changes: Any) -> list[Window]:
    """All windows of a video."""
    cutter = Windows(spec_of(**changes), window_s=window_s, stride_s=stride_s, rate_hz=RATE_HZ)
    return cut(cutter, ((frame.time_s, frame.image) for frame in decode.iterate_frames(path)))


def cut(cutter: Windows, frames: Iterable[tuple[float, Any]]) -> list[Window]:
    """All windows of `frames`, each with its time."""
    found = [window for time_s, image in frames for window in cutter.push(time_s, image)]
    return [*found, *cutter.flush()]


UNIFORM: dict[str, Any] = {"frames": 4}
DENSE: dict[str, Any] = {"frames": 4, "sampling": "dense", "stride": 2}


@pytest.mark.parametrize(
    ("changes", "starts_s"),
    [
        pytest.param(UNIFORM, [0.0, 0.2, 0.4, 0.6, 0.8], id="uniform: over a length of time"),
        pytest.param(DENSE, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0], id="dense: over the frames needed"),
    ],
)
def test_a_window_is_the_clip_of_the_video_cut_to_its_time(
    write_video: VideoWriter, changes: dict[str, Any], starts_s: list[float]
) -> None:
    path = write_video(count=32)
    found = windows_of(path, 0.48, 0.2, **changes)
    assert [window.start_s for window in found] == pytest.approx(starts_s)
    for window in found:
        cut = load_clip(path, spec_of(**changes), start_s=window.start_s, end_s=window.end_s)
        assert (window.clip == cut).all()


@pytest.mark.parametrize("changes", [UNIFORM, DENSE | {"frames": 8}])
def test_a_video_shorter_than_a_window_is_one_window_and_the_whole_of_it(
    write_video: VideoWriter, changes: dict[str, Any]
) -> None:
    path = write_video(count=10)
    changes = changes | {"short_clips": "repeat_last"}
    (window,) = windows_of(path, 3.0, 0.1, **changes)
    assert (window.clip == load_clip(path, spec_of(**changes))).all()


def test_a_window_may_end_with_the_video(write_video: VideoWriter) -> None:
    assert [window.end_s for window in windows_of(write_video(count=25), 0.5, 0.25, **UNIFORM)] == [0.5, 0.75, 1.0]


def frame(value: int) -> Any:
    return np.full((48, 48, 3), value, np.uint8)


@given(rate_hz=st.floats(5, 120), window_s=st.floats(0.05, 2), stride_s=st.floats(0.02, 2), count=st.integers(1, 200))
def test_windows_of_any_length_and_stride(rate_hz: float, window_s: float, stride_s: float, count: int) -> None:
    """They begin at multiples of the stride, in rising order, and hold the frames of their time only."""
    spec = spec_of(frames=2, short_clips="repeat_last", short_side=8, height=8, width=8)
    window_s = max(window_s, 1.5 / rate_hz)  # a frame in each
    cutter = Windows(spec, window_s=window_s, stride_s=stride_s, rate_hz=rate_hz)
    small = [np.full((8, 8, 3), number, np.uint8) for number in range(count)]
    found = cut(cutter, ((number / rate_hz, image) for number, image in enumerate(small)))
    assert found
    assert cutter.cut == len(found)
    numbers = [round(window.start_s / stride_s) for window in found]
    assert numbers == list(range(len(found)))
    assert cutter.left_out == 0
    for window, number in zip(found, numbers, strict=True):
        assert window.start_s == pytest.approx(number * stride_s)
        times_s = window.clip[:, 0, 0, 0] / rate_hz
        assert (times_s >= window.start_s - 1e-3).all()
        assert (times_s < window.end_s).all()


@pytest.mark.parametrize(
    ("times_s", "starts_s", "left_out"),
    [
        pytest.param([0.0, 0.1, 0.2, 0.3, 5.0, 5.1, 5.2, 5.3, 5.4, 5.5], [0.0, 0.2, 4.8, 5.0], 22, id="a gap"),
        pytest.param([0.0, 0.3, 0.6, 0.9, 1.2], [0.0, 0.2, 0.4, 0.6, 0.8], 0, id="a rate below that of windows"),
        pytest.param([5.0, 5.1, 5.2, 5.3, 5.4, 5.5], [4.8, 5.0], 0, id="a late first frame"),
        pytest.param([0.0, 0.1, 1e9, 1e9 + 0.1], [0.0], 5 * 10**9 - 2, id="a clock that is set"),
    ],
)
def test_windows_without_frames_are_left_out_and_counted(
    times_s: list[float], starts_s: list[float], left_out: int
) -> None:
    cutter = Windows(spec_of(frames=2, short_clips="repeat_last"), window_s=0.4, stride_s=0.2, rate_hz=10)
    found = [window for time_s in times_s for window in cutter.push(time_s, frame(0))]
    assert [window.start_s for window in found] == pytest.approx(starts_s)
    assert cutter.left_out == left_out


def test_where_frames_end_before_the_end_that_is_wanted_no_window_is_made_of_nothing() -> None:
    cutter = Windows(spec_of(frames=2, short_clips="repeat_last"), window_s=0.4, stride_s=0.2, rate_hz=10)
    assert [window for number in range(4) for window in cutter.push(number / 10, frame(0))] == []
    assert [window.start_s for window in cutter.until(1e9)] == pytest.approx([0.0, 0.2])
    assert cutter.left_out == 5 * 10**9 - 3
    assert cutter.too_few is None


def test_too_few_frames_in_a_window_are_refused_and_the_next_window_is_tried() -> None:
    cutter = Windows(spec_of(frames=4), window_s=0.4, stride_s=0.4, rate_hz=10)
    assert not [window for time_s in (0.0, 0.2, 0.4) for window in cutter.push(time_s, frame(0))]
    assert cutter.left_out == 1
    assert str(cutter.too_few).startswith("from 0.00 s on, there are 2 frames, and a clip needs 4")
    given_at = [number for number in range(4) if list(cutter.push(0.5 + 0.1 * number, frame(0)))]
    assert given_at == [3]


def test_a_dense_window_is_given_with_its_last_frame() -> None:
    cutter = Windows(spec_of(**DENSE), window_s=9, stride_s=0.1, rate_hz=10)
    given_at = [number for number in range(12) if list(cutter.push(number / 10, frame(number)))]
    assert given_at == [6, 7, 8, 9, 10, 11]


@pytest.mark.parametrize("stride_s", [0.03, 0.1])
def test_dense_windows_that_begin_between_two_frames_are_one(stride_s: float) -> None:
    cutter = Windows(spec_of(frames=2, sampling="dense", stride=1), window_s=9, stride_s=stride_s, rate_hz=10)
    found = cut(cutter, ((number / 10, frame(10 * number)) for number in range(6)))
    assert [window.clip[:, 0, 0, 0].tolist() for window in found] == [[10 * n, 10 * n + 10] for n in range(5)]
    for number, window in enumerate(found):
        assert (number - 1) / 10 < window.start_s <= number / 10 + 1e-6
