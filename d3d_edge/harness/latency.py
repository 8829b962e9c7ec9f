"""Latency of a runner: warm-up, then a percentile over single clips. Network only, on a decoded clip."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from d3d_edge.report import Latency
from d3d_edge.runner import Runner

WARMUP_RUNS = 5
RUNS = 50
BUDGET_S = 3.0
"""Slow models are timed for this long instead of the full number of runs, but at least MIN_RUNS times."""
MIN_RUNS = 10


def measure(runner: Runner, clip: NDArray[np.uint8], *, runs: int = RUNS, threads: int = 0) -> Latency:
    """Time `runs` runs of one clip after warm-up. `threads` is what the runner was opened with, for the record."""
    for _ in range(min(WARMUP_RUNS, runs)):
        runner.run(clip)
    times_ms: list[float] = []
    began = time.perf_counter()
    while len(times_ms) < runs:
        if len(times_ms) >= MIN_RUNS and time.perf_counter() - began > BUDGET_S:
            break
        start = time.perf_counter()
        runner.run(clip)
        times_ms.append((time.perf_counter() - start) * 1e3)
    return Latency(
        runs=len(times_ms),
        threads=threads,
        latency_ms_p50=float(np.percentile(times_ms, 50)),
        latency_ms_p90=float(np.percentile(times_ms, 90)),
        latency_ms_mean=float(np.mean(times_ms)),
        latency_ms_min=float(np.min(times_ms)),
    )
