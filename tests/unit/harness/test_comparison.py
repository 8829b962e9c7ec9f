"""Two reports: what is the same stays within noise, what is not is found, and changes can have a bound."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from d3d_edge.harness import comparison, latency
from d3d_edge.harness.comparison import Change
from d3d_edge.report import Answers, Environment, Report, ReportClip, Row
from d3d_edge.runner import Where
from d3d_edge.timing import Conditions, Samples

LABELS = ("a", "b")


def samples(seed: int, p50_ms: float = 2.0, *, rounds: int = 10, runs: int = 100, wobble: float = 0.01) -> Samples:
    """Rounds that differ by `wobble`, with the slow tail that times have."""
    rng = np.random.default_rng(seed)
    level = p50_ms * np.exp(rng.normal(0, wobble, (rounds, 1)))
    times = level * (1 + rng.gamma(0.3, 0.05, (rounds, runs // rounds)))
    return Samples(load_ms=1, first_ms=1, network_ms=tuple(times.ravel().tolist()), rounds=rounds, threads=1)


def row(name: str = "android", taken: Samples | None = None, answers: list[int] | None = None, **more: Any) -> Row:
    values: dict[str, Any] = {"name": name, "role": "bundle", "precision": "int8", "where": Where.HOST_RUNTIME}
    if taken:
        values |= {"samples": taken, "latency": latency.figures(taken)}
    if answers is not None:
        right = sum(answer == 0 for answer in answers)
        values["answers"] = Answers(predicted=tuple(answers), probability=(1.0,) * len(answers))
        values |= {"clips": len(answers), "top1": right / len(answers)}
    return Row(**{**values, **more})


def report(*rows: Row, clips: int = 0, first: int = 0) -> Report:
    return Report(
        title="r",
        classes=2,
        labels=LABELS,
        clips=tuple(ReportClip(key=f"{index}.mp4", label=0) for index in range(first, first + clips)),
        environment=Environment(
            machine="m", processor="p", cpus=2, system="s", python="3", tools={}, started="2026-01-02T03:04:05Z"
        ),
        rows=rows,
    )


def one(before: Report, after: Report) -> Change:
    (change,) = comparison.compare(before, after).changes
    return change


def timed(before: Samples, after: Samples) -> Change:
    return one(report(row(taken=before)), report(row(taken=after)))


# A series without rounds cannot show how far two of them lie apart, if that is much.
@pytest.mark.parametrize(("rounds", "wobble"), [(10, 0.0), (10, 0.01), (10, 0.1), (1, 0.0), (1, 0.01)])
def test_the_same_is_within_noise(rounds: int, wobble: float) -> None:
    found = [
        timed(samples(seed, wobble=wobble, rounds=rounds), samples(seed + 500, wobble=wobble, rounds=rounds))
        for seed in range(40)
    ]
    assert sum(change.verdict != "within noise" for change in found) <= 2


@pytest.mark.parametrize(("after_ms", "verdict"), [(2.2, "slower"), (1.8, "faster"), (2.02, "within noise")])
def test_what_is_not_the_same_is_found(after_ms: float, verdict: str) -> None:
    change = timed(samples(0), samples(1, after_ms))
    assert change.verdict == verdict
    assert change.low is not None
    assert change.high is not None
    assert change.low < change.change < change.high
    assert change.change == pytest.approx(100 * (after_ms / 2 - 1), abs=2)


def test_a_change_is_that_of_the_two_figures_beside_it() -> None:
    """Half of the runs are slow ones: the middle of all runs lies anywhere between the two."""
    one, two = ([7.0] * 20 + [slow] * 19 for slow in (16.0, 10.0))
    rounds = [
        samples(0).model_copy(update={"network_ms": tuple(times), "rounds": 3}) for times in (one, two + [10.0] * 3)
    ]
    change = timed(*rounds)
    assert change.change == pytest.approx(100 * (change.after / change.before - 1))
    assert change.change < 0


def test_wide_rounds_hide_a_small_change() -> None:
    assert timed(samples(0, wobble=0.2), samples(1, 2.2, wobble=0.2)).verdict == "within noise"


@pytest.mark.parametrize(
    ("others", "factor", "verdict"),
    [
        (0.1, 1.1, "slower"),  # 1 / (2 - 0.1) of a processor: nothing is taken from one thread
        (1.5, 1.8, "within noise"),  # half a processor was left, so twice the time says nothing
        (1.5, 2.5, "slower"),
        (0.5, 1.1, "within noise"),  # a processor was free, but not the memory
        (0.5, 1.3, "slower"),
    ],
)
def test_what_others_may_have_done_is_no_change(others: float, factor: float, verdict: str) -> None:
    quiet, loud = Conditions(others_cpus=0.0), Conditions(others_cpus=others, cpus=2)
    busy = {"environment_before": quiet, "environment_after": loud}
    slow = samples(1, 2 * factor).model_copy(update=busy)
    assert timed(samples(0), slow).verdict == verdict
    assert timed(slow, samples(0)).verdict == {"slower": "faster"}.get(verdict, verdict)


def test_what_others_do_is_of_all_processors_not_of_those_left_to_a_container() -> None:
    """The report's environment has two, as of a container that may use two of 64."""
    busy = Conditions(others_cpus=10.0, cpus=64)
    slow = samples(1, 3.0).model_copy(update={"environment_after": busy})
    assert timed(samples(0), slow).verdict == "slower"


@pytest.mark.parametrize(
    ("before", "after", "note"),
    [
        ({"power_mode": "MAXN"}, {"power_mode": "15W"}, "power mode MAXN before, 15W after"),
        ({"governor": "performance"}, {}, "governor performance before, unknown after"),
        ({"thermal_status": "0"}, {"thermal_status": "4"}, "thermal status good before, 4 after"),
        ({"thermal_status": "nominal"}, {"thermal_status": "unknown"}, ""),
    ],
)
def test_what_a_machine_was_set_to_is_told(before: dict[str, str], after: dict[str, str], note: str) -> None:
    one, two = (
        samples(seed).model_copy(update={"environment_before": Conditions(**said)})
        for seed, said in enumerate((before, after))
    )
    assert timed(one, two).note == note


def test_too_few_runs_say_nothing() -> None:
    assert timed(samples(0, rounds=1, runs=5), samples(1, 9.0, rounds=1, runs=5)).verdict == "too few runs"


def test_times_without_any_spread() -> None:
    same = samples(0).model_copy(update={"network_ms": (2.0,) * 100})
    slower = samples(0).model_copy(update={"network_ms": (2.5,) * 100})
    assert timed(same, same).verdict == "within noise"
    assert timed(same, samples(0, 4.0)).verdict == timed(samples(0, 1.0), same).verdict == "slower"
    assert timed(same, slower).verdict == "slower"


@pytest.mark.parametrize(
    ("more", "note"),
    [
        ({"where": Where.DEVICE}, "same machine"),
        ({"runtime": "executorch 2"}, "executorch 2 after"),
        ({"taken": samples(1).model_copy(update={"threads": 4})}, "1 and 4 threads"),
        ({"taken": samples(1).model_copy(update={"environment_after": Conditions(others_cpus=2.0, cpus=2)})}, "busy"),
    ],
)
def test_what_else_differs_is_noted(more: dict[str, Any], note: str) -> None:
    assert note in one(report(row(taken=samples(0))), report(row(**{"taken": samples(1), **more}))).note


def test_a_device_is_the_same_whoever_asks_it() -> None:
    rows = [row(taken=samples(seed), where=Where.DEVICE, device="ssh:nano") for seed in (0, 1)]
    before, after = map(report, rows)
    laptop = after.environment.model_copy(update={"processor": "another"})
    assert not one(before, after.model_copy(update={"environment": laptop})).note
    other = report(rows[1].model_copy(update={"device": "ssh:orin"}))
    assert "same machine" in one(before, other).note


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        (("p", "AVX2"), ("p", "AVX2"), True),
        (("p", "AVX2"), ("q", "AVX2"), False),
        (("p", "AVX2"), ("p", "AVX-512 VNNI"), False),
        (("p",), ("p", "AVX2"), True),  # an older report, which does not say them
        (("p",), ("q", "AVX2"), False),
    ],
)
def test_processors_of_one_name_differ_by_their_instructions(
    before: tuple[str, ...], after: tuple[str, ...], same: bool
) -> None:
    made = []
    for seed, (processor, *instructions) in enumerate((before, after)):
        found = report(row(taken=samples(seed)))
        machine = found.environment.model_copy(update={"processor": processor, "instructions": tuple(instructions)})
        made.append(found.model_copy(update={"environment": machine}))
    assert ("same machine" in one(*made).note) is not same


@pytest.mark.parametrize(
    ("before", "after", "points", "verdict"),
    [
        ([0] * 100, [0] * 100, 0.0, "same"),
        ([0] * 99 + [1], [1] + [0] * 99, 0.0, "within noise"),
        ([0] * 100, [1] * 7 + [0] * 93, -7.0, "within noise"),
        ([0] * 100, [1] * 8 + [0] * 92, -8.0, "worse"),
        ([1] * 8 + [0] * 92, [0] * 100, 8.0, "better"),
    ],
)
def test_accuracy_clip_by_clip(before: list[int], after: list[int], points: float, verdict: str) -> None:
    change = one(report(row(answers=before), clips=100), report(row(answers=after), clips=100))
    assert (change.figure, change.verdict) == ("top1", verdict)
    assert change.change == pytest.approx(points)
    assert change.low is not None
    assert change.high is not None
    assert change.low <= change.change <= change.high


def test_only_clips_in_common_are_compared() -> None:
    before = report(row(answers=[1] * 10 + [0] * 90), clips=100)
    change = one(before, report(row(answers=[0] * 100), clips=100, first=10))
    assert (change.verdict, change.before, change.after) == ("same", 1.0, 1.0)
    assert change.note == "on the 90 clips in common"
    elsewhere = one(before, report(row(answers=[0] * 9), clips=9, first=500))
    assert (elsewhere.verdict, elsewhere.note) == ("not comparable", "no clip in common")
    of_others = report(row(answers=[0] * 9), clips=9).model_copy(update={"labels": ("a", "c")})
    assert one(report(row(answers=[0] * 9), clips=9, first=500), of_others).note.endswith("and other classes")


@pytest.mark.parametrize(
    ("after", "verdict", "past"),
    [
        (1_000_000, "same", False),
        (1_000_001, "larger", False),
        (1_050_000, "larger", False),  # by 5 % to the byte
        (1_060_000, "larger", True),
        (999_999, "smaller", False),
    ],
)
def test_a_bound_on_the_size(after: int, verdict: str, past: bool) -> None:
    change = one(report(row(size_bytes=1_000_000)), report(row(size_bytes=after)))
    assert (change.verdict, change.is_past(5.0)) == (verdict, past)


@pytest.mark.parametrize(("after_ms", "past"), [(2.4, True), (2.1, False), (1.0, False)])
def test_a_bound_on_the_time(after_ms: float, past: bool) -> None:
    assert timed(samples(0), samples(1, after_ms)).is_past(10.0) == past


@pytest.mark.parametrize(
    ("had", "after", "figure", "note"),
    [
        ({"taken": samples(0)}, row(note="not installed"), "latency_ms_p50", "not measured after: not installed"),
        ({"answers": [0, 1]}, row(), "top1", "not measured after"),
        ({"size_bytes": 9}, row(), "size_bytes", "not measured after"),
        ({"taken": samples(0)}, row(latency=latency.figures(samples(1))), "latency_ms_p50", "no single times"),
    ],
)
def test_a_figure_that_is_gone_is_not_comparable(had: dict[str, Any], after: Row, figure: str, note: str) -> None:
    change = one(report(row(**had), clips=len(had.get("answers", ()))), report(after))
    assert (change.figure, change.verdict, change.change, change.is_told) == (figure, "not comparable", None, False)
    assert note in change.note


def test_rows_are_matched_by_name() -> None:
    found = comparison.compare(
        report(row("a", size_bytes=1), row("b", size_bytes=1)), report(row("b", size_bytes=1), row("c", size_bytes=1))
    )
    assert [change.row for change in found.changes] == ["b"]
    assert (found.only_before, found.only_after) == (("a",), ("c",))
    alone = comparison.compare(report(row("old", size_bytes=1)), report(row("new", size_bytes=1)))
    assert [change.row for change in alone.changes] == ["new"]
    assert (alone.only_before, alone.only_after) == ((), ())
