"""How long work says where it stands. Library code reports through this seam and never prints."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Task(Protocol):
    """One bar: `total` steps, and a short text such as the loss."""

    def advance(self, steps: int = 1, text: str = "") -> None: ...


class Progress(Protocol):
    """What a front end gives: bars for long work, lines for what was done."""

    def task(self, description: str, total: int, done: int = 0) -> AbstractContextManager[Task]: ...

    def note(self, message: str) -> None: ...


class _SilentTask:
    def advance(self, steps: int = 1, text: str = "") -> None:
        pass


class Silent:
    """Progress for programs: says nothing."""

    def task(self, description: str, total: int, done: int = 0) -> AbstractContextManager[Task]:
        return nullcontext(_SilentTask())

    def note(self, message: str) -> None:
        pass
