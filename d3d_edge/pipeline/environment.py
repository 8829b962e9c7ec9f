"""The machine and tools behind a figure."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import torch

from d3d_edge import __version__, runtimes
from d3d_edge.processors import cpus
from d3d_edge.report import Environment

_BASE = ("torch", "torchao", "numpy")
_INSTRUCTIONS = (
    {"avx512_vnni": "AVX-512 VNNI", "avx512_f": "AVX-512", "avx_vnni": "AVX-VNNI", "avx2": "AVX2"},
    {"amx_int8": "AMX"},
    {"i8mm": "I8MM", "dot": "dot product"},
    {"sme": "SME"},
)
"""Capabilities in PyTorch's words and in a reader's, for which XNNPACK, ONNX Runtime and oneDNN have kernels of their
own; of each family the first that there is stands for those behind it."""


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
        instructions=instructions(torch.cpu.get_capabilities()),
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


def instructions(capabilities: Mapping[str, object]) -> tuple[str, ...]:
    """The vector instructions among `capabilities` (`torch.cpu.get_capabilities`) that kernels are chosen by."""
    found = (next((name for key, name in family.items() if capabilities.get(key)), "") for family in _INSTRUCTIONS)
    return tuple(name for name in found if name)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
