"""`d3d-edge prepare` on a rendered set: what it says and leaves, and that it goes on where it was killed."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from d3d_edge.errors import DeviceError
from tests.cli.conftest import D3DEdge, cli
from tests.cli.test_kill import kill_when


def entries(folder: Path) -> dict[Path, int]:
    return {
        path.relative_to(folder): path.stat().st_mtime_ns
        for path in folder.glob("??/*")
        if path.is_file() and not path.name.endswith(".partial")
    }


@pytest.fixture
def ucf101(clips: Path, tmp_path: Path) -> Path:
    """Two classes of the rendered set with split files as UCF101 has them, and a listed file that is missing."""
    lists = tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 grow\n2 shrink\n")
    (lists / "trainlist01.txt").write_text(
        "".join(f"{c}/000{n}.mp4 {i}\n" for i, c in ((1, "grow"), (2, "shrink")) for n in range(3))
    )
    (lists / "testlist01.txt").write_text("grow/0004.mp4\nshrink/0004.mp4\nshrink/gone.mp4\n")
    return lists


def test_it_says_the_size_first_and_what_it_did_last(
    d3d_edge: D3DEdge, clips: Path, recipe_file: Path, tmp_path: Path
) -> None:
    words = ("prepare", clips, "--recipe", recipe_file, "--cache", tmp_path / "cache", "--workers", 0)
    result = d3d_edge(*words, "--compress")
    assert result.code == 0
    assert "50 clips: about 1.8 MB raw" in result.err
    assert "estimated: frames of the recipe's size for 16 clips, 4 of them compressed" in result.err.replace("\n", " ")
    assert "50 clips ready (50 new), 0 skipped" in result.out
    assert "600 frames decoded" in result.out
    assert {path.suffix for path in entries(tmp_path / "cache")} == {".png"}
    again = d3d_edge(*words, "--json")
    report = json.loads(again.out)
    assert (report["clips"], report["computed"], report["estimate"]["needed_bytes"]) == (50, 0, 0)


def test_an_official_split_with_a_missing_file(
    d3d_edge: D3DEdge, clips: Path, ucf101: Path, recipe_file: Path, tmp_path: Path
) -> None:
    words = (
        "prepare",
        ucf101,
        "--videos",
        clips,
        "--recipe",
        recipe_file,
        "--cache",
        tmp_path / "cache",
        "--workers",
        0,
    )
    report = json.loads(d3d_edge(*words, "--json").out)
    assert (report["clips"], len(report["skipped"])) == (8, 1)
    assert report["skipped"][0]["path"].endswith("shrink/gone.mp4")
    strict = d3d_edge(*words, "--strict")
    assert strict.code == 8
    assert "gone.mp4" in strict.err
    other = d3d_edge(*words, "--fold", 2)
    assert other.code == 8
    assert "has no split 2" in other.err


@pytest.mark.slow
def test_training_uses_an_official_split_and_what_was_prepared(
    d3d_edge: D3DEdge, clips: Path, ucf101: Path, recipe_file: Path, tmp_path: Path
) -> None:
    places = ("--videos", clips, "--cache", tmp_path / "cache", "--workers", 0)
    assert d3d_edge("prepare", ucf101, "--recipe", recipe_file, *places).code == 0
    before = entries(tmp_path / "cache")
    result = d3d_edge("distill", recipe_file, "--data", ucf101, *places, "--out", tmp_path / "run")
    assert result.code == 0
    assert "skipped 1 clip(s)" in result.out
    assert entries(tmp_path / "cache") == before


def test_a_killed_run_goes_on_where_it_stood(clips: Path, recipe_file: Path, tmp_path: Path) -> None:
    words = ("prepare", clips, "--recipe", recipe_file, "--workers", 2, "--compress", "--cache")
    kill_when(lambda: len(list((tmp_path / "killed").rglob("*.flow.png"))) > 3, *words, tmp_path / "killed")
    there = entries(tmp_path / "killed")
    # An entry is two files, the flow last; one that was killed between them is made again.
    finished = {path.name.partition(".")[0] for path in there if path.name.endswith(".flow.png")}
    before = {path: time for path, time in there.items() if path.name.partition(".")[0] in finished}
    report = json.loads(cli(*words, tmp_path / "killed", "--json").stdout)
    assert 0 < report["computed"] < report["clips"] == 50
    cli(*words, tmp_path / "whole")
    after = entries(tmp_path / "killed")
    assert {path: after[path] for path in before} == before
    assert set(after) == set(entries(tmp_path / "whole"))
    for path in after:
        assert (tmp_path / "killed" / path).read_bytes() == (tmp_path / "whole" / path).read_bytes()


def test_a_cluster_needs_its_extra(
    d3d_edge: D3DEdge, clips: Path, recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    result = d3d_edge("prepare", clips, "--recipe", recipe_file, "--cache", tmp_path, "--engine", "ray")
    assert result.code == 3
    assert "the engine ray needs the package ray (pip install 'd3d-edge[cluster]')" in result.err


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
class TestRay:
    # In processes of their own: Ray starts servers, and leaves threads behind.
    def run(self, *words: object) -> subprocess.CompletedProcess[str]:
        return cli(*words, check=False)

    def test_two_workers_of_ray_write_the_entries_that_processes_write(
        self, clips: Path, recipe_file: Path, tmp_path: Path
    ) -> None:
        data = Path(shutil.copytree(clips, tmp_path / "clips"))
        (data / "grow" / "0001.mp4").write_text("no video")
        words = ("prepare", data, "--recipe", recipe_file, "--workers", 2, "--json", "--cache")
        done = self.run(*words, tmp_path / "ray", "--engine", "ray")
        assert done.returncode == 0, done.stderr
        report, expected = json.loads(done.stdout), json.loads(self.run(*words, tmp_path / "processes").stdout)
        for name in ("clips", "computed", "skipped", "size_bytes", "decoded_frames"):
            assert report[name] == expected[name]
        files = sorted(entries(tmp_path / "ray"))
        assert files == sorted(entries(tmp_path / "processes"))
        for path in files:
            assert (tmp_path / "ray" / path).read_bytes() == (tmp_path / "processes" / path).read_bytes()

    def test_what_the_work_raises_arrives_as_it_is(self, clips: Path, recipe_file: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        words = ("prepare", clips, "--recipe", recipe_file, "--workers", 2, "--engine", "ray")
        done = self.run(*words, "--cache", tmp_path / "file" / "cache")
        assert done.returncode == 9
        assert "cannot write" in done.stderr
        assert "Traceback" not in done.stderr

    def test_no_cluster_at_the_address(self, clips: Path, recipe_file: Path, tmp_path: Path) -> None:
        words = (
            "prepare",
            clips,
            "--recipe",
            recipe_file,
            "--engine",
            "ray:127.0.0.1:1",
            "--cache",
            tmp_path / "cache",
        )
        done = self.run(*words)
        assert done.returncode == DeviceError.exit_code
        assert "cannot join the Ray cluster 127.0.0.1:1" in done.stderr
        assert "ray start --head" in done.stderr
