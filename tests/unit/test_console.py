"""What a log says of long work, where there is no terminal to draw a bar on."""

from __future__ import annotations

import pytest

from d3d_edge.cli import console
from d3d_edge.cli.console import TerminalProgress


@pytest.mark.parametrize(
    ("step_s", "said"),
    [
        (0.01, ["100"]),
        (0.1, ["25", "50", "75", "100"]),
        (60.0, ["3", "6", "9", "12", "15"]),
    ],
    ids=["short", "longer", "long"],
)
def test_a_log_has_a_line_at_each_quarter_and_is_never_silent_for_long(
    step_s: float, said: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    with TerminalProgress().task("train", 100) as task:
        for number in range(1, 101):
            clock[0] += step_s
            task.advance(1, f"step {number}")
    lines = capsys.readouterr().err.splitlines()
    assert lines[: len(said)] == [f"train: {number}/100 step {number}" for number in said]
    assert lines[-1].startswith("train: 100/100")
