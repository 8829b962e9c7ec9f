"""Tables for people, drawn from values that are on disk as JSON too."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.table import Column, Table
from rich.text import Text

from d3d_edge.cli.console import plain
from d3d_edge.report import REORDERED_CLIPS_MAX, Gate, Pair, Report, Row
from d3d_edge.runner import Where

TEXT_NAME = "report.txt"
_WHERE = {Where.REFERENCE_INTERPRETER: "interpreter"}
"""Shorter words, explained below the table."""
_LEVEL = 0.05
"""Significance from which a difference is put into words."""


def measured_by(row: Row) -> str:
    """Where a row's figures are from, in few letters."""
    return _WHERE.get(row.where, str(row.where))


def threads_of(counts: Iterable[int]) -> str:
    """What models ran with, in words; 0 is what a runtime chooses."""
    return " or ".join(str(count or "default") for count in sorted(set(counts))) + " threads"


def print_report(report: Report, path: Path | None, *, strict_gates: bool = False) -> None:
    """Print the report, and that it was written to `path`, if it was. `strict_gates`: as `validate` was told."""
    console = plain()
    console.print(_report(report, strict_gates), crop=False)
    if path:
        console.print(f"wrote {path}", soft_wrap=True)


def text_of(report: Report, width: int = 100, *, strict_gates: bool = False) -> str:
    """The report as plain text, in lines of so many letters."""
    console = plain(width=width, file=io.StringIO(), record=True)
    console.print(_report(report, strict_gates), crop=False)
    return "\n".join(line.rstrip() for line in console.export_text().splitlines()) + "\n"


def _report(report: Report, strict_gates: bool) -> Group:
    clips = max((row.clips for row in report.rows), default=0)
    title = f"{report.title}: {report.classes} classes, {clips} {report.split} clips, chance {_share(report.chance)}"
    parts: list[Table | Text] = [Text(title, style="bold"), _rows(report)]
    if report.pairs:
        parts.append(_pairs(report.pairs))
    parts += [Text(f"note: {note}") for note in (*report.notes, *_where_notes(report))]
    if report.skipped:
        parts.append(Text(f"skipped {len(report.skipped)} clip(s):"))
        # In one line each, however long: a path that is broken cannot be copied.
        for clip in report.skipped[:10]:
            parts.append(Text(f"  {clip.path}: {clip.why}", no_wrap=True, overflow="ignore"))
        if len(report.skipped) > 10:
            parts.append(Text(f"  and {len(report.skipped) - 10} more, all in the JSON report"))
    parts += [Text(line) for line in gate_lines(report.gates, strict=strict_gates)]
    return Group(*parts)


def gate_lines(gates: Sequence[Gate], *, strict: bool = False) -> list[str]:
    """How many gates pass, after one line for those that do not; rows with the same finding share a line.

    `strict`: whether undecided ones fail already, so that the option for it need not be named.
    """
    if not gates:
        return []
    rows: dict[Gate, list[str]] = {}
    for gate in gates:
        if gate.verdict != "pass":
            rows.setdefault(gate.model_copy(update={"row": ""}), []).append(gate.row)
    lines = [
        f"gate {gate.name} {_exact(gate.bound)} of {', '.join(names)}: {_finding(gate)}" for gate, names in rows.items()
    ]
    passed = sum(gate.verdict == "pass" for gate in gates)
    if passed == len(gates):
        return [f"all {passed} gates pass"]
    undecided = sum(gate.verdict == "undecided" for gate in gates)
    too_few = f"; for {undecided} the clips are too few" if undecided else ""
    if undecided and not strict:
        too_few += " (--strict-gates makes that a failure)"
    return [*lines, f"{passed} of {len(gates)} gates pass{too_few}"]


def _exact(number: float) -> str:
    """Six figures; all of a size in bytes."""
    return f"{number:.0f}" if number >= 1e5 else f"{number:.6g}"


def _finding(gate: Gate) -> str:
    if gate.value is None:
        return "not measured"
    if gate.low is None or gate.high is None:
        return f"{gate.verdict}, {_exact(gate.value)}"
    digits = 1 if gate.name == "top1_drop_points_max" else 3
    value, low, high = (f"{number:.{digits}f}" for number in (gate.value, gate.low, gate.high))
    found = f"{gate.verdict}, {value} ({low} to {high} by {gate.clips} clips)"
    if gate.verdict != "undecided":
        return found
    needed = f"about {gate.clips_needed} like them would tell" if gate.clips_needed else "no number of them would tell"
    return f"{found}: {needed}"


def gmac(number: float) -> str:
    """A count of multiplications and additions, in thousand millions."""
    return f"{number:.2f}" if number >= 0.05 else f"{number:.2g}"


class _Whole(Table):
    """As wide as it needs to be: where a terminal is narrower, its lines go on below, and nothing is cut off.

    Is to be printed with crop=False.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        least = sum(map(_least, self.columns)) + len(self.columns) + 1 + (len(self.columns) - 1) * self.padding[1]
        if least > options.max_width:
            options = options.update_width(least)
            for column in self.columns:
                column.min_width = _least(column)
        yield from super().__rich_console__(console, options)


def _least(column: Column) -> int:
    """Letters of the longest word of a column, or of all words of a cell where they stay in one line."""
    cells = [str(cell) for cell in (column.header, *column.cells)]
    return max((cell_len(part) for cell in cells for part in ([cell] if column.no_wrap else cell.split())), default=0)


def columns(words: Sequence[str], figures: Sequence[str], *, tight: bool = False) -> Table:
    """An empty table, in the look of all of them: columns of words, folded where a row is too long, then of figures."""
    table = _Whole(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 0 if tight else 1, 0, 0))
    for name in words:
        table.add_column(name, overflow="fold")
    for name in figures:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _rows(report: Report) -> Table:
    # Narrow enough for a terminal of 80 columns: precision stands in the name, the runtime's version in the notes.
    if not report.is_of_bundles:
        return _trained(report)
    table = columns(("model", "measured by"), ("top-1", "95 %", "+/-", "agree", "diff", "MB", "p50", "p90"), tight=True)
    for row in report.rows:
        table.add_row(row.name, measured_by(row), *_accuracy(row), *_size_and_time(row))
    return table


def _pairs(pairs: Sequence[Pair]) -> Table:
    """One checkpoint, several files: how far they agree with one another, on the same clips."""
    table = columns(("bundles",), ("same answer", "diff"))
    for pair in pairs:
        table.add_row(f"{pair.first} and {pair.second}", _share(pair.agreement), f"{pair.logit_difference_max:.2g}")
    return table


def _trained(report: Report) -> Table:
    if _has_motion(report):
        return _in_three_orders(report)
    table = columns(("model", "measured by"), ("top-1", "top-5"))
    for row in report.rows:
        table.add_row(row.name, str(row.where), _share(row.top1), _share(row.top5))
    return table


def _in_three_orders(report: Report) -> Table:
    table = columns(("model",), ("top-1", "reversed", "shuffled", "agree", "reversed", "shuffled"))
    for row in report.rows:
        shares = (row.top1, row.top1_reversed, row.top1_shuffled)
        agreements = (row.agreement, row.agreement_reversed, row.agreement_shuffled)
        table.add_row(row.name, *(_share(share) for share in (*shares, *agreements)))
    return table


def _has_motion(report: Report) -> bool:
    return any(row.top1_reversed is not None for row in report.rows)


def _accuracy(row: Row) -> tuple[str, str, str, str, str]:
    interval, flips = "-", "-"
    if row.top1_low is not None and row.top1_high is not None:
        interval = f"{100 * row.top1_low:.0f}-{100 * row.top1_high:.0f}"
    if row.paired:
        flips = f"+{row.paired.gained}-{row.paired.lost}"
    difference = "-" if row.logit_difference_max is None else f"{row.logit_difference_max:.2g}"
    return (_share(row.top1), interval, flips, _share(row.agreement), difference)


def _size_and_time(row: Row) -> tuple[str, str, str]:
    size = "-" if row.size_bytes is None else f"{row.size_bytes / 1e6:.2f}"
    if row.latency is None:
        return (size, "-", "-")
    return (size, f"{row.latency.latency_ms_p50:.1f}", f"{row.latency.latency_ms_p90:.1f}")


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"


def _losses(row: Row) -> list[str]:
    """What cannot be chance: a loss against the float student, or one in a class, allowing for how many classes are
    looked at (Bonferroni)."""
    if not row.paired:
        return []
    found = row.paired
    lines = []
    if found.mcnemar_p < _LEVEL:
        interval = f"{found.difference_points_low:+.1f} to {found.difference_points_high:+.1f}"
        lines.append(
            f"{row.name} differs from the float student by {found.difference_points:+.1f} points ({interval}), "
            f"McNemar p {found.mcnemar_p:.2g}"
        )
    for slice_ in row.classes:
        if slice_.mcnemar_p is not None and slice_.mcnemar_p < _LEVEL / len(row.classes):
            lines.append(
                f"{row.name} names {slice_.right} of {slice_.clips} {slice_.label} rightly, the float student "
                f"{slice_.student_right}"
            )
    return lines


def _where_notes(report: Report) -> list[str]:
    told = [(row, " was not run" if row.where == Where.NOT_RUN else "") for row in report.rows if row.note]
    notes = [f"{row.name}{not_run}: {row.note}" for row, not_run in told]
    notes += [f"{row.name} by {row.runtime}" for row in report.rows if row.device and row.where == Where.DEVICE]
    notes += [
        f"{row.name} by {row.runtime}, which is not what its bundle is made for: its times say nothing of the target's"
        for row in report.rows
        if row.device and row.where == Where.HOST_RUNTIME
    ]
    here = [row for row in report.rows if row.where == Where.HOST_RUNTIME and not row.device]
    hosted = [f"{row.name} by {row.runtime}" for row in here]
    if hosted:
        kind = report.environment.kind
        notes.append(f"host runtime: the target's file on this machine ({kind}), not on a device: {', '.join(hosted)}")
    interpreted = [row.name for row in report.rows if row.where == Where.REFERENCE_INTERPRETER]
    if interpreted:
        notes.append(
            f"interpreter: the file of {', '.join(interpreted)} read by this project's reference interpreter, "
            "which checks its answers; its time would say nothing"
        )
    if any(row.paired for row in report.rows):
        notes.append(
            "95 %: interval of top-1 in percent; +/-: clips that a row names rightly and the float student wrongly, "
            "and the other way round"
        )
        notes += [line for row in report.rows for line in _losses(row)]
    if _has_motion(report) and not report.is_of_bundles:
        notes.append(
            f"reversed, shuffled: the same clips, of many {REORDERED_CLIPS_MAX} evenly spread, with their frames in "
            f"that order; agree: the same first answer as the float student. By {report.rows[0].where} on this machine"
        )
        return notes
    steps = {row.logit_step for row in report.rows if row.logit_step is not None}
    if any(row.agreement is not None for row in report.rows):
        step = f"; one step of one feature moves a logit by at most {steps.pop():.2g}" if len(steps) == 1 else ""
        notes.append(
            "agree and diff (largest difference of a logit) are against the quantized graph, and for it and for files "
            f"that were not made from it against the float student{step}"
        )
    timed = [(row.name, row.latency) for row in report.rows if row.latency]
    if timed:
        threads = threads_of(latency.threads for _, latency in timed)
        notes.append(f"p50 and p90: milliseconds of the network alone, one clip, {threads}; MB: the model file")
    if busy := [name for name, latency in timed if latency.busy]:
        of = "" if len(busy) == len(timed) else f" of {', '.join(busy)}"
        notes.append(f"other processes kept the machine busy: the times{of} are not to be trusted")
    notes += [f"{row.name}: {row.samples.heat_note}" for row in report.rows if row.samples and row.samples.hot]
    return notes
