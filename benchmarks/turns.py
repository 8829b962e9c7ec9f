"""Times several things in turns, so that whatever else the machine does falls on all of them alike."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

WARM_UP = 3
Name = TypeVar("Name", bound=Hashable)


def take_turns(
    runs: Mapping[Name, Callable[[], Any]], repetitions: int, *, twice: bool = False
) -> dict[Name, list[float]]:
    """Milliseconds of each, by name, one after the other within each repetition.

    `twice`: each runs twice at its turn, and the second run counts, which finds its own data in the caches.
    """
    times: dict[Name, list[float]] = {name: [] for name in runs}
    for _ in range(WARM_UP):
        for run in runs.values():
            run()
    with threads_apart():
        for _ in range(repetitions):
            for name, run in runs.items():
                if twice:
                    run()
                began = time.perf_counter()
                run()
                times[name].append(1e3 * (time.perf_counter() - began))
    return times


@contextmanager
def threads_apart() -> Iterator[None]:
    """Within, this thread has a core that none of the process's other threads may use, if there are two.

    Linux at times leaves both threads of a pool on one core, for a second and longer: then all takes as long as on one.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2:
        yield
        return
    try:
        _keep_on(cores[:1], cores[1:])
        yield
    finally:
        _keep_on(cores, cores)


def _keep_on(own: list[int], others: list[int]) -> None:
    this = threading.get_native_id()
    for thread in map(int, os.listdir("/proc/self/task")):
        with suppress(ProcessLookupError):  # It has ended meanwhile.
            os.sched_setaffinity(thread, own if thread == this else others)
