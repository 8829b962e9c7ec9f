"""What the terminal shows: progress bars and notes on standard error, tables on standard output."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from d3d_edge.progress import Task
from d3d_edge.schema import Schema

_SILENT_S = 120.0
"""A log of long work has a line in that time: one that stands still looks as one that died."""
_HASTY_S = 1.0
"""And not more than one in that: short work is told when it is done."""

plain = functools.partial(Console, markup=False, emoji=False, highlight=False)
"""A console that shows names as they are: to rich, '[int8]' is a style, '[/x]' the end of one, and ':x:' a picture."""


def json_of(value: Schema, *, indent: int | None = 2, exclude: set[str] | None = None) -> str:
    """What `--json` prints, in ASCII: a terminal's encoding may lack a character, and its stand-in would be no JSON."""
    return value.model_dump_json(indent=indent, exclude=exclude, ensure_ascii=True)


class _BarTask:
    def __init__(self, bars: Progress, description: str, total: int, done: int) -> None:
        self._bars = bars
        self._id = bars.add_task(description, total=total, completed=done, text="")

    def advance(self, steps: int = 1, text: str = "") -> None:
        self._bars.update(self._id, advance=steps, text=text)


class _LineTask:
    """Where there is no terminal: a line at the end, and before at each quarter or, of long work, every two minutes."""

    def __init__(self, console: Console, description: str, total: int, done: int) -> None:
        self._console, self._description, self._total, self._done = console, description, total, done
        self._told_s = time.monotonic()

    def advance(self, steps: int = 1, text: str = "") -> None:
        before = 4 * self._done // max(1, self._total)
        self._done += steps
        now_s = time.monotonic()
        quarter, silent_s = 4 * self._done // max(1, self._total) > before, now_s - self._told_s
        if self._done == self._total or (quarter and silent_s > _HASTY_S) or silent_s > _SILENT_S:
            self._told_s = now_s
            self._console.print(f"{self._description}: {self._done}/{self._total} {text}")


class TerminalProgress:
    """Progress for people: bars on a terminal, a few lines in a log."""

    def __init__(self) -> None:
        self._console = plain(stderr=True, soft_wrap=True)

    @contextmanager
    def task(self, description: str, total: int, done: int = 0) -> Iterator[Task]:
        if not self._console.is_terminal:
            yield _LineTask(self._console, description, total, done)
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}", markup=False),
        )
        with Progress(*columns, console=self._console) as bars:
            yield _BarTask(bars, description, total, done)

    def note(self, message: str) -> None:
        self._console.print(message)
