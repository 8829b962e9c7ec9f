"""Where the output goes, and what it is written in: a terminal of few characters, a full device, nowhere."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from d3d_edge import cli
from tests.cli.conftest import D3DEdge
from tests.unit.page import samples


def compared(tmp_path: Path, encoding: str, *more: str) -> str:
    """What `report compare` prints of names in more than ASCII, on a terminal of that encoding."""
    rows = tuple(samples.measured(name) for name in ("jétson ☃", "android"))
    samples.report(rows=rows, title="naïve").write(tmp_path / "a.json")
    command = [sys.executable, "-m", "d3d_edge", "report", "compare", tmp_path / "a.json", tmp_path / "a.json", *more]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        encoding=encoding,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_what_the_terminal_cannot_show_is_written_in_other_words(tmp_path: Path) -> None:
    assert r"j\xe9tson \u2603" in compared(tmp_path, "ascii")


@pytest.mark.parametrize("encoding", ["ascii", "cp1251", "utf-8"])
def test_json_is_json_whatever_the_terminal_can_show(encoding: str, tmp_path: Path) -> None:
    found = json.loads(compared(tmp_path, encoding, "--json"))
    assert "jétson ☃" in {change["row"] for change in found["changes"]}


@pytest.mark.parametrize(
    ("ending", "code", "said"),
    [
        (">/dev/full", 9, "error: cannot write the output: No space left on device\n"),
        (">&-", 0, ""),
        ("2>&-", 0, ""),
        (">&- 2>&-", 0, ""),
    ],
)
def test_where_the_output_goes(ending: str, code: int, said: str) -> None:
    command = f"{shlex.quote(sys.executable)} -m d3d_edge recipes show compact {ending}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, said)


def test_a_terminal_of_no_width_gets_tables_all_the_same(d3d_edge: D3DEdge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "0")
    done = d3d_edge("models")
    assert (done.code, done.err) == (0, "")
    assert "nano" in done.out


def test_a_traceback_that_is_asked_for_comes_before_the_line_and_its_exit_code(
    d3d_edge: D3DEdge, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("D3D_EDGE_DEBUG", "1")
    done = d3d_edge("predict", tmp_path / "none", tmp_path / "none.mp4")
    first, *_, last = done.err.splitlines()
    assert done.code == 6
    assert first.startswith("Traceback")
    assert last.startswith("error: ")
    assert "none" in last


def test_a_folder_that_is_gone_under_the_command() -> None:
    command = f'cd "$(mktemp -d)" && rmdir "$PWD" && {shlex.quote(sys.executable)} -m d3d_edge models'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (8, "error: the current folder is gone (cd to one that is there)\n")


@pytest.mark.parametrize(
    ("command", "again"),
    [
        ("distill", "again to go on"),
        ("validate", "again; with --resume it keeps the clips that a device has done"),
        ("evaluate", "again"),
        ("benchmark", "again"),
        ("models", "again"),
        ("predict", "again"),
    ],
)
def test_an_interrupted_command_says_what_goes_on(
    command: str, again: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.group, "main", interrupted)
    with pytest.raises(SystemExit, match="130"):
        cli.main([command, "run"])
    assert capsys.readouterr().err == f"error: interrupted; run the same command {again}\n"


def test_without_a_folder_for_temporary_files_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def asks(**_: object) -> None:
        monkeypatch.setattr(tempfile, "tempdir", None)
        monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/none"])
        tempfile.gettempdir()

    monkeypatch.setattr(cli.group, "main", asks)
    with pytest.raises(SystemExit, match="9"):
        cli.main(["doctor"])
    assert re.fullmatch(r"error: no folder for temporary files .*set TMPDIR\)\n", capsys.readouterr().err)


@pytest.mark.parametrize(("words", "closed"), [("targets ls", "<&- 2>&-"), ("doctor", "<&- >&- 2>&-")])
def test_streams_that_are_closed_are_no_error(words: str, closed: str) -> None:
    script = f'"{sys.executable}" -m d3d_edge {words} {closed}'
    assert subprocess.run(["sh", "-c", script], check=False, capture_output=True).returncode == 0
