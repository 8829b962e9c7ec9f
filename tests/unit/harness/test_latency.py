"""Latency is measured after warm-up, on the number of runs that is reported."""

from __future__ import annotations

import numpy as np
import pytest

from d3d_edge.harness import latency
from tests.unit.harness.test_accuracy import Fake

CLIP = np.zeros((1, 1, 1, 3), np.uint8)


class Counting(Fake):
    runs = 0

    def run(self, clip: np.ndarray) -> np.ndarray:
        self.runs += 1
        return super().run(clip)


@pytest.mark.parametrize("runs", [1, 20])
def test_runs_after_warm_up(runs: int) -> None:
    runner = Counting(1)
    measured = latency.measure(runner, CLIP, runs=runs, threads=2)
    figures = latency.figures(measured)
    assert figures.runs == runs
    assert figures.threads == 2
    assert runner.runs == runs + 1 + latency.WARMUP_RUNS
    assert 0 < figures.latency_ms_min <= figures.latency_ms_p50 <= figures.latency_ms_p90


def test_a_slow_model_is_timed_for_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "BUDGET_S", 0.0)
    assert len(latency.measure(Counting(1), CLIP, runs=1000).network_ms) == latency.MIN_RUNS
