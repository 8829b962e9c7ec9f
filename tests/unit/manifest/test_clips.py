"""Where a clip's file really is, whatever links and dots its path has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from d3d_edge.manifest.clips import RealPaths


@pytest.mark.parametrize(
    "path",
    [
        "a.mp4",
        "real/a.mp4",
        "linked/a.mp4",
        "linked/../b.mp4",
        "real/link.mp4",
        "loop",
        "gone/a.mp4",
        "real/.",
        "real/",
    ],
)
def test_it_is_what_the_system_says(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there" / "real").mkdir(parents=True)
    (tmp_path / "there" / "b.mp4").touch()
    (tmp_path / "real").symlink_to(tmp_path / "there" / "real")
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "link.mp4").symlink_to("../b.mp4")
    (tmp_path / "loop").symlink_to("loop")
    real = RealPaths()
    assert real(path) == real(path) == os.path.realpath(path)
    absolute = str(tmp_path / path)
    assert real(absolute) == os.path.realpath(absolute)


def test_a_folder_is_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    realpath = os.path.realpath

    def noted(path: str) -> str:
        looked.append(path)
        return realpath(path)

    monkeypatch.setattr(os.path, "realpath", noted)
    real = RealPaths()
    assert [real(f"{tmp_path}/{number}.mp4") for number in range(9)] == [f"{tmp_path}/{n}.mp4" for n in range(9)]
    assert looked == [str(tmp_path)]
