"""`benchmark`, for people and as JSON, and `report compare`, which sets two of its reports against each other."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from d3d_edge import workers
from d3d_edge.bundle import Bundle
from d3d_edge.errors import BundleError
from d3d_edge.pipeline import memory
from d3d_edge.report import Report
from d3d_edge.runner import Where
from d3d_edge.timing import Conditions
from tests.cli.conftest import D3DEdge, changed, refused
from tests.unit.page import samples as reports


def test_benchmark(made: Path, clips: Path, d3d_edge: D3DEdge, tmp_path: Path) -> None:
    video, out = next(clips.rglob("*.mp4")), tmp_path / "before.json"
    more = ("--runs", 20, "--rounds", 4, "--video", video, "--memory", "--out", out)
    reports.report().model_copy(update={"split": ""}).write(out)  # older times, which may be replaced
    result = d3d_edge("benchmark", made / "bundles" / "android", *more, "--json")
    assert result.code == 0, result.err
    report = Report.model_validate_json(result.out)
    assert report == Report.read(out)
    (row,) = report.rows
    assert (row.target, row.where) == ("android", Where.HOST_RUNTIME)
    assert row.samples is not None
    assert row.latency is not None
    assert (len(row.samples.network_ms), row.samples.rounds) == (20, 4)
    assert row.latency.end_to_end is not None
    assert row.latency.end_to_end.latency_ms_p50 > row.latency.latency_ms_min
    assert 0 < (row.latency.memory_peak_bytes or 0) < 1e9


def test_times_are_kept_where_memory_cannot_be_measured(
    made: Path, d3d_edge: D3DEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> int:
        raise BundleError("the process that measures its memory was killed")

    monkeypatch.setattr(memory, "peak_bytes", killed)
    result = d3d_edge("benchmark", made / "bundles" / "jetson", "--runs", 2, "--rounds", 1, "--memory")
    assert result.code == 0, result.err
    assert "jetson by onnxruntime" in result.out
    assert "  memory was not measured: the process that measures its memory was killed" in result.out


def test_memory_that_can_never_be_measured_is_refused_before_any_time(
    made: Path, d3d_edge: D3DEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("d3d_edge.harness.stopwatch.take", None)
    monkeypatch.setattr(workers, "ProcessPoolExecutor", full)
    refused(d3d_edge("benchmark", made / "bundles" / "jetson", "--memory"), 9, "cannot start processes: No space left")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--video", "nowhere.mp4"), 8, "there is no video file nowhere.mp4"),
        (("--video", "nowhere.mp4", "--device", "local:FOLDER"), 2, "--video is timed on this machine only"),
        (("--out", "FOLDER"), 2, "is a folder"),
        (("--out", "BUNDLE/times.json"), 2, "is a bundle, which holds nothing else (choose another --out)"),
        (("--out", "BUNDLE/manifest.json"), 2, "is a bundle, which holds nothing else (choose another --out)"),
        (("--out", "FOLDER/report.json"), 2, "report.json exists and is no report of benchmark"),
        (("--out", "FOLDER/clip.mp4", "--video", "FOLDER/clip.mp4"), 2, "clip.mp4 exists and is no report"),
        (("--out", "/dev/null"), 9, "cannot write /dev/null: it is a device"),
        (("--out", "/proc/x/y.json"), 9, "cannot write /proc/x/y.json"),
    ],
)
def test_what_would_fail_after_all_times_is_refused_before_any(
    words: tuple[str, ...],
    code: int,
    said: str,
    made: Path,
    d3d_edge: D3DEdge,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("d3d_edge.harness.stopwatch.take", None)
    bundle = made / "bundles" / "jetson"
    reports.report().write(tmp_path / "report.json")  # as of validate
    (tmp_path / "clip.mp4").write_bytes(b"frames")
    placed = [word.replace("FOLDER", str(tmp_path)).replace("BUNDLE", str(bundle)) for word in words]
    result = d3d_edge("benchmark", bundle, *placed)
    assert (result.code, said in result.err) == (code, True), result.err
    Bundle.open(bundle)


def test_a_benchmark_for_people(made: Path, d3d_edge: D3DEdge) -> None:
    bundles = [made / "bundles" / name for name in ("android", "jetson")]
    result = d3d_edge("benchmark", *bundles, "--runs", 2, "--sustained", 0.001)
    assert result.code == 0, result.err
    assert result.out.count("host runtime") == result.out.count("too short to tell") == 2
    assert max(map(len, result.out.split("android by")[0].splitlines())) <= 80


def test_what_an_interpreter_reads_has_no_times(made: Path, d3d_edge: D3DEdge) -> None:
    ios, android = (made / "bundles" / name for name in ("ios", "android"))
    refused(d3d_edge("benchmark", ios), 2, "nothing to time: an interpreter reads these files", "--device")
    result = d3d_edge("benchmark", ios, android, "--runs", 2)
    assert result.code == 0, result.err
    assert "ios was not timed: an interpreter reads these files on this machine" in result.out
    both = Report.model_validate_json(d3d_edge("benchmark", ios, android, "--runs", 2, "--json").out)
    assert [row.latency is None for row in both.rows] == [True, False]


@pytest.mark.parametrize("runs", [True, False])
def test_what_was_let_through_is_told_and_costs_no_other_its_times(
    runs: bool, made: Path, bundle_copy: Path, d3d_edge: D3DEdge, tmp_path: Path
) -> None:
    def ruin(folder: Path) -> None:
        if not runs:
            (folder / "model.onnx").write_bytes(b"no model")

    changed(bundle_copy, ruin, fallbacks=("it has five axes",))
    words = [
        "benchmark",
        bundle_copy,
        made / "bundles" / "android",
        "--runs",
        2,
        "--out",
        tmp_path / "times.json",
    ]
    done = d3d_edge(*words)
    assert done.code == 0, done.err
    assert "note: jetson was exported with --allow-fallback: it has five axes" in done.out
    report = Report.read(tmp_path / "times.json")
    assert [bool(row.samples) for row in report.rows] == [runs, True]
    if not runs:
        assert "jetson was not timed: ONNX Runtime cannot load" in done.out
        refused(d3d_edge("benchmark", bundle_copy, "--runs", 2), 2, "nothing to time: ONNX Runtime cannot load")


def test_report_compare(made: Path, d3d_edge: D3DEdge, tmp_path: Path) -> None:
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    timed = d3d_edge("benchmark", made / "bundles" / "android", "--runs", 20, "--rounds", 4, "--json")
    report = Report.model_validate_json(timed.out)
    (row,) = report.rows
    assert row.samples is not None

    def taking(factor: float) -> Report:
        """As on a machine that had nothing else to do."""
        times = {"network_ms": tuple(factor * time for time in row.samples.network_ms)} if row.samples else {}
        quiet = {"environment_before": Conditions(), "environment_after": Conditions()}
        samples = row.samples.model_copy(update={**times, **quiet}) if row.samples else None
        return report.model_copy(update={"rows": (row.model_copy(update={"samples": samples}),)})

    taking(1.0).write(before)
    taking(99.0).write(after)
    same = d3d_edge("report", "compare", before, before, "--bound", 0)
    assert same.code == 0
    assert "within noise" in same.out
    assert d3d_edge("report", "compare", before, after).code == 0
    result = d3d_edge("report", "compare", before, after, "--bound", 50)
    assert result.code == 4
    assert "latency_ms_p50 +9800.0%, slower" in result.err
    faster = d3d_edge("report", "compare", after, before, "--bound", 50, "--json")
    assert faster.code == 0
    assert [change["verdict"] for change in json.loads(faster.out)["changes"]] == ["faster", "same"]
