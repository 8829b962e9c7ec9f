"""Takes times on this machine: loads models, runs them on one clip, one run at a time. Draws no conclusions."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d3d_edge.clip import ClipSpec
from d3d_edge.harness import conditions, cores
from d3d_edge.runner import Runner
from d3d_edge.timing import Conditions, EndToEnd, Samples, Sustained
from d3d_edge.video.decode import Frame
from d3d_edge.video.preprocess import centre_crop, read_clip, resize_short_side

Opener = Callable[[], AbstractContextManager[Runner]]
Clip = NDArray[np.uint8]


@dataclass(frozen=True)
class Plan:
    """How much is timed."""

    runs: int = 100
    """Of the network, in all rounds together."""
    rounds: int = 10
    """Parts of the runs, of all models in turn, so that what a machine does for a while does not hit one model alone.
    At most `runs`, and as long as each other: where `runs` is no multiple of them, more are made."""
    warmup_runs: int = 10
    """Before the first round. Later rounds have WARMUP_AGAIN."""
    budget_s: float | None = None
    """Where the runs of a model would take longer, by its warm-up, fewer are made, but at least a run a round."""

    @property
    def rounds_made(self) -> int:
        """`rounds`, or fewer where there are fewer runs."""
        return min(self.rounds, self.runs)

    def runs_a_round(self, run_ms: float) -> int:
        """Runs of each round for a model that takes `run_ms` a run."""
        rounds = self.rounds_made
        runs = -(-self.runs // rounds)
        if self.budget_s is not None:
            runs = min(runs, int(1e3 * self.budget_s / max(run_ms, 1e-6)) // rounds)
        return max(1, runs)


WARMUP_AGAIN = 3
"""Runs that are not counted at the beginning of a round."""


@dataclass
class _Taken:
    """What was timed of one model so far."""

    load_ms: float = 0.0
    first_ms: float = 0.0
    warmup_ms: list[float] = field(default_factory=list)
    network_ms: list[float] = field(default_factory=list)
    before: Conditions = field(default_factory=Conditions)
    watch: conditions.Watch = field(default_factory=conditions.Watch)


def take(
    models: Mapping[str, Opener],
    clips: Mapping[str, Clip],
    plan: Plan,
    *,
    threads: int,
    on_round: Callable[[], None] = lambda: None,
) -> dict[str, Samples]:
    """Times of each model on its clip, by name. `threads` is what they are opened with, for the record.

    Each model is loaded (its libraries must be loaded already), run once, warmed up, and then timed in rounds, all
    models in turn; before each round it is opened anew, by its opener. `on_round` is called after each.
    """
    taken = {name: _Taken() for name in models}
    for number in range(plan.rounds_made):
        for name, opener in models.items():
            _round(taken[name], opener, clips[name], plan, first=number == 0)
            on_round()
    return {
        name: Samples(
            load_ms=one.load_ms,
            first_ms=one.first_ms,
            warmup_ms=tuple(one.warmup_ms),
            network_ms=tuple(one.network_ms),
            rounds=plan.rounds_made,
            threads=threads,
            environment_before=one.before,
            environment_after=one.watch.conditions(),
        )
        for name, one in taken.items()
    }


def kept_open(opener: Opener, stack: ExitStack) -> Opener:
    """`opener` that opens only once, until `stack` ends: for models that take long to load."""
    opened: list[Runner] = []

    def again() -> AbstractContextManager[Runner]:
        if not opened:
            opened.append(stack.enter_context(opener()))
        return nullcontext(opened[0])

    return again


def _round(taken: _Taken, opener: Opener, clip: Clip, plan: Plan, *, first: bool) -> None:
    if first:
        taken.before = conditions.now(conditions.PROBE_S)
    with taken.watch:
        began = time.perf_counter()
        with opener() as runner:
            load_ms = 1e3 * (time.perf_counter() - began)
            if first:
                taken.load_ms, taken.first_ms = load_ms, run_ms(runner, clip)
                taken.warmup_ms = [run_ms(runner, clip) for _ in range(plan.warmup_runs)]
            else:
                for _ in range(WARMUP_AGAIN):
                    runner.run(clip)
            usual_ms = float(np.median(taken.warmup_ms or [taken.first_ms]))
            with cores.apart():
                taken.network_ms += [run_ms(runner, clip) for _ in range(plan.runs_a_round(usual_ms))]


def run_ms(runner: Runner, clip: NDArray[Any]) -> float:
    """Milliseconds of one run."""
    start = time.perf_counter()
    runner.run(clip)
    return (time.perf_counter() - start) * 1e3


def end_to_end(runner: Runner, video: Path, spec: ClipSpec, runs: int) -> EndToEnd:
    """Times from the video file to the logits, after one such run that is not counted.

    Raises:
        DataError: the video cannot be read, or is too short.
    """
    times = [_whole_run(runner, video, spec) for _ in range(runs + 1)][1:]
    decode_ms, resize_ms, network_ms = zip(*times, strict=True)
    return EndToEnd(video=video.name, decode_ms=decode_ms, resize_ms=resize_ms, network_ms=network_ms)


def _whole_run(runner: Runner, video: Path, spec: ClipSpec) -> tuple[float, float, float]:
    resizing = 0.0

    def resize(frame: Frame, spec: ClipSpec) -> Frame:
        nonlocal resizing
        start = time.perf_counter()
        resized = resize_short_side(frame, spec)
        resizing += time.perf_counter() - start
        return resized

    began = time.perf_counter()
    frames, _ = read_clip(video, spec, resize=resize)
    read = time.perf_counter()
    clip = np.ascontiguousarray(centre_crop(frames, spec))
    cropped = time.perf_counter()
    runner.run(clip)
    ended = time.perf_counter()
    return 1e3 * (read - began - resizing), 1e3 * (resizing + cropped - read), 1e3 * (ended - cropped)


def sustained(runner: Runner, clip: Clip, minutes: float, on_moment: Callable[[], None] = lambda: None) -> Sustained:
    """Times while the network runs without a pause for `minutes`: the median of each second, or a run longer than that.

    Clocks, temperatures and others' work are read between the seconds, which takes about a millisecond. `on_moment` is
    called after each.
    """
    at_s: list[float] = []
    medians: list[float] = []
    states: list[Conditions] = []
    runner.run(clip)  # what starts threads
    began = time.perf_counter()
    while (passed := time.perf_counter() - began) < 60 * minutes:
        with cores.apart(), conditions.Watch() as watch:
            times = [run_ms(runner, clip)]
            while time.perf_counter() - began < passed + 1.0:
                times.append(run_ms(runner, clip))
        at_s.append(round((passed + time.perf_counter() - began) / 2, 3))
        medians.append(float(np.median(times)))
        states.append(watch.conditions())
        on_moment()
    return Sustained(
        at_s=tuple(at_s),
        network_ms=tuple(medians),
        clock_mhz=_known([np.mean(one.clock_mhz) if one.clock_mhz else None for one in states]),
        temperature_c=_known([max(one.temperature_c.values(), default=None) for one in states]),
        others_cpus=_known([one.others_cpus for one in states]),
    )


def _known(values: Sequence[float | np.floating[Any] | None]) -> tuple[float, ...]:
    """All of them, or nothing where one is not known."""
    found = [round(float(value), 2) for value in values if value is not None]
    return tuple(found) if len(found) == len(values) else ()
