"""Times several things in turns, so that whatever else the machine does falls on all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

from d3d_edge.harness import cores

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
    with cores.apart():
        for _ in range(repetitions):
            for name, run in runs.items():
                if twice:
                    run()
                began = time.perf_counter()
                run()
                times[name].append(1e3 * (time.perf_counter() - began))
    return times
