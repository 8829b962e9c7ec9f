"""A report is a value on disk; what was not measured is null, never a number."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from d3d_edge.errors import DataError
from d3d_edge.report import Environment, Gate, Latency, Report, Row, SkippedClip
from d3d_edge.runner import Where


def report() -> Report:
    latency = Latency(
        runs=20,
        threads=2,
        load_ms=9.0,
        first_ms=5.0,
        latency_ms_p50=4.0,
        latency_ms_p90=5.0,
        latency_ms_p95=5.0,
        latency_ms_mean=4.2,
        latency_ms_std=0.3,
        latency_ms_min=3.9,
    )
    return Report(
        title="least",
        classes=2,
        split="test",
        chance=0.5,
        environment=Environment(
            machine="x86_64",
            processor="a processor",
            cpus=2,
            system="Linux",
            python="3.11.7",
            tools={"torch": "2.13.0"},
            started="2026-01-02T03:04:05Z",
        ),
        rows=(
            Row(name="student", role="float", precision="float32", where=Where.HOST_TORCH, clips=10, top1=0.9),
            Row(name="android", role="bundle", precision="int8", where=Where.HOST_RUNTIME, latency=latency),
            Row(name="ios", role="bundle", precision="int8", where=Where.NOT_RUN, note="no Mac here"),
        ),
        gates=(
            Gate(name="agreement_min", row="android", bound=0.9, value=0.95, verdict="pass"),
            Gate(name="size_bytes_max", row="android", bound=10, value=11, verdict="fail"),
            Gate(name="agreement_min", row="ios", bound=0.9, value=None, verdict="not measured"),
        ),
        skipped=(SkippedClip(path="/a.mp4", reason="no frames"),),
    )


def test_a_report_reads_back_equal(tmp_path: Path) -> None:
    report().write(tmp_path / "deep" / "report.json")
    assert Report.read(tmp_path / "deep" / "report.json") == report()


def test_every_row_says_where_it_was_measured() -> None:
    with pytest.raises(ValidationError, match="where"):
        Row(name="student", role="float", precision="float32")  # type: ignore[call-arg]


def test_what_was_not_measured_is_null(tmp_path: Path) -> None:
    report().write(tmp_path / "report.json")
    row = json.loads((tmp_path / "report.json").read_text())["rows"][2]
    assert row["where"] == "not run"
    assert {row[name] for name in ("top1", "top5", "agreement", "size_bytes", "latency")} == {None}


def test_a_figure_is_a_finite_number() -> None:
    with pytest.raises(ValidationError, match="finite"):
        Row(name="a", role="float", precision="int8", where=Where.DEVICE, logit_difference_max=float("nan"))


WHOLE = report().model_dump_json()


def with_row(name: str, value: str) -> bytes:
    """The report as JSON, with a value in its first row that was empty."""
    head, rows, tail = WHOLE.partition('"rows"')
    return (head + rows + re.sub(rf'"{name}":(null|\[\]),', f'"{name}":{value},', tail, count=1)).encode()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (WHOLE.encode()[:-9], "line 1 column"),
        (b"\xff" + WHOLE.encode(), "can't decode"),
        (b"[]", "Input should be"),
        (b"{}", "title: Field required .*it must be one that this version of d3d-edge wrote"),
        (WHOLE.replace('"format_version":1', '"format_version":0').encode(), "format_version: Input should be 1"),
        (WHOLE.replace("d3d-edge report", "other").encode(), "format: Input should be 'd3d-edge report'"),
        (WHOLE.replace('"top1":0.9', '"top1":NaN').encode(), "rows.0.top1: Input should be a finite number"),
        (b"[" * 100_000, "it nests too deep"),
        (WHOLE.replace('"top1":0.9', '"top1":90').encode(), "rows.0.top1: Input should be less than or equal to 1"),
        (with_row("size_bytes", "9" * 400), "rows.0.size_bytes: Input should be less than"),
        (with_row("classes", '[{"label": "a", "clips": 0, "right": 0}]'), "rows.0.classes.0.clips: "),
        (with_row("classes", '[{"label": "a", "clips": 1, "right": 2}]'), "more clips of a are right than there are"),
        *(
            (
                WHOLE.replace('"latency_ms_p50":4.0', f'"latency_ms_p50":{value}').encode(),
                "latency_ms_p50: Input should",
            )
            for value in ("0", "-4", "1e308", "1e-320")
        ),
    ],
)
def test_what_is_not_a_report_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "report.json").write_bytes(content)
    with pytest.raises(DataError, match=rf"report.json is not a readable report: .*{said}"):
        Report.read(tmp_path / "report.json")


def test_another_file_of_this_version_is_called_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text('{"format": "d3d-edge probe", "format_version": 1}')
    with pytest.raises(DataError, match=r"is not a readable report: it is a d3d-edge probe \(give the report\.json of"):
        Report.read(tmp_path / "report.json")


@pytest.mark.parametrize("name", ["report.json", "."])
def test_a_report_that_is_not_there_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="is not a readable report"):
        Report.read(tmp_path / name)
