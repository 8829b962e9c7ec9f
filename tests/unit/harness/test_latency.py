"""The figures that times give; the samples here are made up."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from d3d_edge.harness import conditions, latency
from d3d_edge.timing import Conditions, EndToEnd, Samples, Sustained


def samples(times_ms: list[float], **more: object) -> Samples:
    return Samples.model_validate({"load_ms": 9.0, "first_ms": 5.0, "network_ms": times_ms, "threads": 2, **more})


@given(st.lists(st.floats(0.01, 1e5), min_size=1, max_size=300))
def test_percentiles_rise_and_lie_among_the_times(times_ms: list[float]) -> None:
    found = latency.figures(samples(times_ms))
    known = [found.latency_ms_min, found.latency_ms_p50, found.latency_ms_p90]
    known += [value for value in (found.latency_ms_p95, found.latency_ms_p99) if value is not None]
    assert known == sorted(known)
    assert min(times_ms) == found.latency_ms_min
    assert known[-1] <= max(times_ms) * (1 + 1e-12)
    assert found.runs == len(times_ms)


@pytest.mark.parametrize(
    ("runs", "p95", "p99"), [(19, False, False), (20, True, False), (99, True, False), (100, True, True)]
)
def test_a_percentile_needs_runs_beyond_it(runs: int, p95: bool, p99: bool) -> None:
    found = latency.figures(samples([1.0] * runs))
    assert (found.latency_ms_p95 is not None, found.latency_ms_p99 is not None) == (p95, p99)


def test_figures_by_hand() -> None:
    found = latency.figures(samples([1.0, 2.0, 3.0, 4.0, 10.0], memory_peak_bytes=7))
    assert (found.latency_ms_p50, found.latency_ms_mean, found.latency_ms_min) == (3.0, 4.0, 1.0)
    assert found.latency_ms_p90 == pytest.approx(7.6)
    assert found.latency_ms_std == pytest.approx(12.5**0.5)
    assert (found.load_ms, found.first_ms, found.threads, found.memory_peak_bytes) == (9.0, 5.0, 2, 7)


def test_end_to_end_is_the_sum_of_its_parts_run_by_run() -> None:
    whole = EndToEnd(video="a.mp4", decode_ms=(1, 5, 3), resize_ms=(1, 1, 1), network_ms=(9, 1, 2))
    found = latency.figures(samples([1.0], end_to_end=whole))
    assert found.end_to_end is not None
    assert found.end_to_end.latency_ms_p50 == 7.0  # of 11, 7 and 6
    assert (found.decode_ms_p50, found.resize_ms_p50) == (3.0, 1.0)


@pytest.mark.parametrize(
    ("before", "after", "cpus", "marked"),
    [
        (0.0, 0.0, 2, False),
        (0.3, 0.0, 2, True),
        (0.0, 0.3, 2, True),
        (0.3, 0.3, 8, False),
        (None, None, 2, False),
        (1.5, 1.5, None, False),
    ],
)
def test_times_of_a_busy_machine_are_marked(
    before: float | None, after: float | None, cpus: int | None, marked: bool
) -> None:
    after_it = Conditions(others_cpus=after, cpus=cpus)
    sides = {"environment_before": Conditions(others_cpus=before), "environment_after": after_it}
    assert bool(latency.figures(samples([1.0], **sides)).busy) == marked


def curve(times_ms: np.ndarray, seconds: float) -> Sustained:
    at_s = np.linspace(0, seconds, len(times_ms))
    return Sustained(at_s=tuple(at_s.tolist()), network_ms=tuple(times_ms.tolist()))


MINUTES = np.linspace(0, 1, 300)
NOISE = np.random.default_rng(3).normal(0, 0.3, 300)


@pytest.mark.parametrize(
    ("times_ms", "verdict"),
    [
        (10 + NOISE, "steady"),
        (10 + 0.2 * MINUTES + NOISE, "steady"),  # it does rise, but by 2 %
        (10 + 2 * MINUTES + NOISE, "slower"),
        (10 + 3 * (MINUTES > 0.7) + NOISE, "slower"),  # all at once, as a phone that throttles
        (10 - 2 * MINUTES + NOISE, "faster"),
        (10 + 4 * (abs(MINUTES - 0.5) < 0.05) + NOISE, "steady"),  # something else ran for a while
        (np.full(300, 10.0), "steady"),
    ],
    ids=["level", "a little", "rising", "a step", "falling", "a bump", "exactly level"],
)
def test_drift(times_ms: np.ndarray, verdict: str) -> None:
    assert latency.drift(curve(times_ms, 600)).verdict == verdict


RISES = 10 + 2 * MINUTES + NOISE
"""By a fifth, or 16 % from the median of the first fifth to that of the last."""


@pytest.mark.parametrize(
    ("times_ms", "others", "threads", "verdict"),
    [
        (RISES, 0 * MINUTES, 2, "slower"),
        (RISES, 0.15 + 0 * MINUTES, 2, "slower"),  # an idle system does as much
        (RISES, 0.4 * MINUTES, 2, "undecided"),  # 2 threads on 1.6 processors take 1.25 times as long
        (RISES, 0.4 * MINUTES, 1, "slower"),  # a processor was free all the time, and 16 % is beyond the rest
        (10 + 1.5 * MINUTES + NOISE, 0.4 * MINUTES, 1, "undecided"),
        (RISES, 1.0 * (MINUTES < 0.5), 2, "slower"),  # it should have become faster
        (20 - 9 * MINUTES + NOISE, 1.0 - MINUTES, 2, "undecided"),
        (20 - 9 * MINUTES + NOISE, 0 * MINUTES, 2, "faster"),
        (10 + NOISE, 1.0 - MINUTES, 2, "undecided"),  # it should have become faster, and did not
        (10 + NOISE, 0.5 + 0 * MINUTES, 2, "steady"),  # as busy all the time
        (10 + 9 * MINUTES + NOISE, 0.4 * MINUTES, 2, "slower"),  # more than that explains
        (RISES, 1.0 * (abs(MINUTES - 0.5) < 0.2), 2, "slower"),  # in the middle alone
    ],
)
def test_what_others_may_have_done_is_no_drift(
    times_ms: np.ndarray, others: np.ndarray, threads: int, verdict: str
) -> None:
    sustained = curve(times_ms, 600).model_copy(update={"others_cpus": tuple(others.tolist())})
    of_two = {"threads": threads, "environment_after": Conditions(cpus=2)}
    taken = samples([10.0], sustained=sustained.model_dump()).model_copy(update=of_two)
    found = latency.figures(taken).drift
    assert found is not None
    assert found.verdict == verdict
    # Of a machine whose processors are not known, nothing can be allowed for.
    assert latency.drift(sustained) == latency.drift(curve(times_ms, 600))


@pytest.mark.parametrize(("count", "seconds"), [(300, 30), (5, 600), (1, 0), (0, 0)])
def test_a_short_curve_says_nothing(count: int, seconds: float) -> None:
    assert latency.drift(curve(10 + 5 * np.linspace(0, 1, count), seconds)).verdict == "too short to tell"


def test_a_minute_is_enough_though_its_first_and_last_moments_are_less_apart() -> None:
    assert latency.drift(curve(np.full(59, 10.0), 58)).verdict == "steady"


def test_noise_alone_seldom_drifts() -> None:
    rng = np.random.default_rng(0)
    # Wide noise, so that the change between the ends often passes the bound: the test of the trend has to hold it.
    found = [latency.drift(curve(10 * np.exp(rng.normal(0, 0.6, 200)), 300)).verdict for _ in range(100)]
    assert sum(verdict != "steady" for verdict in found) <= 4


@pytest.mark.parametrize(
    "wrong",
    [
        {"network_ms": ()},
        {"network_ms": (1.0, 2.0, 3.0), "rounds": 2},
        {"end_to_end": {"video": "a", "decode_ms": [1.0], "resize_ms": [], "network_ms": [1.0]}},
        {"sustained": {"at_s": [1.0], "network_ms": []}},
        {"sustained": {"at_s": [1.0, 2.0], "network_ms": [1.0, 2.0], "clock_mhz": [1000.0]}},
        {"sustained": {"at_s": [1.0, 2.0], "network_ms": [1.0, 2.0], "others_cpus": [1.0]}},
        {"load_ms": float("nan")},
        {"threads": -1},
    ],
)
def test_samples_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        samples([1.0], **wrong)


def test_this_machine_says_what_it_knows() -> None:
    found = conditions.now(0.01)
    assert found.time.endswith("+00:00")
    assert found.others_cpus is not None
    assert found.others_cpus >= 0
    assert found.memory_available_bytes


@pytest.mark.parametrize(("rise", "verdict"), [(0.4, "steady"), (0.8, "slower")])
def test_a_drift_of_a_twentieth_is_one(rise: float, verdict: str) -> None:
    # From the median of the first fifth to that of the last it is 0.8 of the rise: 3.2 % and 6.4 %.
    assert latency.drift(curve(10 + rise * MINUTES + 0.1 * NOISE, 600)).verdict == verdict


def test_what_the_system_tells_of_this_machine_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place, text in (
        ("devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave\n"),
        ("firmware/acpi/platform_profile", "quiet\n"),
    ):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).write_text(text)
    monkeypatch.setattr(conditions, "_SYSTEM", tmp_path)
    for plugged in (True, False):
        battery = SimpleNamespace(power_plugged=plugged)
        monkeypatch.setattr(conditions.psutil, "sensors_battery", lambda battery=battery: battery, raising=False)
        found = conditions.state()
        assert (found.governor, found.power_mode, found.charging) == ("powersave", "quiet", plugged)


@pytest.mark.parametrize(
    ("others", "threads", "times"), [(0.0, 0, 1.0), (2.0, 0, 2.0), (2.0, 1, 1.0), (3.0, 2, 2.0), (4.0, 4, 20.0)]
)
def test_threads_share_what_others_leave(others: float, threads: int, times: float) -> None:
    assert conditions.slowed(others, threads, 4) == pytest.approx(times)
