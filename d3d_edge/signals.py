"""Signals that ask a process to end: raised as exceptions, so that files and devices are left clean, or held back."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

ENDING = (signal.SIGTERM, signal.SIGHUP)

_SAME_S = 1.0
"""Signals that follow so soon are of one wish to end: `timeout` sends two, and so does a terminal that is closed."""


class Ended(BaseException):
    """A signal asked this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def raised() -> Iterator[None]:
    """Have SIGTERM and SIGHUP end the block by `Ended`, as Ctrl-C does by KeyboardInterrupt.

    A signal that is ignored, as under nohup, stays so. The processes of torchrun are ended at once, as it expects: one
    that waits for another that is gone would not come to raise anything.
    """
    if threading.current_thread() is not threading.main_thread() or "TORCHELASTIC_RUN_ID" in os.environ:
        yield
        return
    last_s = -_SAME_S

    def end(number: int, frame: object) -> None:
        nonlocal last_s
        before_s, last_s = last_s, time.monotonic()
        if last_s - before_s >= _SAME_S:
            raise Ended(number)

    ours = [number for number in ENDING if signal.getsignal(number) == signal.SIG_DFL]
    for number in ours:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def held_back() -> Iterator[None]:
    """Have Ctrl-C and the signals to end wait for the end of the block: for code that forgives every exception, or is
    broken by one.

    A thread's mask would not do: any other thread of the process is given them then.
    """
    if threading.current_thread() is not threading.main_thread():  # nothing is raised in others
        yield
        return
    numbers = [number for number in (signal.SIGINT, *ENDING) if signal.getsignal(number) is not None]
    came: list[int] = []
    before = {number: signal.signal(number, lambda which, _: came.append(which)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for which in came:
            signal.raise_signal(which)
