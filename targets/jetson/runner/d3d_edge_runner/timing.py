"""Raw times of one clip, run after run. Statistics are the host's, so that they are the same for every device."""

from __future__ import annotations

import re
import time
from argparse import Namespace
from pathlib import Path
from typing import Any, Callable


def measure(model: Any, clip: Any, job: Namespace, load_ms: float, on_second: Callable[[], None]) -> dict[str, Any]:
    """What the protocol calls samples: of the first run, the warm-up, the timed runs, and the sustained ones.

    `on_second` is called about once a second, between two runs.
    """
    said = time.perf_counter()

    def timed() -> float:
        nonlocal said
        began = time.perf_counter()
        model.run(clip)
        ended = time.perf_counter()
        if ended - said > 1:
            on_second()
            said = time.perf_counter()
        return (ended - began) * 1e3

    samples: dict[str, Any] = {"load_ms": load_ms, "first_ms": timed(), "sustained": None}
    samples["warmup_ms"] = [timed() for _ in range(job.warmup)]
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < job.runs:
        if len(times) >= job.min_runs and time.perf_counter() - began > job.budget_s:
            break
        times.append(timed())
    samples["network_ms"] = times
    if job.sustained_s:
        sustained: dict[str, list[float]] = {"at_s": [], "network_ms": []}
        began = time.perf_counter()
        while time.perf_counter() - began < job.sustained_s:
            sustained["at_s"].append(time.perf_counter() - began)
            sustained["network_ms"].append(timed())
        samples["sustained"] = sustained
    return samples


def memory_peak_from_now() -> int | None:
    """What this process has resident, which `memory_peak_bytes` counts from: what was before is forgotten.

    None where Linux does not let it: with what an engine took to be built, it is no figure of a model.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")  # proc_pid_clear_refs(5)
    except OSError:
        return None
    return memory_peak_bytes()


def memory_peak_bytes() -> int | None:
    """The most memory that this process had resident. Linux says; not getrusage, which counts the parent."""
    try:
        found = re.search(r"^VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return 1024 * int(found.group(1)) if found else None
