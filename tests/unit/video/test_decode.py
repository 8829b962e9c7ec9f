from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from d3d_edge.errors import DataError
from d3d_edge.video import boxes, decode, encode, seek
from d3d_edge.video import interlaced as interlacing
from d3d_edge.video.container import frame_rate_hz, opened, promise_of
from d3d_edge.video.decode import Span, count_frames, first_frame, iterate_frames, read_frames
from tests.unit.video.samples import VideoWriter, declare, hide, interlaced, textured


def moving(count: int = 48) -> list[np.ndarray]:
    return [np.roll(textured(96, 128), 3 * number, axis=1) for number in range(count)]


def index_first(path: Path) -> bytes:
    """The MP4 with its moov box before its mdat box, as files made for the web have it."""
    data = path.read_bytes()
    mdat, moov_at = data.find(b"mdat") - 4, data.find(b"moov") - 4
    moov = bytearray(data[moov_at:])
    table = moov.find(b"stco")
    for entry in range(struct.unpack_from(">I", moov, table + 8)[0]):
        place = table + 12 + 4 * entry
        struct.pack_into(">I", moov, place, struct.unpack_from(">I", moov, place)[0] + len(moov))
    return data[:mdat] + bytes(moov) + data[mdat:moov_at]


def test_reads_chosen_frames_in_order_as_rgb(write_video: VideoWriter) -> None:
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 200
    frames = read_frames(write_video(frames=[red] * 5), lambda count: [count - 1, 0, 0], lambda frame: frame).frames
    assert len(frames) == 3
    assert frames[0].dtype == np.uint8
    np.testing.assert_allclose(frames[0].mean((0, 1)), [200, 0, 0], atol=6)


def test_selects_by_number(write_video: VideoWriter) -> None:
    frames = read_frames(write_video(), lambda count: [0, 3, 15], lambda frame: frame).frames
    np.testing.assert_allclose([frame.mean() for frame in frames], [0, 30, 150], atol=3)


def test_counts_and_iterates(write_video: VideoWriter) -> None:
    path = write_video(count=10)
    assert count_frames(path) == 10
    assert frame_rate_hz(path) == pytest.approx(25)
    frames = list(iterate_frames(path))
    np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(10) / 25, atol=1e-6)


def test_a_wrong_count_in_the_container_is_corrected(write_video: VideoWriter) -> None:
    path = write_video("clip.avi", count=16, fourcc="MJPG")
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.find(b"avih") + 8 + 16, 9)  # dwTotalFrames
    struct.pack_into("<I", data, data.find(b"strh") + 8 + 32, 9)  # dwLength
    path.write_bytes(data)
    counts: list[int] = []

    def choose(count: int) -> list[int]:
        counts.append(count)
        if count < 16:
            raise DataError("too few")
        return [0, 15]

    frames = read_frames(path, choose, lambda frame: frame).frames
    assert counts[-1] == 16
    np.testing.assert_allclose([frame.mean() for frame in frames], [0, 150], atol=3)


@pytest.mark.parametrize(("quarters", "corner"), [(0, (0, 0)), (1, (0, -1)), (2, (-1, -1)), (3, (-1, 0))])
def test_a_phones_video_comes_out_upright(write_video: VideoWriter, quarters: int, corner: tuple[int, int]) -> None:
    """The file says by how much its pictures are to be turned, clockwise (ISO/IEC 14496-12, 8.3.2, the matrix)."""
    marked = np.zeros((64, 96, 3), np.uint8)
    marked[:32, :48] = 200  # upper left
    path = write_video(frames=[marked] * 4)
    data = bytearray(path.read_bytes())
    cos, sin = ((1, 0), (0, 1), (-1, 0), (0, -1))[quarters]
    matrix = [cos << 16, sin << 16, 0, -sin << 16, cos << 16, 0, 0, 0, 1 << 30]
    struct.pack_into(">9i", data, data.find(b"tkhd") + 44, *matrix)
    path.write_bytes(data)
    for frame in (first_frame(path), read_frames(path, lambda count: [2], lambda frame: frame).frames[0]):
        assert frame.shape == ((96, 64, 3) if quarters % 2 else (64, 96, 3))
        bright = [(row, column) for row in (0, -1) for column in (0, -1) if frame[row, column].mean() > 100]
        assert bright == [corner]


@pytest.mark.parametrize("name", ["gone.mp4", f"{300 * 'n'}.mp4"], ids=["gone", "too long"])
def test_missing_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=rf"there is no video file .*{name}"):
        count_frames(tmp_path / name)


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_mp4_without_its_index_is_called_truncated(write_video: VideoWriter, share: float) -> None:
    path = write_video(frames=moving())
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match=r"clip\.mp4 is truncated: .*moov"):
        count_frames(path)


@pytest.mark.parametrize("fragmented", [False, True])
def test_an_mp4_of_fragments_does_not_count_its_pictures(write_video: VideoWriter, fragmented: bool) -> None:
    """So its length may be that of its sound, and half a second less of pictures is no damage."""
    path = write_video(frames=moving())
    if fragmented:
        data = path.read_bytes()
        at = data.find(b"moov") - 4  # the last box, which grows by one that is empty
        (length,) = struct.unpack_from(">I", data, at)
        assert at + length == len(data)
        path.write_bytes(data[:at] + struct.pack(">I", length + 8) + data[at + 4 :] + struct.pack(">I4s", 8, b"mvex"))
    with opened(path) as capture:
        assert (promise_of(capture, path, 0.0).sound_s > 0) == fragmented
    assert count_frames(path) == len(moving())


@pytest.mark.parametrize("share", [0.4, 0.7, 0.9])
def test_mp4_that_ends_early_is_called_truncated(write_video: VideoWriter, share: float) -> None:
    path = write_video(frames=moving())
    data = index_first(path)
    path.write_bytes(data)
    assert count_frames(path) == 48
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match=r"clip\.mp4 is truncated or damaged: \d+ of 48 frames decode"):
        count_frames(path)
    with pytest.raises(DataError, match="truncated or damaged"):
        list(iterate_frames(path))


@pytest.mark.parametrize(
    ("name", "fourcc"),
    [("a.avi", "XVID"), ("a.avi", "MJPG"), ("a.mkv", "mp4v"), ("a.webm", "VP80"), ("a.wmv", "WMV2")],
)
def test_other_containers_that_end_early(write_video: VideoWriter, name: str, fourcc: str) -> None:
    path = write_video(name, frames=moving(), fourcc=fourcc)
    assert count_frames(path) == 48
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="is truncated"):
        count_frames(path)


@pytest.mark.parametrize(("name", "fourcc"), [("a.mkv", "mp4v"), ("a.webm", "VP80")])
def test_sound_may_end_after_the_pictures(write_video: VideoWriter, name: str, fourcc: str) -> None:
    """These containers do not count pictures; of two seconds, 0.3 s more are more than a twentieth."""
    path = write_video(name, frames=moving(), fourcc=fourcc)
    declare(path, 48 / 25 + 0.3)
    assert count_frames(path) == len(list(iterate_frames(path))) == 48
    declare(path, 48 / 25 + 1)
    with pytest.raises(DataError, match=r"truncated or damaged: 48 of 73 frames decode .*sound.*-an"):
        count_frames(path)


@pytest.mark.parametrize("hidden", [1, 6, 20])
def test_what_an_edit_list_hides_is_not_missing(write_video: VideoWriter, hidden: int) -> None:
    path = write_video(count=40)
    frames = [frame.image for frame in iterate_frames(path)]
    hide(path, hidden)
    assert count_frames(path) == 40 - hidden
    np.testing.assert_array_equal(first_frame(path), frames[hidden])
    path.write_bytes(index_first(path)[: 3 * path.stat().st_size // 4])
    with pytest.raises(DataError, match="truncated"):
        count_frames(path)


@pytest.mark.parametrize("kind", [b"moov", b"trak", b"edts", b"elst", b"mvhd"])
def test_a_box_of_any_length_is_read_no_further_than_the_file(write_video: VideoWriter, kind: bytes) -> None:
    path = write_video()
    data = bytearray(path.read_bytes())
    for length in (b"\x7f\xff\xff\xff", b"\0\0\0\1", b"\0\0\0\0", b"\0\0\0\4"):
        place = data.index(kind) - 4
        data[place : place + 4] = length
        path.write_bytes(data)
        assert boxes.shown_s(path) >= 0


@pytest.mark.parametrize("hidden", [1, 6, 20])
def test_a_part_of_a_video_that_hides_frames_has_the_frames_of_its_times(write_video: VideoWriter, hidden: int) -> None:
    path = write_video(frames=[np.full((32, 32, 3), number, np.uint8) for number in range(240)])
    frames = [frame.image for frame in iterate_frames(path)]
    hide(path, hidden)
    span = Span(start_s=(239 - hidden - 10) / 25)
    found = read_frames(path, lambda total: range(total), lambda frame: frame, span).frames
    np.testing.assert_array_equal(found, frames[-11:])


def test_what_comes_before_the_first_picture_is_not_missing(write_video: VideoWriter) -> None:
    """A Matroska file's length counts from 0, and times of its frames from the first one."""
    path = write_video("a.mkv", frames=moving())
    declare(path, 5 + 48 / 25)
    with opened(path) as capture:
        promise = promise_of(capture, path, 5.0)
    assert promise == pytest.approx((48, 47 / 25, 0.5))


@pytest.mark.parametrize("name", ["a.mkv", "a.ts", "a.mpg"])
def test_interlaced_video_is_refused(write_video: VideoWriter, name: str) -> None:
    path = write_video(name, frames=moving(), fourcc="mpg2")
    assert count_frames(path) == 48
    interlaced(path)
    said = rf"{name} is interlaced, which OpenCV .* does not convert .*-vf yadif"
    with pytest.raises(DataError, match=said):
        list(iterate_frames(path))
    with pytest.raises(DataError, match=said):
        read_frames(path, lambda count: [0, 20, 40], lambda frame: frame)
    with pytest.raises(DataError, match=said):
        read_frames(path, lambda count: [0, 2, 4], lambda frame: frame, Span(1.0, 1.3))


def test_a_refusal_counts_where_the_rest_takes_too_long(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    look = f"import os, time\nos.write(2, {interlacing._REFUSED!r})\ntime.sleep(60)"
    monkeypatch.setattr(interlacing, "_LOOK", look)
    monkeypatch.setattr(interlacing, "_PATIENCE_S", 1)
    assert interlacing.is_refused(str(tmp_path / "long.mpg"), 1.0)


@pytest.mark.parametrize("still", [(0, 48), (20, 30)])
def test_a_picture_that_stands_still_is_not_interlaced(write_video: VideoWriter, still: tuple[int, int]) -> None:
    frames = moving()
    frames[slice(*still)] = [frames[still[0]]] * (still[1] - still[0])
    path = write_video("a.avi", frames=frames, fourcc="MJPG")
    assert len(list(iterate_frames(path))) == 48


@pytest.mark.parametrize(
    ("times_s", "expected"),
    [
        ([0.0, 0.1, 0.1, 0.5], [0.0, 0.1, 0.1, 0.5]),  # told in coarse steps
        ([0.1, 0.2, 0.3, 0.2], [0.0, 0.25, 0.5, 0.75]),  # not its own: reordered frames in an AVI
    ],
)
def test_times_that_fall_are_not_those_of_the_frames(times_s: list[float], expected: list[float]) -> None:
    assert decode._rising(times_s, 4.0) == expected


def test_a_colon_in_a_name_is_no_protocol(
    write_video: VideoWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video("2024-05-01T12:30.mkv", frames=moving())
    monkeypatch.chdir(tmp_path)
    path = Path("2024-05-01T12:30.mkv")
    assert count_frames(path) == 48
    assert len(seek.timeline_of(path).times_s) == 48
    with encode.writer(Path("a:b.avi"), 25.0, 128, 96) as write:
        write(moving(1)[0])
    assert count_frames(Path("a:b.avi")) == 1


def test_where_nothing_decodes_the_codec_is_named(write_video: VideoWriter) -> None:
    path = write_video("a.avi", frames=moving(4), fourcc="MJPG")
    with opened(path) as capture:
        error = decode._nothing_decodes(capture, path)
    assert "a.avi holds no frame that decodes (its codec is MJPG: if a player shows it" in str(error)


@pytest.mark.parametrize("rate_hz", [0.5, 23.976, 30_000 / 1001, 119.88, 239.847, 1000 / 3, 865.052, 90_000.0])
@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_every_rate_has_one_near_it_that_can_be_written(tmp_path: Path, rate_hz: float, suffix: str) -> None:
    fits = encode.fitting(rate_hz)
    assert fits == pytest.approx(min(rate_hz, 1000.0), rel=2e-4)
    with encode.writer(tmp_path / f"a{suffix}", fits, 64, 64) as write:
        for frame in moving(3):
            write(frame[:64, :64])
    assert frame_rate_hz(tmp_path / f"a{suffix}") == pytest.approx(fits, rel=0.01)


def test_other_files_named_mp4_and_silence(write_video: VideoWriter, capfd: pytest.CaptureFixture[str]) -> None:
    """FFmpeg and OpenCV write nothing, whatever the file holds: text, nothing, half a video, flipped bits."""
    path = write_video(frames=moving())
    whole = path.read_bytes()
    capfd.readouterr()
    path.write_text("no video\n" * 100)
    with pytest.raises(DataError, match=r"clip\.mp4 is not a video"):
        count_frames(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"clip\.mp4 is empty"):
        count_frames(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError):
        count_frames(path)
    damaged = bytearray(whole)
    for place in np.random.default_rng(1).integers(len(whole) // 4, len(whole) * 3 // 4, 200):
        damaged[place] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(DataError, match="truncated or damaged"):
        count_frames(path)
    assert capfd.readouterr() == ("", "")
