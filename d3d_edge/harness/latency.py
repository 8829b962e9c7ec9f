"""Latency: the figures that samples give, wherever they were taken. Pure functions; `stopwatch` takes times here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from d3d_edge.harness import conditions
from d3d_edge.report import Row
from d3d_edge.timing import Drift, Latency, Samples, Spread, Sustained


def figures(samples: Samples) -> Latency:
    """What `samples` say."""
    whole, cpus = samples.end_to_end, samples.environment_after.cpus
    return Latency(
        **dict(spread(samples.network_ms)),
        threads=samples.threads,
        load_ms=samples.load_ms,
        first_ms=samples.first_ms,
        memory_peak_bytes=samples.memory_peak_bytes,
        end_to_end=spread(np.sum([whole.decode_ms, whole.resize_ms, whole.network_ms], axis=0)) if whole else None,
        decode_ms_p50=float(np.median(whole.decode_ms)) if whole else None,
        resize_ms_p50=float(np.median(whole.resize_ms)) if whole else None,
        drift=drift(samples.sustained, samples.threads, cpus) if samples.sustained else None,
        busy=conditions.busy(samples.environment_before, samples.environment_after, cpus),
    )


def timed(row: Row, samples: Samples) -> Row:
    """`row` with what was timed."""
    return row.model_copy(update={"samples": samples, "latency": figures(samples)})


def spread(times_ms: Sequence[float] | NDArray[np.float64]) -> Spread:
    """Percentiles, mean and standard deviation of single times."""
    times = np.asarray(times_ms, dtype=np.float64)
    p50, p90, p95, p99 = (float(value) for value in np.percentile(times, [50, 90, 95, 99]))
    return Spread(
        runs=len(times),
        latency_ms_p50=p50,
        latency_ms_p90=p90,
        latency_ms_p95=p95 if len(times) >= 20 else None,
        latency_ms_p99=p99 if len(times) >= 100 else None,
        latency_ms_mean=float(times.mean()),
        latency_ms_std=float(times.std(ddof=1)) if len(times) > 1 else 0.0,
        latency_ms_min=float(times.min()),
    )


Verdict = Literal["steady", "slower", "faster", "undecided"]

DRIFT_CHANGE = 0.05
"""A smaller change is called steady: this project's choice, about what a machine's clock does by itself."""
DRIFT_P = 0.01
DRIFT_BLOCKS = 50
"""Medians that the trend is sought in. Single runs are too near each other to count as independent."""
DRIFT_BLOCKS_LEAST = 10
DRIFT_MINUTES = 0.9
"""Less than one: the first and last moments of a minute's run are less than a minute apart."""


def drift(sustained: Sustained, threads: int = 0, cpus: int | None = None) -> Drift:
    """Whether the time of a run rises or falls while the network runs without a pause.

    'slower' or 'faster' needs both: the median of the last fifth of the time differs from that of the first fifth by
    more than DRIFT_CHANGE, and the series rises or falls steadily by the Mann-Kendall test at DRIFT_P (Kendall's tau
    against time; Mann 1945), on the medians of DRIFT_BLOCKS equal spans of time. Shorter than DRIFT_MINUTES, or with
    too few moments, it is 'too short to tell'. Where others' work on a machine of `cpus` processors may have made that
    verdict for `threads` threads, it is 'undecided' (`_spoilt`).
    """
    from scipy.stats import kendalltau

    at, times = np.asarray(sustained.at_s), np.asarray(sustained.network_ms)
    minutes = float(at[-1] - at[0]) / 60 if len(at) else 0.0
    if minutes < DRIFT_MINUTES:
        return Drift(verdict="too short to tell", minutes=minutes)
    medians = [float(np.median(times[part])) for part in _spans(at, DRIFT_BLOCKS) if len(part)]
    if len(medians) < DRIFT_BLOCKS_LEAST:
        return Drift(verdict="too short to tell", minutes=minutes)
    fifths = _spans(at, 5)
    change = float(np.median(times[fifths[-1]]) / np.median(times[fifths[0]]) - 1)
    p_value = float(kendalltau(range(len(medians)), medians).pvalue)
    p_value = p_value if np.isfinite(p_value) else 1.0  # all the same
    moved = p_value <= DRIFT_P and abs(change) > DRIFT_CHANGE
    verdict: Verdict = "steady" if not moved else "slower" if change > 0 else "faster"
    if cpus and sustained.others_cpus:
        others = np.asarray(sustained.others_cpus)
        ends = float(others[fifths[0]].mean()), float(others[fifths[-1]].mean())
        verdict = "undecided" if _spoilt(verdict, 1 + change, ends, threads, cpus) else verdict
    return Drift(verdict=verdict, minutes=minutes, change=change, p_value=p_value)


def _spoilt(verdict: Verdict, ratio: float, others: tuple[float, float], threads: int, cpus: int) -> bool:
    """Whether others, who kept `others` processors busy in the first and last fifth, may have made the verdict.

    As in `comparison`: a change counts beyond what they may have slowed one end by, and the same again for what else
    they share. And if they worked much more at one end than at the other, no change may be one that they hid.
    """
    begin, end = (conditions.slowed(busy, threads, cpus) for busy in others)
    beyond = 1 + conditions.SMALLEST_CHANGE_BUSY
    if max(others) <= conditions.BUSY_SHARE * cpus:
        return False
    if verdict == "slower":
        return ratio <= end * beyond
    if verdict == "faster":
        return ratio * begin * beyond >= 1
    return abs(others[1] - others[0]) > conditions.BUSY_SHARE * cpus


def _spans(at: NDArray[np.float64], count: int) -> list[NDArray[np.intp]]:
    """Indices of the moments in each of `count` equal spans of time."""
    place = np.minimum((at - at[0]) / (at[-1] - at[0]) * count, count - 1).astype(int)
    return [np.flatnonzero(place == span) for span in range(count)]
