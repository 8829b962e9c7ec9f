"""A video is read once: its hash is noted in the cache until its file changes, and its packets are listed once."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from d3d_edge.clip import ClipSpec, FlowSpec
from d3d_edge.errors import DataError
from d3d_edge.files import sha256_of_file
from d3d_edge.manifest import Clip
from d3d_edge.video import cache, decode, hashes, once, seek
from d3d_edge.video.preprocess import load_frames
from tests.unit.video.samples import VideoWriter, prepared, spec_of


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names of the videos that are read to be hashed; nothing is remembered but in the cache."""
    names: set[str] = set()

    def noted(path: Path) -> str:
        names.add(path.name)
        return sha256_of_file(path)

    monkeypatch.setattr(cache, "_sha256", noted)
    monkeypatch.setattr(once, "SETTLED_NS", -1)
    return names


@pytest.fixture
def again(clips: list[Clip], tmp_path: Path, spec: ClipSpec, flow_spec: FlowSpec, read: set[str]) -> Any:
    """Prepare once, and then once more each time this is called: the entries made then, and the videos read."""
    prepared(clips, tmp_path / "cache", spec, flow_spec)
    assert read == {"0.mp4", "1.mp4", "2.mp4"}

    def run(**options: Any) -> tuple[int, list[str]]:
        read.clear()
        return prepared(clips, tmp_path / "cache", spec, flow_spec, **options).computed, sorted(read)

    return run


def test_a_second_start_reads_no_video(again: Any, tmp_path: Path) -> None:
    assert again() == (0, [])
    noted = (tmp_path / "cache" / hashes.FILE_NAME).read_text().split("\n")
    assert len([line for line in noted if line]) == 3, "and nothing is noted twice"


def test_to_verify_reads_videos_too(again: Any) -> None:
    assert again(verify=True) == (0, ["0.mp4", "1.mp4", "2.mp4"])


def test_a_video_that_was_changed_is_read_though_its_size_and_time_are_as_before(again: Any, tmp_path: Path) -> None:
    video = tmp_path / "1.mp4"
    before = video.stat()
    data = bytearray(video.read_bytes())
    data[-1] ^= 1
    video.write_bytes(data)
    os.utime(video, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert again() == (1, ["1.mp4"])
    assert again() == (0, [])


def test_a_video_that_another_took_the_place_of_is_read(again: Any, tmp_path: Path) -> None:
    copy = shutil.copy2(tmp_path / "1.mp4", tmp_path / "new.mp4")
    os.replace(copy, tmp_path / "1.mp4")
    assert again() == (0, ["1.mp4"])


def test_what_was_just_written_is_not_noted(
    clips: list[Clip], tmp_path: Path, spec: ClipSpec, flow_spec: FlowSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(once, "SETTLED_NS", 10**15)
    prepared(clips, tmp_path / "cache", spec, flow_spec)
    assert not (tmp_path / "cache" / hashes.FILE_NAME).exists()


def test_nor_is_what_was_written_just_before_it_was_read_and_noted_later(
    clips: list[Clip], tmp_path: Path, spec: ClipSpec, flow_spec: FlowSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been written to between, and tell the same times."""
    late_ns, compute = [0], cache.compute

    def slowly(*given: Any) -> Any:
        late_ns[0] += 10 * once.SETTLED_NS
        return compute(*given)

    begin_ns = time.time_ns()
    monkeypatch.setattr(once.time, "time_ns", lambda: begin_ns + late_ns[0])
    monkeypatch.setattr(cache, "compute", slowly)
    prepared(clips[:1], tmp_path / "cache", spec, flow_spec)
    assert late_ns[0] > 0
    assert not (tmp_path / "cache" / hashes.FILE_NAME).exists()


@pytest.mark.parametrize(
    ("damage", "lost"),
    [
        (lambda text: text[: len(text) * 5 // 6], ["2.mp4"]),
        (lambda text: "[]\n{}\n7\n[1, 2, 3]\n\0\n" + text, []),
        (lambda text: "", ["0.mp4", "1.mp4", "2.mp4"]),
    ],
    ids=["killed", "damaged", "empty"],
)
def test_what_is_lost_of_the_notes_is_noted_again(damage: Any, lost: list[str], again: Any, tmp_path: Path) -> None:
    notes = tmp_path / "cache" / hashes.FILE_NAME
    notes.write_text(damage(notes.read_text()))
    assert again() == (0, lost)
    assert again() == (0, [])


def test_where_notes_cannot_be_written_videos_are_read_again(again: Any, tmp_path: Path) -> None:
    notes = tmp_path / "cache" / hashes.FILE_NAME
    notes.unlink()
    notes.mkdir()
    assert again() == again() == (0, ["0.mp4", "1.mp4", "2.mp4"])


def test_notes_of_two_commands_are_those_of_both(tmp_path: Path) -> None:
    settled = hashes.Hashed(once.State(1, 2, 3, 4), "5")
    first, second = hashes.Hashes(tmp_path), hashes.Hashes(tmp_path)
    first.add("/a", settled)
    second.add("/b", settled)
    first.write()
    second.write()
    third = hashes.Hashes(tmp_path)
    assert third.of("/a") == third.of("/b") == settled
    assert third.of("/c") is None
    assert all(len(json.loads(line)) == 3 for line in (tmp_path / hashes.FILE_NAME).read_text().split("\n") if line)


def test_notes_of_earlier_states_do_not_pile_up(tmp_path: Path) -> None:
    for inode in range(9):
        found = hashes.Hashes(tmp_path)
        for name in "ab":
            found.add(name, hashes.Hashed(once.State(1, 2, 3, inode), "5"))
        found.write()
        lines = [line for line in (tmp_path / hashes.FILE_NAME).read_text().split("\n") if line]
        assert len(lines) <= 4
        assert hashes.Hashes(tmp_path).of("b") == hashes.Hashed(once.State(1, 2, 3, inode), "5")


class TestOnce:
    def test_a_file_is_read_once_while_it_is_as_it_was(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(once, "SETTLED_NS", -1)
        size = Mock(side_effect=lambda path: path.stat().st_size, __name__="size", __doc__="")
        found = once.once(keep=2)(size)
        files = [tmp_path / name for name in "abc"]
        for file in files:
            file.write_bytes(b"1")
        assert [found(files[0]), found(files[0]), found(files[1]), found(files[1])] == [1, 1, 1, 1]
        assert size.call_count == 2
        files[1].write_bytes(b"12")
        assert found(files[1]) == 2
        assert found(files[2]) == found(files[0]) == 1, "only so many are kept"
        assert size.call_count == 5

    def test_one_that_may_still_be_written_to_is_read_again(self, tmp_path: Path) -> None:
        file = tmp_path / "a"
        file.touch()
        size = Mock(return_value=0, __name__="size", __doc__="")
        found = once.once(keep=2)(size)
        found(file), found(file)
        assert size.call_count == 2

    def test_the_packets_of_a_film_are_listed_once_for_all_its_parts(
        self, write_video: VideoWriter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(once, "SETTLED_NS", -1)
        path, opened = write_video(count=100), Mock(side_effect=seek._undecoded)
        monkeypatch.setattr(seek, "_undecoded", opened)
        for start_s in (0.4, 1.2, 2.4):
            load_frames(path, spec_of(), start_s=start_s, end_s=start_s + 0.4)
        assert opened.call_count == 1


@pytest.mark.parametrize(
    ("start_s", "end_s", "said"),
    [
        (30.0, 31.0, "has no frame from 30 s to 31 s: its last is at 9.960 s"),
        (30.0, None, "has no frame from 30 s: its last is at 9.960 s"),
        (4.01, 4.03, "has no frame from 4.01 s to 4.03 s"),
        (4.0, 4.1, "there are 3 frames, and a clip needs 8"),
        (9.8, None, "there are 5 frames, and a clip needs 8"),
    ],
)
def test_a_wrong_time_in_a_list_does_not_cost_a_film(
    start_s: float, end_s: float | None, said: str, write_video: VideoWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(count=250)
    monkeypatch.setattr(decode, "_walk", Mock(side_effect=AssertionError("decoded whole")))
    monkeypatch.setattr(decode.Pictures, "now", Mock(side_effect=AssertionError("a frame is kept")))
    with pytest.raises(DataError, match=said):
        load_frames(path, spec_of(), start_s=start_s, end_s=end_s)
