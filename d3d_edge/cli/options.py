"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

C = TypeVar("C", bound=Callable[..., Any])

PATH = click.Path(path_type=Path)


def data(command: C) -> C:
    """--data."""
    return click.option(
        "--data",
        required=True,
        type=PATH,
        metavar="DIR|CSV",
        help="A folder per class, or a CSV manifest path,label,split[,group].",
    )(command)


def decoding(command: C) -> C:
    """--cache, --workers and --strict, for commands that decode a whole data set."""
    command = click.option("--strict", is_flag=True, help="Stop at the first bad clip instead of skipping it.")(command)
    return workers(cache(command))


def workers(command: C) -> C:
    """--workers."""
    return click.option(
        "--workers", type=click.IntRange(0), default=cpus(), show_default=True, help="Processes that share the work."
    )(command)


def cache(command: C) -> C:
    """--cache."""
    return click.option(
        "--cache",
        "cache_dir",
        type=PATH,
        envvar="D3D_EDGE_CACHE",
        default=_default_cache(),
        show_default=True,
        help="Where decoded clips and flow are kept.",
    )(command)


def threads(command: C) -> C:
    """--threads."""
    return click.option(
        "--threads", type=click.IntRange(0), default=0, help="Threads of the runtime; 0 leaves its own choice."
    )(command)


def as_json(command: C) -> C:
    """--json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")(command)


def cpus() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _default_cache() -> str:
    return str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "d3d-edge")
