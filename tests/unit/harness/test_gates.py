"""Gates: what is exact passes or fails; what is estimated from clips may also need more of them to tell."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import xlogy

from d3d_edge.harness import gates
from d3d_edge.recipe import GateSpec
from d3d_edge.report import Gate, Paired, Row
from d3d_edge.runner import Where

BOUNDS = GateSpec(top1_drop_points_max=2.0, agreement_min=0.97, size_bytes_max=1000)
DROP, AGREE, SIZE = "top1_drop_points_max", "agreement_min", "size_bytes_max"


def row(lost: int | None = None, gained: int = 0, clips: int = 1000, **values: Any) -> Row:
    base: dict[str, Any] = {"name": "android", "role": "bundle", "precision": "int8", "where": Where.HOST_RUNTIME}
    if lost is not None:
        points = 100 * (gained - lost) / clips
        base["paired"] = Paired(
            gained=gained,
            lost=lost,
            difference_points=points,
            difference_points_low=points,
            difference_points_high=points,
            mcnemar_p=1.0,
            flipped=(),
        )
    return Row(**{**base, "clips": clips, **values})


def gate(name: str, of: Row, **bounds: Any) -> Gate:
    found = {gate.name: gate for gate in gates.judge(BOUNDS.model_copy(update=bounds), [of])}
    assert list(found) == [DROP, AGREE, SIZE]
    return found[name]


@pytest.mark.parametrize(
    ("lost", "gained", "clips", "verdict"),
    [
        (0, 0, 140, "pass"),  # nothing changed: 2.706 / (140 + 2.706) is 1.9 points
        (0, 0, 132, "undecided"),
        (5, 4, 1000, "pass"),
        (20, 5, 1000, "undecided"),
        (60, 5, 1000, "fail"),
        (3, 0, 49, "undecided"),  # 6 points, and yet one clip more or less is 2
        (8, 0, 49, "fail"),
    ],
)
def test_the_accuracy_lost(lost: int, gained: int, clips: int, verdict: str) -> None:
    found = gate(DROP, row(lost, gained, clips))
    assert found.verdict == verdict
    assert found.clips == clips
    assert found.value == pytest.approx(100 * (lost - gained) / clips)
    assert (found.clips_needed is None) == (verdict != "undecided")


@pytest.mark.parametrize(
    ("agreeing", "clips", "verdict"),
    [(140, 140, "pass"), (139, 140, "undecided"), (49, 49, "undecided"), (40, 49, "fail"), (990, 1000, "pass")],
)
def test_agreement(agreeing: int, clips: int, verdict: str) -> None:
    found = gate(AGREE, row(agreement=agreeing / clips, clips=clips))
    assert (found.verdict, found.clips) == (verdict, clips)


@pytest.mark.parametrize(("size_bytes", "verdict"), [(1000, "pass"), (1001, "fail")])
def test_a_size_is_exact(size_bytes: int, verdict: str) -> None:
    found = gate(SIZE, row(size_bytes=size_bytes))
    assert (found.verdict, found.low, found.clips) == (verdict, None, None)


@pytest.mark.parametrize("lost", [0, 1, 3, 10, 40])
@pytest.mark.parametrize("gained", [0, 2, 10])
@pytest.mark.parametrize("clips", [49, 140, 1000])
def test_the_verdict_is_that_of_the_interval(lost: int, gained: int, clips: int) -> None:
    found = gate(DROP, row(lost, gained, clips))
    assert found.low is not None
    assert found.high is not None
    assert found.value is not None
    assert found.low <= found.value <= found.high
    inside = {"pass": found.high <= 2.0, "fail": found.low >= 2.0, "undecided": found.low < 2.0 < found.high}
    assert inside[found.verdict]


@pytest.mark.parametrize(("lost", "gained", "clips"), [(0, 0, 49), (1, 0, 49), (4, 4, 100), (45, 20, 1000)])
def test_as_many_clips_as_are_needed_do_tell(lost: int, gained: int, clips: int) -> None:
    needed = gate(DROP, row(lost, gained, clips)).clips_needed
    assert needed is not None
    # Many times as many, since only whole clips can be counted.
    times = math.ceil(10 * needed / clips)
    assert gate(DROP, row(lost * times, gained * times, clips * times)).verdict in ("pass", "fail")


def test_on_the_bound_no_number_of_clips_tells() -> None:
    assert gate(DROP, row(2, 0, 100)).clips_needed is None


@pytest.mark.parametrize("clips", [10, 140])
def test_without_a_difference_the_interval_is_the_known_one(clips: int) -> None:
    found = gate(DROP, row(0, 0, clips))
    end = 100 * gates._Z**2 / (clips + gates._Z**2)
    assert (found.low, found.high) == pytest.approx((-end, end))


def test_a_network_on_the_bound_passes_in_one_case_of_twenty() -> None:
    # One that loses exactly the bound, 2 points, whatever it gains besides, on 4000 sets of 400 clips.
    rng = np.random.default_rng(1)
    for gained in (0.0, 0.03):
        shares = [0.02 + gained, gained, 1 - 0.02 - 2 * gained]
        drawn = rng.multinomial(400, shares, size=4000)
        passed = np.mean([gates.tango(int(lost), int(won), 400, 0.02) <= -gates._Z for lost, won, _ in drawn])
        assert 0.01 < passed < 0.065


@pytest.mark.parametrize(
    ("bounds", "verdict", "value"),
    [({DROP: 100.0}, "pass", 40.0), ({AGREE: 0.0}, "pass", 0.9), ({AGREE: 1.0}, "fail", 0.9)],
    ids=["any loss", "any agreement", "every clip"],
)
def test_bounds_at_the_edge_are_held_by_the_clips_themselves(
    bounds: dict[str, float], verdict: str, value: float
) -> None:
    found = gate(next(iter(bounds)), row(5, 1, 10, agreement=0.9), **bounds)
    assert (found.verdict, found.value, found.low) == (verdict, value, None)


def test_what_was_not_run_is_not_measured() -> None:
    nothing = row(where=Where.NOT_RUN, clips=0)
    assert {gate.verdict for gate in gates.judge(BOUNDS, [nothing])} == {"not measured"}


def test_without_the_float_student_a_drop_is_not_measured() -> None:
    assert gate(DROP, row(top1=0.9, agreement=1.0, size_bytes=1)).verdict == "not measured"


@pytest.mark.parametrize("role", ["float", "quantized"])
def test_references_are_not_judged(role: str) -> None:
    assert not gates.judge(BOUNDS, [row(50, agreement=0.1, size_bytes=9999, role=role)])


def test_a_bundle_of_another_precision_is_judged_but_for_its_size() -> None:
    found = gates.judge(BOUNDS, [row(50, agreement=0.1, size_bytes=9999, precision="float16")])
    assert [(gate.name, gate.verdict) for gate in found] == [(DROP, "fail"), (AGREE, "fail")]


@pytest.mark.parametrize("difference", [-0.3, -0.02, 0.001, 0.02, 0.3])
@pytest.mark.parametrize(("lost", "gained", "clips"), [(0, 0, 1), (1, 0, 1), (0, 0, 140), (7, 2, 49), (30, 41, 500)])
def test_the_statistic_is_that_of_the_likeliest_shares(lost: int, gained: int, clips: int, difference: float) -> None:
    def unlikely(share: float) -> float:
        # Of the clips lost, gained, and neither, if the share gained is this one and the true difference that one.
        shares = np.array([share + difference, share, 1 - 2 * share - difference])
        return -float(xlogy([lost, gained, clips - lost - gained], np.maximum(shares, 1e-300)).sum())

    ends = (max(0.0, -difference), (1 - difference) / 2)
    share = minimize_scalar(unlikely, bounds=ends, method="bounded", options={"xatol": 1e-12}).x
    spread = math.sqrt(clips * (2 * share + difference - difference**2))
    found = gates.tango(lost, gained, clips, difference)
    assert found == pytest.approx((lost - gained - clips * difference) / spread, rel=1e-3)


@pytest.mark.parametrize("difference", [-0.999, -0.3, 0.0, 0.3, 0.999])
@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (3, 3), (10, 0), (0, 10), (5, 5)])
def test_the_statistic_is_a_number_everywhere(lost: int, gained: int, difference: float) -> None:
    assert not math.isnan(gates.tango(lost, gained, 10, difference))
