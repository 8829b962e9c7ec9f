"""Answers on frames and over time, and the video that they are written to."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from d3d_edge.errors import RecipeError, StorageError
from d3d_edge.video import container, decode, encode, lettering, timeline
from d3d_edge.video.overlay import Overlay, Score, canvas_size
from tests.unit.video.samples import textured

SCORES = [Score("wave", 0.75), Score("clap", 0.2), Score("jump", 0.05)]


def test_a_window_of_a_long_video_may_be_narrower_than_a_pixel() -> None:
    scores = np.tile([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8]], (1000, 1))
    times_s = np.arange(len(scores)) / 4
    timeline.draw(times_s.tolist(), scores, ("a", "b"), span_s=(0, times_s[-1] + 1), title="a", subtitle="b")


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        (128, 170, (384, 510)),
        (720, 1280, (720, 1280)),
        (33, 33, (396, 396)),
        (401, 700, (402, 700)),
        (80, 1920, (320, 7680)),
        (9001, 16, (9002, 16)),
    ],
)
def test_small_frames_are_enlarged_as_far_as_files_take_it_and_sides_are_even(
    height: int, width: int, size: tuple[int, int]
) -> None:
    assert canvas_size(height, width) == size


@pytest.mark.parametrize(("height", "width"), [(128, 170), (1280, 720), (480, 640)])
def test_the_overlay_lies_on_the_lower_part_and_grows_with_the_score(height: int, width: int) -> None:
    frame = np.full((height, width, 3), 128, np.uint8)
    overlay = Overlay(height, width)
    likely, unlikely = (overlay.draw(frame, [Score("wave", share)], "0:01") for share in (0.9, 0.1))
    assert likely.shape == (overlay.height, overlay.width, 3)
    assert (likely[: overlay.height // 2] == 128).all()
    assert (likely != unlikely).any()
    bright = [(image.min(axis=2) > 200).sum() for image in (likely, overlay.draw(frame, [], ""))]
    assert bright[0] > 20  # letters
    assert bright[1] == 0


def test_the_overlay_does_not_change_the_frame_it_is_given() -> None:
    frame = textured(400, 500)
    before = frame.copy()
    Overlay(400, 500).draw(frame, SCORES, "0:01")
    assert (frame == before).all()


@pytest.mark.parametrize("label", ["w" * 400, "挥手", "<b>", "naïve œuvre", "", "שלום"])
def test_any_label_can_be_drawn(label: str) -> None:
    assert Overlay(128, 170).draw(textured(128, 170), [Score(label, 0.5)], "0:00").shape == (384, 510, 3)


@pytest.mark.parametrize("size", [(8, 9000), (9000, 8)])
def test_where_the_letters_have_no_room_they_are_cut(size: tuple[int, int]) -> None:
    assert Overlay(*size).draw(np.zeros((*size, 3), np.uint8), SCORES, "0:00").shape == (*size, 3)


@pytest.mark.parametrize("width_px", [0, 10, 60, 1000])
def test_text_is_cut_to_the_room_it_has(width_px: int) -> None:
    text = lettering.fitted("opening a bottle", 20, width_px)
    font = lettering.font_for(text, 20)
    assert font.getlength(text) <= max(width_px, font.getlength("…"))
    assert text.endswith("…") == (width_px < 1000)


@pytest.mark.parametrize("windows", [1, 2, 300])
def test_a_timeline_shows_the_likeliest_classes(tmp_path: Path, windows: int) -> None:
    scores = np.random.default_rng(0).dirichlet(np.ones(20), windows)
    shown = timeline.shown_classes(scores)
    assert shown[0] == scores.max(axis=0).argmax()
    assert len(shown) == 6
    labels = [f"class {number}" for number in range(20)]
    times_s = [0.5 + 0.25 * number for number in range(windows)]
    picture = timeline.draw(times_s, scores, labels, span_s=(0, times_s[-1] + 1), title="a", subtitle="b")
    timeline.save(picture, tmp_path / "t.png")
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["t.png"]


def test_a_timeline_has_its_lines_its_first_classes_and_its_figures_where_they_belong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: dict[str, float] = {}
    monkeypatch.setattr(lettering, "write", lambda _, place, text, *__, **___: said.update({text: place[0] / 2}))
    scores = np.array([[0.9, 0.1], [0.25, 0.75], [0.4, 0.6]])
    drawn = timeline.draw([1.0, 2.0, 3.0], scores, ("a", "b"), span_s=(0.0, 4.0), title="t", subtitle="s")
    picture = np.asarray(drawn).astype(int)
    left, right, top, bottom = 90, 1310, 96, 464
    first, second = (picture[515, left + 5], picture[515, right - 5])  # the strip below: a, then b
    assert (first != second).any()
    for time_s, colour in ((1.45, first), (1.55, second), (3.9, second)):
        assert (picture[515, round(left + (right - left) * time_s / 4)] == colour).all()
    for time_s, (a, b) in zip((1, 2, 3), scores, strict=True):
        column = round(left + (right - left) * time_s / 4)
        for score, colour in ((a, first), (b, second)):
            assert abs(picture[round(bottom - (bottom - top) * score), column] - colour).max() < 8
    assert {"90%", "75%"} <= set(said), "the highest score of each"
    assert said["1 s"] == left + (right - left) / 4


@pytest.mark.parametrize("name", ["out.mp4", "out.webm", "OUT.AVI"])
def test_a_video_is_written_with_its_size_and_rate(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with encode.writer(tmp_path / name, 10, 64, 48) as write:
        for number in range(5):
            write(np.full((48, 64, 3), 20 * number, np.uint8))
    frames = list(decode.iterate_frames(tmp_path / name))
    assert [frame.image.shape for frame in frames] == 5 * [(48, 64, 3)]
    assert container.frame_rate_hz(tmp_path / name) == 10
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert capfd.readouterr() == ("", ""), "OpenCV has nothing to say to a user"


def test_a_video_that_was_not_finished_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    path.write_text("before")
    with pytest.raises(cv2.error), encode.writer(path, 10, 64, 48) as write:
        write(np.zeros((0, 64, 3), np.uint8))
    assert path.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["out.mp4"]


def test_a_video_without_a_frame_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot write the video"), encode.writer(tmp_path / "a.mp4", 10, 64, 48):
        pass
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_no_video_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"out\.txt .*\.mp4"):
        encode.check_name(tmp_path / "out.txt")
