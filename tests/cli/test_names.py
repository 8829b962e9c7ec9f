"""Names are shown as they are, whatever they would mean to the library that draws tables and bars."""

from __future__ import annotations

import pytest

from d3d_edge.cli.console import TerminalProgress
from d3d_edge.cli.tables import print_report, text_of
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
