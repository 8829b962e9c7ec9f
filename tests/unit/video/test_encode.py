"""Videos that are written are whole, or are not there."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from d3d_edge.errors import StorageError
from d3d_edge.video import encode
from d3d_edge.video.decode import count_frames
from tests.unit.video.samples import textured

SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".webm")


def write(path: Path, count: int = 24) -> None:
    with encode.writer(path, 12, 128, 96) as add:
        for number in range(count):
            add(textured(96, 128, seed=number))


@pytest.fixture
def little_room() -> Iterator[None]:
    """No file gets longer than 30 kB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_frame_is_in_the_file(suffix: str, tmp_path: Path) -> None:
    write(tmp_path / f"a{suffix}")
    assert count_frames(tmp_path / f"a{suffix}") == 24


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_a_killed_process_left_is_deleted_once_it_is_old(suffix: str, tmp_path: Path) -> None:
    left = tmp_path / f".a{suffix}.1a013e1a.partial{suffix}"
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    (tmp_path / f".own{suffix}").write_bytes(b"whole")
    write(tmp_path / f"a{suffix}")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([f".own{suffix}", f"a{suffix}"])


@pytest.mark.usefixtures("little_room")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_video_that_did_not_fit_is_not_there(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is the disk full"):
        write(tmp_path / f"a{suffix}")
    assert list(tmp_path.iterdir()) == []
