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


@pytest.mark.parametrize(
    "theirs", ["clips/wave/0000.mp4", "run/recipe.yaml", "bundles/android/model.pte", "report.json"]
)
def test_what_is_not_of_a_demo_is_left_alone(theirs: str, d3d_edge: D3DEdge, tmp_path: Path) -> None:
    (tmp_path / theirs).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / theirs).write_text("theirs")
    result = d3d_edge("demo", "--out", tmp_path)
    place = tmp_path / theirs.partition("/")[0]
    said = f"{place} is there, and {tmp_path / 'clips'} holds no rendered clips (choose another --out)"
    assert (result.code, result.err) == (8, f"error: {said}\n")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / theirs]


def test_as_json_the_report_alone_is_printed(report: Report, d3d_edge: D3DEdge, tmp_path: Path) -> None:
    assert Report.model_validate(json.loads(d3d_edge("demo", "--out", tmp_path, "--json").out)) == report
