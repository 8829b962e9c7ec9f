"""How much memory a bundle's model takes, found in a process of its own: timing nothing, and disturbed by nothing."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from numpy.typing import NDArray

from d3d_edge import runtimes, workers
from d3d_edge.bundle import Bundle
from d3d_edge.errors import BundleError, StorageError
from d3d_edge.pipeline.golden import golden_of
from d3d_edge.runner import Runner

RUNS = 3
"""The second run of some runtimes still allocates."""


def check() -> None:
    """Raises StorageError where no process can be started to measure in."""
    with workers.apart(died=StorageError("the process that measures memory was killed")):
        pass


def peak_bytes(bundle: Path, threads: int) -> int:
    """Most resident memory that loading and running `bundle` adds to a process in which its runtime was loaded before.

    The runtime's own code and tables are not counted: the model is loaded once before, and what that leaves is
    given back to the system.

    Raises:
        BundleError: the process was killed.
        StorageError: it cannot be started.
    """
    died = BundleError(f"{bundle}: the process that measures its memory was killed", hint="the machine may lack memory")
    with workers.apart(died=died) as call:
        return int(call(_peak_bytes, bundle, threads))


def _peak_bytes(path: Path, threads: int) -> int:
    bundle = Bundle.open(path)
    runtime = runtimes.get(bundle.manifest.runtime)
    return added_bytes(partial(runtime.open, bundle, threads=threads), golden_of(bundle).clips[0])


def added_bytes(load: Callable[[], Runner], clip: NDArray[Any]) -> int:
    """Most resident memory that a model takes in this process, which has to be young, and is not after it.

    `load` opens the model. It is called twice.
    """
    with load():
        pass
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # only glibc keeps what was freed, and only it has this
    before = psutil.Process().memory_info().rss
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak from here on: proc_pid_clear_refs(5)
    with load() as runner:
        for _ in range(RUNS):
            runner.run(clip)
    return max(0, _highest_bytes() - before)


def _highest_bytes() -> int:
    """Peak of the resident memory of this process."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
