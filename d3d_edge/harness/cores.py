"""Which processor cores the threads of this process may use while times are taken. Takes no times."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_THREADS = Path("/proc/self/task")
_PROCESSOR = 36
"""proc(5): "processor" is field 39 of /proc/.../stat; the third is the first after the name in parentheses."""


@contextmanager
def apart() -> Iterator[None]:
    """Within, this thread stays on the core where it is, and the process's other threads keep off it, if there are two.

    Linux at times leaves both threads of a pool on one core, for a second or half a minute: then all takes as long as
    on one thread. Threads that are made within run where this one does, so warm up before. Does nothing but on Linux.
    """
    cores: set[int] = set(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") and _THREADS.is_dir() else set()
    if len(cores) < 2:
        yield
        return
    own, before = _core(), dict[int, set[int]]()
    this = threading.get_native_id()
    try:
        for thread in map(int, os.listdir(_THREADS)):
            with suppress(OSError):  # It has ended meanwhile, or nothing may be moved here.
                before[thread] = set(os.sched_getaffinity(thread))
                os.sched_setaffinity(thread, {own} if thread == this else before[thread] - {own} or before[thread])
        yield
    finally:
        for thread, allowed in before.items():
            with suppress(OSError):
                os.sched_setaffinity(thread, allowed)


def _core() -> int:
    """Where this thread runs."""
    fields = Path("/proc/thread-self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    return int(fields[_PROCESSOR])
