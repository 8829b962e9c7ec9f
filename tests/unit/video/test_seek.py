"""What is read by a seek equals what decoding the whole file gives; where that is not sure, the file is decoded."""

from __future__ import annotations

import math
import shutil
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from d3d_edge.errors import DataError
from d3d_edge.video import seek
from d3d_edge.video.decode import Span, iterate_frames, read_frames
from d3d_edge.video.preprocess import load_frames
from d3d_edge.video.rendered import render_clip
from d3d_edge.video.seek import Timeline
from tests.unit.video.samples import VideoWriter, spec_of

FRAMES = 240
KINDS = [
    ("a.mp4", "mp4v"),
    ("a.avi", "XVID"),
    ("a.avi", "MJPG"),
    ("a.mkv", "mpg2"),  # two reordered frames (B) between others, in open groups of pictures
    ("a.mp4", "mpg2"),
    ("a.ts", "mpg2"),
    ("a.webm", "VP80"),
    ("a.webm", "VP90"),
]
INEXACT = [("a.mpg", "mpg1"), ("a.avi", "mpg2")]
"""A program stream lacks times of some packets, and an AVI with reordered frames has none of its own."""


@pytest.fixture(scope="module")
def images() -> list[npt.NDArray[np.uint8]]:
    """No two frames alike."""
    return render_clip("rotate_left", 0, seed=3, size_px=64, frames=FRAMES)


def every(count: int) -> range:
    return range(count)


def whole(path: Path) -> list[tuple[float, npt.NDArray[np.uint8]]]:
    return [(frame.time_s, frame.image) for frame in iterate_frames(path)]


@pytest.mark.parametrize(("name", "fourcc"), KINDS)
@pytest.mark.parametrize("span", [(0.0, 0.5), (2.0, 3.0), (4.52, 5.0), (9.0, math.inf), (4.0, 4.04)])
def test_a_part_has_the_frames_of_its_times_without_decoding_all(
    write_video: VideoWriter, images: list[npt.NDArray[np.uint8]], name: str, fourcc: str, span: tuple[float, float]
) -> None:
    path = write_video(name, frames=images, fourcc=fourcc)
    start_s, end_s = span
    expected = [image for time_s, image in whole(path) if start_s - 5e-4 <= time_s < end_s - 5e-4]
    reading = read_frames(path, every, lambda frame: frame, Span(*span))
    assert reading.decoded < FRAMES / 2
    assert len(expected) == math.ceil((min(end_s, FRAMES / 25) - start_s) * 25 - 1e-6)
    np.testing.assert_array_equal(np.stack(reading.frames), np.stack(expected))


@pytest.mark.parametrize(("name", "fourcc"), INEXACT)
@pytest.mark.parametrize("span", [(0.0, 0.5), (2.0, 3.0), (9.0, math.inf)])
def test_where_a_seek_is_not_sure_the_file_is_decoded(
    write_video: VideoWriter, images: list[npt.NDArray[np.uint8]], name: str, fourcc: str, span: tuple[float, float]
) -> None:
    path = write_video(name, frames=images, fourcc=fourcc)
    # As these times are not to be had, a frame's number says when it is shown.
    expected = [
        image for number, (_, image) in enumerate(whole(path)) if span[0] - 5e-4 <= number / 25 < span[1] - 5e-4
    ]
    reading = read_frames(path, every, lambda frame: frame, Span(*span))
    assert reading.decoded >= FRAMES
    np.testing.assert_array_equal(np.stack(reading.frames), np.stack(expected))


@pytest.mark.parametrize(("name", "fourcc"), [*KINDS, *INEXACT])
def test_dense_sampling_takes_the_middle_of_a_long_file(
    write_video: VideoWriter, images: list[npt.NDArray[np.uint8]], name: str, fourcc: str
) -> None:
    path = write_video(name, frames=images, fourcc=fourcc)
    spec = spec_of(frames=6, sampling="dense", stride=2, short_side=64)
    middle = [image for _, image in whole(path)][(FRAMES - 11) // 2 :: 2][:6]
    np.testing.assert_array_equal(load_frames(path, spec), np.stack(middle))
    counted = read_frames(path, lambda count: [count // 2], lambda frame: frame).decoded
    surely = (name, fourcc) not in [*INEXACT, ("a.webm", "VP80")]
    assert (counted < FRAMES) == surely


def test_a_wrong_number_of_frames_in_the_container_does_not_move_the_middle(
    write_video: VideoWriter, images: list[npt.NDArray[np.uint8]]
) -> None:
    path = write_video("a.avi", frames=images, fourcc="MJPG")
    expected = whole(path)[FRAMES // 2][1]
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.find(b"avih") + 8 + 16, 200)  # dwTotalFrames
    struct.pack_into("<I", data, data.find(b"strh") + 8 + 32, 200)  # dwLength
    path.write_bytes(data)
    (middle,) = read_frames(path, lambda count: [count // 2], lambda frame: frame).frames
    np.testing.assert_array_equal(middle, expected)


@pytest.mark.parametrize("shift", ["late", "swapped", "fewer", "more"])
def test_a_frame_that_is_not_where_its_packet_says_ends_the_seek(
    write_video: VideoWriter, images: list[npt.NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch, shift: str
) -> None:
    """Wrong timelines, as a decoder makes them that drops frames or names them late."""
    path = write_video("a.mp4", frames=images)
    times_s = [number / 25 for number in range(FRAMES)]
    wrong = {
        "late": [time_s + 2 / 25 for time_s in times_s],
        "swapped": [*times_s[:120], times_s[120] + 0.01, *times_s[121:]],
        "fewer": times_s[:-3],
        "more": [*times_s, 9.6],
    }[shift]
    timeline = Timeline(wrong, range(0, len(wrong), 12), True)
    monkeypatch.setattr(seek, "timeline_of", lambda path: timeline)
    reading = read_frames(path, lambda count: range(count // 2 - 4, count // 2 + 4), lambda frame: frame)
    expected = [image for _, image in whole(path)][FRAMES // 2 - 4 : FRAMES // 2 + 4]
    np.testing.assert_array_equal(np.stack(reading.frames), np.stack(expected))
    assert reading.decoded >= FRAMES


def test_a_part_that_the_video_does_not_have(write_video: VideoWriter) -> None:
    path = write_video(count=20)
    with pytest.raises(DataError, match=r"clip\.mp4 has no frame from 3 s to 4 s: its last is at 0\.760 s"):
        load_frames(path, spec_of(), start_s=3.0, end_s=4.0)
    with pytest.raises(DataError, match=r"clip\.mp4: there are 5 frames, and a clip needs 8"):
        load_frames(path, spec_of(), start_s=0.6)


def test_a_file_that_is_cut_behind_the_part_is_not_asked_for_the_rest(
    write_video: VideoWriter, images: list[npt.NDArray[np.uint8]]
) -> None:
    path = write_video("a.mkv", frames=images, fourcc="mp4v")
    expected = load_frames(path, spec_of(), start_s=1.0, end_s=2.0)
    cut = path.with_name("cut.mkv")
    shutil.copy(path, cut)
    cut.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    np.testing.assert_array_equal(load_frames(cut, spec_of(), start_s=1.0, end_s=2.0), expected)
    # What is asked for must be there, and be there to its end.
    for times_s in ({"start_s": 8.0, "end_s": 9.0}, {"start_s": 6.0, "end_s": 9.0}, {"start_s": 6.0}):
        with pytest.raises(DataError, match="truncated"):
            load_frames(cut, spec_of(), **times_s)


def test_the_lead_is_the_key_frame_before_the_last() -> None:
    timeline = Timeline([0.0] * 40, [0, 10, 20, 30], True)
    assert [timeline.lead(index) for index in (0, 9, 10, 19, 20, 35)] == [0, 0, 0, 0, 10, 20]


def test_times_are_seconds(write_video: VideoWriter) -> None:
    timeline = seek.timeline_of(write_video(count=30))
    np.testing.assert_allclose(timeline.times_s, np.arange(30) / 25, atol=1e-9)
    assert timeline.keys[0] == 0
