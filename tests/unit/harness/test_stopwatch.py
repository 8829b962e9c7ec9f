"""Times are taken of the right runs, in the right order, and all of them are kept."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest

from d3d_edge.clip import ClipSpec
from d3d_edge.errors import DataError
from d3d_edge.harness import conditions, stopwatch
from d3d_edge.harness.stopwatch import Plan
from tests.unit.harness.test_accuracy import Fake

CLIP = np.zeros((1, 1, 1, 3), np.uint8)


class Noting(Fake):
    """Writes down what is done with it."""

    def __init__(self, name: str, log: list[str]) -> None:
        super().__init__(1)
        self.name, self.log = name, log

    def run(self, clip: np.ndarray) -> np.ndarray:
        self.log.append(self.name)
        return super().run(clip)

    def __enter__(self) -> Noting:
        self.log.append(f"open {self.name}")
        return self


@pytest.fixture(autouse=True)
def no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions, "PROBE_S", 0.0)


def take(plan: Plan, names: str = "ab") -> tuple[dict[str, Any], list[str]]:
    log: list[str] = []
    openers = {name: (lambda name=name: Noting(name, log)) for name in names}
    rounds: list[int] = []
    found = stopwatch.take(openers, dict.fromkeys(names, CLIP), plan, threads=2, on_round=lambda: rounds.append(1))
    assert len(rounds) == len(names) * found[names[0]].rounds
    return found, log


def test_rounds_take_turns_and_load_again() -> None:
    found, log = take(Plan(runs=6, rounds=2, warmup_runs=2))
    again = stopwatch.WARMUP_AGAIN
    first = [["open " + name] + [name] * (1 + 2 + 3) for name in "ab"]
    second = [["open " + name] + [name] * (again + 3) for name in "ab"]
    assert log == [word for words in first + second for word in words]
    for samples in found.values():
        assert (len(samples.network_ms), samples.rounds, len(samples.warmup_ms), samples.threads) == (6, 2, 2, 2)
        assert all(time > 0 for time in (samples.load_ms, samples.first_ms, *samples.network_ms))


@pytest.mark.parametrize(
    ("runs", "rounds", "timed", "used"),
    [(100, 10, 100, 10), (3, 10, 3, 3), (1, 1, 1, 1), (25, 10, 30, 10), (19, 10, 20, 10), (101, 7, 105, 7)],
)
def test_every_round_is_equal(runs: int, rounds: int, timed: int, used: int) -> None:
    found, _ = take(Plan(runs=runs, rounds=rounds, warmup_runs=0), "a")
    assert (len(found["a"].network_ms), found["a"].rounds) == (timed, used)


@pytest.mark.parametrize(("run_ms", "runs"), [(1.0, 10), (100.0, 6), (1e6, 1)])
def test_a_slow_model_is_timed_for_a_bounded_time(run_ms: float, runs: int) -> None:
    assert Plan(runs=50, rounds=5, budget_s=3.0).runs_a_round(run_ms) == runs
    assert Plan(runs=50, rounds=5).runs_a_round(run_ms) == 10


def test_a_model_can_be_kept_open() -> None:
    log: list[str] = []
    with ExitStack() as stack:
        opener = stopwatch.kept_open(lambda: Noting("a", log), stack)
        stopwatch.take({"a": opener}, {"a": CLIP}, Plan(runs=4, rounds=4, warmup_runs=0), threads=0)
    assert log.count("open a") == 1


def test_end_to_end_reads_the_video_each_time(tmp_path: Path, clip_data: dict[str, Any]) -> None:
    video = tmp_path / "a.mp4"
    writer = cv2.VideoWriter(str(video), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), 25, (64, 64))
    for value in range(0, 240, 20):
        writer.write(np.full((64, 64, 3), value, np.uint8))
    writer.release()
    spec = ClipSpec.model_validate(clip_data)
    seen: list[tuple[int, ...]] = []

    class Looking(Fake):
        def run(self, clip: np.ndarray) -> np.ndarray:
            seen.append(clip.shape)
            return super().run(clip)

    found = stopwatch.end_to_end(Looking(1), video, spec, runs=3)
    assert seen == [spec.shape] * 4
    assert found.video == "a.mp4"
    assert [len(times) for times in (found.decode_ms, found.resize_ms, found.network_ms)] == [3, 3, 3]
    assert all(time > 0 for time in (*found.decode_ms, *found.resize_ms, *found.network_ms))
    with pytest.raises(DataError, match="missing"):
        stopwatch.end_to_end(Looking(1), tmp_path / "missing.mp4", spec, runs=1)


def test_sustained_running_is_a_curve() -> None:
    moments: list[int] = []
    found = stopwatch.sustained(Fake(1), CLIP, 0.001, lambda: moments.append(1))
    assert len(found.at_s) == len(found.network_ms) == len(found.others_cpus) == len(moments) == 1
    assert 0.4 < found.at_s[0] < 0.8


class Times(NamedTuple):
    """Of all processors, in seconds."""

    user: float
    system: float
    idle: float
    steal: float = 0.0
    guest: float = 0.0


def test_others_are_those_outside_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    # Two blocks of ten seconds on two processors: this process works for 8 s of each, others for 3 s and 5 s.
    clock = iter([0.0, 10.0, 50.0, 60.0])
    own = iter([1.0, 9.0, 9.0, 17.0])
    total = iter([Times(5, 1, 4), Times(13, 3, 13, 1), Times(13, 90, 90, 1), Times(24, 91, 97, 2, guest=3)])
    monkeypatch.setattr(conditions.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(conditions.time, "process_time", lambda: next(own))
    monkeypatch.setattr(conditions.psutil, "cpu_times", lambda: next(total))
    watch = conditions.Watch()
    for _ in range(2):
        with watch:
            pass
    assert watch.conditions().others_cpus == pytest.approx(0.4)


def test_a_whole_run_is_parted_into_decoding_resizing_and_the_network(
    monkeypatch: pytest.MonkeyPatch, clip_data: dict[str, Any]
) -> None:
    clock = [0.0]

    def later(seconds: float) -> None:
        clock[0] += seconds

    def read_clip(video: Path, spec: ClipSpec, *, resize: Any) -> tuple[np.ndarray, int]:
        later(0.3)
        return np.stack([resize(np.zeros((40, 40, 3), np.uint8), spec) for _ in range(spec.frames)]), spec.frames

    def resize(frame: np.ndarray, spec: ClipSpec) -> np.ndarray:
        later(0.01)
        return frame

    class Slow(Fake):
        def run(self, clip: np.ndarray) -> np.ndarray:
            later(0.5)
            return super().run(clip)

    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(stopwatch, "read_clip", read_clip)
    monkeypatch.setattr(stopwatch, "resize_short_side", resize)
    spec = ClipSpec.model_validate(clip_data)
    found = stopwatch.end_to_end(Slow(1), Path("a.mp4"), spec, runs=2)
    assert found.decode_ms == pytest.approx((300, 300))
    assert found.resize_ms == pytest.approx((10 * spec.frames,) * 2)
    assert found.network_ms == pytest.approx((500, 500))
