"""docs/measuring.md: its numbers of clips are those that the gates give."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from d3d_edge.harness import gates
from tests.unit.harness.test_gates import AGREE, gate, row

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "measuring.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (\d) points? \| (\d+) \| (\d+) \| (\d+) \|$", PAGE, flags=re.MULTILINE)
MANY = 1_000_000


@pytest.mark.parametrize("figures", ROWS, ids=lambda figures: f"{figures[0]} points")
def test_clips_needed_for_a_drop(figures: tuple[str, ...]) -> None:
    points, *clips = map(int, figures)
    for share, expected in zip((0, 0.01, 0.03), clips, strict=True):
        changed = round(share * MANY)
        statistic = gates.tango(changed, changed, MANY, points / 100)
        assert math.ceil(MANY * (gates._Z / statistic) ** 2) == expected


@pytest.mark.parametrize(("bound", "clips"), [(0.95, 52), (0.97, 88), (0.99, 268)])
def test_clips_needed_for_agreement(bound: float, clips: int) -> None:
    assert f"{clips} for {bound}" in PAGE
    verdicts = [gate(AGREE, row(agreement=1.0, clips=count), **{AGREE: bound}).verdict for count in (clips - 1, clips)]
    assert verdicts == ["undecided", "pass"]
