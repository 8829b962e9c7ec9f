"""Two reports compared: what changed by more than chance. A pure function of the reports; measures nothing."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from d3d_edge.harness import accuracy, conditions
from d3d_edge.report import Report, Row
from d3d_edge.schema import Schema
from d3d_edge.timing import Samples

CONFIDENCE = 0.99
"""Of the interval of a ratio of times: many rows are compared, and each false alarm costs somebody an hour."""
LEVEL = 0.01
"""Significance from which top-1 has changed, by McNemar's exact test."""
SMALLEST_CHANGE = 0.08
"""Times that differ by less are within noise, however often they were taken: one process finds a machine as it is for
some seconds, and no number of runs in it shows how machines differ from minute to minute. On a shared server it was up
to 7 % where nothing else ran (docs/measuring.md)."""
BLOCKS = 10
"""Parts that a series without rounds is cut into: runs in succession are alike, so they are not counted one by one."""

Figure = Literal["latency_ms_p50", "top1", "size_bytes"]
Verdict = Literal[
    "faster",
    "slower",
    "better",
    "worse",
    "smaller",
    "larger",
    "same",
    "within noise",
    "too few runs",
    "not comparable",
]
_REGRESSIONS = ("slower", "worse", "larger")
_UNTOLD = ("too few runs", "not comparable")


class Change(Schema):
    """One figure of one row, in both reports."""

    row: str
    figure: Figure
    before: float
    """Of times, the geometric mean of the medians of the rounds: `change` is of these, and one p50 of all runs may go
    another way."""
    after: float | None
    """The same. Null where it was not measured again."""
    change: float | None
    """Times and sizes: percent of `before`. top1: percentage points. Null where it cannot be worked out."""
    low: float | None = None
    """Lower end of the interval of `change`; null for a size, which is exact, and where it cannot be told."""
    high: float | None = None
    verdict: Verdict
    note: str = ""
    """What else differs, so that the two may not be comparable."""

    def is_past(self, bound_percent: float) -> bool:
        """Whether it is a change for the worse, beyond noise, by more than `bound_percent` percent (top1: points)."""
        return self.verdict in _REGRESSIONS and abs(self.change or 0.0) > bound_percent

    @property
    def is_told(self) -> bool:
        """Whether it can be told if there is a change: without it, no bound is kept to."""
        return self.verdict not in _UNTOLD


class Comparison(Schema):
    """What `d3d-edge report compare --json` prints."""

    before: str
    """Title of the report."""
    after: str
    changes: tuple[Change, ...]
    only_before: tuple[str, ...] = ()
    """Rows that the other report does not have."""
    only_after: tuple[str, ...] = ()


def compare(before: Report, after: Report) -> Comparison:
    """Every row that both have, figures that `after` lost included. Two reports of one row each are compared whatever
    its name."""
    pairs = [(row, other) for row in before.rows for other in after.rows if row.name == other.name]
    if not pairs and len(before.rows) == len(after.rows) == 1:
        pairs = [(before.rows[0], after.rows[0])]
    changes: list[Change] = []
    for row, other in pairs:
        found = [*_latency(before, after, row, other), *_top1(before, after, row, other), *_size(row, other)]
        changes += [*found, *_lost(row, other, {change.figure for change in found})]
    return Comparison(
        before=before.title,
        after=after.title,
        changes=tuple(changes),
        only_before=_without(before.rows, [row for row, _ in pairs]),
        only_after=_without(after.rows, [other for _, other in pairs]),
    )


def _without(rows: Iterable[Row], known: list[Row]) -> tuple[str, ...]:
    return tuple(row.name for row in rows if row not in known)


def _lost(row: Row, other: Row, compared: set[Figure]) -> Iterator[Change]:
    """The figures of `row` that nothing in `other` could be compared with."""
    had, has = _figures(row), _figures(other)
    for figure, value in had.items():
        if figure not in compared:
            why = "one report holds no single times or answers" if figure in has else "not measured after"
            yield Change(
                row=other.name,
                figure=figure,
                before=value,
                after=has.get(figure),
                change=None,
                verdict="not comparable",
                note=": ".join(filter(None, (why, other.note))),
            )


def _figures(row: Row) -> dict[Figure, float]:
    """Those that were measured."""
    known: dict[Figure, float | None] = {
        "latency_ms_p50": row.latency.latency_ms_p50 if row.latency else None,
        "top1": row.top1,
        "size_bytes": row.size_bytes or None,
    }
    return {figure: value for figure, value in known.items() if value is not None}


def _difference(before: Report, after: Report, row: Row, other: Row) -> str:
    """What else than the model differs between two timed rows, or spoils their times."""
    found = []
    if not _same_machine(before, row, after, other) or row.where != other.where:
        found.append("not measured by the same machine and means")
    if row.runtime != other.runtime:
        found.append(f"{row.runtime} before, {other.runtime} after")
    if row.samples and other.samples and row.samples.threads != other.samples.threads:
        found.append(f"{row.samples.threads} and {other.samples.threads} threads")
    if row.samples and other.samples:
        one, two = row.samples.environment_before, other.samples.environment_before
        settings = {"power mode": (one.power_mode, two.power_mode), "governor": (one.governor, two.governor)}
        for what, (was, now) in settings.items():
            if was != now:
                found.append(f"{what} {was or 'unknown'} before, {now or 'unknown'} after")
        if row.samples.hot or other.samples.hot:
            found.append(f"thermal status {row.samples.hot or 'good'} before, {other.samples.hot or 'good'} after")
    if any(one.latency and one.latency.busy for one in (row, other)):
        found.append("timed on a busy machine")
    return "; ".join(found)


def _same_machine(before: Report, row: Row, after: Report, other: Row) -> bool:
    """Whether one kind of machine ran two rows: a device goes by its name, whoever asked it."""
    if row.device or other.device:
        return row.device == other.device
    one, two = before.environment, after.environment
    known = one.instructions and two.instructions  # Older reports do not say them.
    return one.processor == two.processor and (not known or one.instructions == two.instructions)


def _latency(before: Report, after: Report, row: Row, other: Row) -> list[Change]:
    if not (row.samples and other.samples and row.latency and other.latency):
        return []
    change, low, high = ratio(row.samples, other.samples)
    busy = any(one.latency and one.latency.busy for one in (row, other))
    least = 1 + (conditions.SMALLEST_CHANGE_BUSY if busy else SMALLEST_CHANGE)
    # What others did may have made `before` or `after` this much slower than the model is.
    spoilt, spoilt_after = _slowed(row.samples, _cpus(before, row)), _slowed(other.samples, _cpus(after, other))
    verdict: Verdict = "within noise"
    if low is None or high is None:
        verdict = "too few runs"
    elif low > spoilt_after and change > spoilt_after * least:
        verdict = "slower"
    elif high * spoilt < 1 and change * spoilt * least < 1:
        verdict = "faster"
    return [
        Change(
            row=other.name,
            figure="latency_ms_p50",
            before=_typical_ms(row.samples),
            after=_typical_ms(other.samples),
            change=100 * (change - 1),
            low=None if low is None else 100 * (low - 1),
            high=None if high is None else 100 * (high - 1),
            verdict=verdict,
            note=_difference(before, after, row, other),
        )
    ]


def _cpus(report: Report, row: Row) -> int | None:
    """Processors of what ran a row, where they are known."""
    own = row.samples.environment_after.cpus if row.samples else None
    if own or (row.device and row.machine is None):
        return own
    return (row.machine or report.environment).cpus


def _slowed(samples: Samples, cpus: int | None) -> float:
    """How many times as long a run may have taken because of what others did, before or while it was timed."""
    sides = (samples.environment_before.others_cpus, samples.environment_after.others_cpus)
    others = max((side for side in sides if side is not None), default=0.0)
    return conditions.slowed(others, samples.threads, cpus) if cpus else 1.0


def ratio(before: Samples, after: Samples) -> tuple[float, float | None, float | None]:
    """How many times as long a run takes after as before, and the ends of the interval of that at CONFIDENCE.

    Each round (or block, see BLOCKS) counts once, by the logarithm of its median. A median, since the slow tail of a
    round is the machine's and not the model's; a round, since the runs in one are alike, and the interval must be as
    wide as rounds differ. It is Welch's t interval of the difference of their means. Too few runs have no ends.
    """
    from scipy.stats import ttest_ind

    medians = [_medians(samples) for samples in (before, after)]
    change = float(np.exp(medians[1].mean() - medians[0].mean()))
    if min(len(logs) for logs in medians) < 3:
        return change, None, None
    if all(np.ptp(logs) == 0 for logs in medians):
        return change, change, change
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of one side whose times are all alike; the interval is right
        interval = ttest_ind(medians[1], medians[0], equal_var=False).confidence_interval(CONFIDENCE)
    return change, float(np.exp(interval.low)), float(np.exp(interval.high))


def _typical_ms(samples: Samples) -> float:
    return float(np.exp(_medians(samples).mean()))


def _medians(samples: Samples) -> NDArray[np.float64]:
    """The logarithm of the median of each round or block."""
    times = np.asarray(samples.network_ms)
    parts = samples.rounds if samples.rounds >= 3 else min(BLOCKS, len(times) // 3)
    return np.log([np.median(part) for part in np.array_split(times, max(1, parts))])


def _top1(before: Report, after: Report, row: Row, other: Row) -> list[Change]:
    if row.top1 is None or other.top1 is None or not row.answers or not other.answers:
        return []
    rights = [_right(report, one) for report, one in ((before, row), (after, other))]
    shared = [key for key in rights[0] if key in rights[1]]
    if not shared:
        return [
            Change(
                row=other.name,
                figure="top1",
                before=row.top1,
                after=other.top1,
                change=100 * (other.top1 - row.top1),
                verdict="not comparable",
                note="no clip in common" + ("" if before.labels == after.labels else ", and other classes"),
            )
        ]
    own, student = (np.array([right[key] for key in shared]) for right in (rights[1], rights[0]))
    found = accuracy.Rights(own, student)
    low, high = found.bootstrap_points()
    verdict: Verdict = "within noise"
    if found.gained == found.lost == 0:
        verdict = "same"
    elif found.mcnemar_p < LEVEL:
        verdict = "better" if found.gained > found.lost else "worse"
    return [
        Change(
            row=other.name,
            figure="top1",
            before=float(student.mean()),
            after=float(own.mean()),
            change=found.difference_points,
            low=low,
            high=high,
            verdict=verdict,
            note="" if len(shared) == len(rights[0]) == len(rights[1]) else f"on the {len(shared)} clips in common",
        )
    ]


def _right(report: Report, row: Row) -> dict[tuple[str, str], bool]:
    """Whether the answer to each clip is right, by its key and the name of its class."""
    predicted = row.answers.predicted if row.answers else ()
    return {
        (clip.key, report.labels[clip.label]): answer == clip.label
        for clip, answer in zip(report.clips, predicted, strict=True)
    }


def _size(row: Row, other: Row) -> list[Change]:
    if not row.size_bytes or not other.size_bytes:
        return []
    change = 100 * (other.size_bytes - row.size_bytes) / row.size_bytes
    sizes = (row.size_bytes, other.size_bytes)
    verdict: Verdict = "same" if sizes[0] == sizes[1] else "larger" if change > 0 else "smaller"
    return [
        Change(row=other.name, figure="size_bytes", before=sizes[0], after=sizes[1], change=change, verdict=verdict)
    ]
