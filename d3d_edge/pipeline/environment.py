"""The machine and tools behind a figure."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from d3d_edge import __version__, runtimes
from d3d_edge.processors import cpus
from d3d_edge.report import Environment

_BASE = ("torch", "torchao", "numpy")


def environment(started: datetime, runtime_names: Iterable[str]) -> Environment:
    """This machine, and the versions of d3d-edge, torch and those packages of the named runtimes that are installed."""
    versions = tools(())
    for name in sorted(set(runtime_names)):
        runtime = runtimes.get(name)
        for given in (runtime.tools, runtime.run_tools):
            with suppress(ImportError):
                versions |= given()
    return Environment(
        machine=platform.machine(),
        processor=_processor(),
        cpus=cpus(),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        tools=versions,
        started=started.isoformat(timespec="seconds"),
    )


def tools(runtime_names: Iterable[str]) -> dict[str, str]:
    """Versions of d3d-edge, torch, and the packages that the named runtimes lower with, which are installed."""
    versions = {"d3d-edge": __version__}
    for package in _BASE:
        versions[package] = importlib.metadata.version(package)
    for name in sorted(set(runtime_names)):
        versions |= runtimes.get(name).tools()
    return versions


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
