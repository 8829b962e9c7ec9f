"""Tables for people, drawn from values that are on disk as JSON too."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from d3d_edge.report import Report, Row
from d3d_edge.runner import Where

TEXT_NAME = "report.txt"
_WHERE = {Where.REFERENCE_INTERPRETER: "interpreter"}
"""Shorter words, explained below the table."""


def print_report(report: Report, path: Path | None) -> None:
    """Print the report, and leave the same text beside report.json at `path`."""
    console = Console()
    console.print(_report(report))
    if path:
        console.print(f"wrote {path}", markup=False, highlight=False)


def text_of(report: Report) -> str:
    """The report as plain text."""
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(_report(report))
    return "\n".join(line.rstrip() for line in console.export_text().splitlines()) + "\n"


def _report(report: Report) -> Group:
    clips = max((row.clips for row in report.rows), default=0)
    title = f"{report.title}: {report.classes} classes, {clips} {report.split} clips, chance {_share(report.chance)}"
    parts: list[Table | Text] = [Text(title, style="bold"), _rows(report)]
    parts += [Text(f"note: {note}") for note in (*report.notes, *_where_notes(report))]
    if report.skipped:
        parts.append(Text(f"skipped {len(report.skipped)} clip(s):"))
        parts += [Text(f"  {clip.path}: {clip.reason}") for clip in report.skipped[:10]]
        if len(report.skipped) > 10:
            parts.append(Text(f"  and {len(report.skipped) - 10} more, all in the JSON report"))
    for gate in report.gates:
        if gate.verdict != "pass":
            value = "not measured" if gate.value is None else f"{gate.value:.6g}"
            parts.append(Text(f"gate {gate.name}: {gate.row} has {value}, bound {gate.bound:.6g}: {gate.verdict}"))
    if report.gates and not any(gate.verdict != "pass" for gate in report.gates):
        parts.append(Text(f"all {len(report.gates)} gates pass"))
    return Group(*parts)


def columns(words: Sequence[str], figures: Sequence[str]) -> Table:
    """An empty table, in the look of all of them: columns of words, then columns of figures."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in words:
        table.add_column(name, no_wrap=True)
    for name in figures:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _rows(report: Report) -> Table:
    # Narrow enough for a terminal of 80 columns: precision stands in the name, the runtime's version in the notes.
    full = any(row.role == "bundle" for row in report.rows)
    more = ("agree", "diff", "MB", "p50", "p90") if full else ()
    table = columns(("model", "measured by"), ("top-1", "top-5", *more))
    for row in report.rows:
        shares = (_share(row.top1), _share(row.top5))
        table.add_row(row.name, _WHERE.get(row.where, str(row.where)), *shares, *(_more(row) if full else ()))
    return table


def _more(row: Row) -> tuple[str, str, str, str, str]:
    difference = "-" if row.logit_difference_max is None else f"{row.logit_difference_max:.2g}"
    size = "-" if row.size_bytes is None else f"{row.size_bytes / 1e6:.2f}"
    timed = ("-", "-")
    if row.latency:
        timed = (f"{row.latency.latency_ms_p50:.1f}", f"{row.latency.latency_ms_p90:.1f}")
    return (_share(row.agreement), difference, size, *timed)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"


def _where_notes(report: Report) -> list[str]:
    notes = [f"{row.name} was not run: {row.note}" for row in report.rows if row.where == Where.NOT_RUN]
    hosted = [f"{row.name} by {row.runtime}" for row in report.rows if row.where == Where.HOST_RUNTIME]
    if hosted:
        processor = report.environment.processor
        notes.append(
            f"host runtime: the target's file on this machine ({processor}), not on a device: " + ", ".join(hosted)
        )
    interpreted = [row.name for row in report.rows if row.where == Where.REFERENCE_INTERPRETER]
    if interpreted:
        notes.append(
            f"interpreter: the file of {', '.join(interpreted)} read by this project's reference interpreter, "
            "which checks its answers; its time would say nothing"
        )
    steps = {row.logit_step for row in report.rows if row.logit_step is not None}
    if len(steps) == 1:
        notes.append(
            "agree and diff (largest difference of a logit) are against the quantized graph, and its own against "
            f"the float student; a quantization step of the logits is {steps.pop():.3g}"
        )
    if sizes := [row for row in report.rows if row.latency]:
        threads = sizes[0].latency.threads if sizes[0].latency else 0
        notes.append(
            f"p50 and p90: milliseconds of the network alone, one clip, {threads or 'default'} threads; "
            "MB: the model file"
        )
    return notes
