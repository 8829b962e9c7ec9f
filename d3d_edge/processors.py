"""How many processors this process may use: a container may see all of a machine's and be given the time of a few."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
_LIMITS = (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
"""Files of version 2 and 1 of control groups that hold a quota and a period, in microseconds."""
_NONE = ("max", "-1")
"""Quotas of version 2 and 1 that are no limit."""


def cpus() -> int:
    """Processors this process may use."""
    return max(1, math.ceil(min(visible(), limit())))


def visible() -> int:
    """Processors this process may run on, however little of their time it may take."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def limit(root: Path = _CGROUPS, membership: Path = _MEMBERSHIP) -> float:
    """Processors whose time the control groups of this process are given (`docker run --cpus`); inf where all is.

    `root` is where Linux shows control groups, `membership` the file that says which are this process's: cgroups(7).
    """
    found = [math.inf]
    for folder in _groups(root, membership):
        for names in _LIMITS:
            with suppress(OSError, ValueError):
                quota, period = " ".join((folder / name).read_text() for name in names).split()
                if quota not in _NONE:
                    found.append(float(quota) / float(period))
    return min(found)


def _groups(root: Path, membership: Path) -> Iterator[Path]:
    """The folders of the groups of this process and of all that these are in; a container may see its own as `root`."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        own = PurePosixPath(path.lstrip("/"))
        for above in (own, *own.parents):
            yield root / controllers / above
