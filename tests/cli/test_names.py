"""Names are shown as they are, whatever they would mean to the library that draws tables and bars, or to a shell."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from d3d_edge.cli.console import TerminalProgress
from d3d_edge.cli.tables import print_report, text_of
from tests.cli.conftest import D3DEdge, refused
from tests.unit.page import samples

NAMES = ("run[int8]", "run[float]", "[/x]", "[bold]b", ":smile:", r"\[a]")


@pytest.mark.parametrize("role", ["bundle", "teacher"])
def test_in_a_report(role: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tuple(samples.measured(name, role=role) for name in NAMES)
    report = samples.report(rows=rows, title="of [bold]", notes=("[/note]",))
    print_report(report, None)
    for text in (text_of(report), capsys.readouterr().out):
        for name in (*NAMES, "of [bold]", "[/note]"):
            assert name in text


@pytest.mark.parametrize("terminal", [False, True], ids=["log", "terminal"])
@pytest.mark.parametrize("name", NAMES)
def test_in_progress(
    name: str, terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("COLUMNS", "200")
    with TerminalProgress().task(name, 1) as task:
        task.advance(text=f"at {name}")
    said = capsys.readouterr().err
    assert name in said
    assert f"at {name}" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("distill", "compact", "--data", "clips", "--out", "my run"), "next: d3d-edge quantize 'my run'\n"),
        (("quantize", "my run"), "next: d3d-edge export 'my run' --target all"),
        (("quantize", "--", "-run"), "next: d3d-edge export ./-run --target all"),
        (("demo", "--out", "my demo"), "try: d3d-edge report 'my demo/run' 'my demo/bundles' 'my demo/report.json' "),
        (("demo", "--out", "my demo"), "--data 'my demo/clips' --html 'my demo/report.html'\n"),
        (("demo", "--out", "my demo"), "try: d3d-edge predict 'my demo/bundles/android' VIDEO, with"),
    ],
)
def test_a_suggested_command_can_be_pasted(
    words: tuple[str, ...], said: str, tmp_path: Path, d3d_edge: D3DEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clips").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("d3d_edge.runs.Run.open", Mock())
    monkeypatch.setattr(f"d3d_edge.pipeline.{words[0]}.{words[0]}", Mock(return_value=samples.report(gates=())))
    result = d3d_edge(*words)
    assert result.code == 0, result.err
    assert said in result.out


@pytest.mark.parametrize("command", ["validate", "benchmark", "report"])
def test_a_name_that_is_too_long_is_one_that_cannot_be_written(
    command: str, made: Path, clips: Path, d3d_edge: D3DEdge, tmp_path: Path
) -> None:
    bundle, long = made / "bundles" / "jetson", tmp_path / (300 * "n")
    words: dict[str, tuple[object, ...]] = {
        "validate": (bundle, "--data", clips, "--out", long),
        "benchmark": (bundle, "--runs", 1, "--out", long),
        "report": (made / "run", "--html", long),
    }
    refused(d3d_edge(command, *words[command]), 9, "cannot write", "File name too long")


def test_names_are_utf_8_in_a_locale_of_another_encoding(tmp_path: Path) -> None:
    """As libraries that open videos take them. C.UTF-8 is what Python makes of C, where it is not told otherwise."""
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "d3d_edge", "recipes", "cp", "demo", "café.yaml"],
        cwd=tmp_path,
        env={**os.environ, **locale, "PYTHONPATH": os.getcwd()},
        capture_output=True,
        check=False,
    )
    assert (done.stdout.decode(), done.stderr.decode()) == ("wrote café.yaml\n", "")
