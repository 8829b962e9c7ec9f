"""What the demo command prints of the report that its pipeline makes; `make demo` runs the pipeline itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from d3d_edge.report import Report
from tests.cli.conftest import D3DEdge


@pytest.fixture
def report(made: Path, monkeypatch: pytest.MonkeyPatch) -> Report:
    """A finished report, in place of minutes of work."""
    finished = Report.read(made / "run" / "report.json")
    monkeypatch.setattr("d3d_edge.pipeline.demo.demo", lambda out, **_: finished)
    return finished


def test_the_demo_says_what_to_try_next(report: Report, d3d_edge: D3DEdge, tmp_path: Path) -> None:
    printed = d3d_edge("demo", "--out", tmp_path).out
    assert report.rows[0].name in printed
    assert f"try: d3d-edge report {tmp_path}/run {tmp_path}/bundles {tmp_path}/report.json" in printed


def test_as_json_the_report_alone_is_printed(report: Report, d3d_edge: D3DEdge, tmp_path: Path) -> None:
    assert Report.model_validate(json.loads(d3d_edge("demo", "--out", tmp_path, "--json").out)) == report
