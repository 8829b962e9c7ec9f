"""docs/models.md shows what `d3d-edge models` prints, and the command that the reader of checkpoints names."""

from __future__ import annotations

from pathlib import Path

import pytest

from d3d_edge.models import checkpoint_files
from tests.cli.conftest import D3DEdge

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "models.md").read_text(encoding="utf-8")


def test_the_table_is_the_commands(d3d_edge: D3DEdge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    table = d3d_edge("models").out.partition("nano: ")[0]
    rows = [line.rstrip() for line in table.splitlines() if line.strip()]
    assert len(rows) == 7
    assert "\n".join(rows) in TEXT


def test_the_command_for_a_tensorflow_checkpoint_is_that_of_the_error() -> None:
    assert checkpoint_files.TO_NPZ in TEXT
