"""Commands under torchrun: distill shares its work among processes, quantize refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import D3DEdge


def torchrun(*words: object) -> subprocess.CompletedProcess[str]:
    """Run a command in two processes that work together, on CPUs."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*command, "-m", "d3d_edge", *(str(word) for word in words)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "D3D_EDGE_DEVICE": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
def test_distill(clips: Path, recipe_file: Path, cache: Path, d3d_edge: D3DEdge, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ("distill", recipe_file, "--data", clips, "--out", run, "--cache", cache)
    done = torchrun(*words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("next: d3d-edge quantize") == 1
    for stage in ("teacher", "student"):
        assert json.loads((run / stage / "done.json").read_text())["clips"] == 10
        assert len((run / stage / "log.jsonl").read_text().splitlines()) == 2
        assert len(list((run / stage).glob("*tfevents*"))) <= 1
    again = d3d_edge(*words, "--workers", 0)  # What is finished does not depend on the number of processes.
    assert again.code == 0
    assert again.err.count("finished before") == 3


@pytest.mark.slow
def test_an_error_is_told_and_ends_all(clips: Path, recipe_file: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "something").touch()
    done = torchrun("distill", recipe_file, "--data", clips, "--out", tmp_path / "run")
    assert done.returncode != 0
    assert "is not a run (choose another --out)" in done.stderr
    assert "internal error" not in done.stderr


def test_quantize_refuses(d3d_edge: D3DEdge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = d3d_edge("quantize", tmp_path / "run")
    assert result.code == 2
    assert "quantize runs in one process" in result.err
