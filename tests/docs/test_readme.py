"""The README's commands run, in its order, and its table is one that `d3d-edge demo` could have printed."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import TINY, D3DEdge

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def commands(block: str) -> list[list[str]]:
    return [shlex.split(line, comments=True) for line in block.splitlines() if line.strip()]


ALL = [command for block in BLOCKS for command in commands(block)]


def test_every_command_is_of_a_kind_that_is_tried_here() -> None:
    assert {command[0] for command in ALL} == {"make", "pip", "d3d-edge"}


@pytest.mark.parametrize("target", [command[1] for command in ALL if command[0] == "make"])
def test_make_targets_exist(target: str) -> None:
    # Run whole by the continuous integration; here, that make knows what to do.
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [command for command in ALL if command[0] == "pip"], ids=" ".join)
def test_pip_can_resolve_what_it_is_told_to_install(command: list[str]) -> None:
    dry = [sys.executable, "-m", "pip", *command[1:], "--dry-run", "--no-deps", "--no-build-isolation", "--quiet"]
    done = subprocess.run(dry, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr


FINISHED = {"distill": "finished before", "quantize": "finished before", "export": "exported before"}
"""What the commands that take long say of what is there."""


@pytest.mark.slow
def test_the_commands_by_hand(
    made: Path, clips: Path, cache: Path, d3d_edge: D3DEdge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one folder and in their order. What takes long was done by the same commands in `made`, and is found again."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    shutil.copytree(clips, tmp_path / "clips")
    listed = tmp_path / "run" / "data.csv"
    listed.write_text(listed.read_text().replace(str(clips), str(tmp_path / "clips")))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("D3D_EDGE_CACHE", str(cache))
    for _, *words in [command for command in ALL if command[0] == "d3d-edge"]:
        if words[0] == "predict":
            # The set that the run was trained on has no class of that name.
            video = tmp_path / words[2]
            video.parent.mkdir()
            shutil.copyfile(next(clips.rglob("*.mp4")), video)
        done = d3d_edge(*words)
        assert done.code == 0, f"{' '.join(words)}: {done.err}"
        assert FINISHED.get(words[0], "") in done.err
        if words[:2] == ["recipes", "cp"]:
            # From here on the smaller network with the fewer epochs of `made`.
            (tmp_path / words[3]).write_text(TINY)


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)#]+)\)", README))
def test_links_lead_somewhere(link: str) -> None:
    assert (ROOT / link).exists()
