"""Signals that ask a process to end: raised as exceptions, so that files and devices are left clean, or held back."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGHUP)

_SAME_S = 1.0
"""Signals that follow so soon are of one wish to end: `timeout` sends two, and so does a terminal that is closed."""
_AGAIN_S = 0.02
"""After which it is seen whether an import is over."""


class Ended(BaseException):
    """A signal asked this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def raised(importing: Callable[[int, str], None] = lambda number, file: None) -> Iterator[None]:
    """Have SIGTERM and SIGHUP end the block by `Ended`, as Ctrl-C does by KeyboardInterrupt, and none amid an import.

    There an exception would leave half of a module behind, which fails later as it may, or would be lost in C code.
    So it waits for the import's end, unless `importing`, which is given the signal and the file that imports, ends all.

    A signal that is ignored, as under nohup, stays so. The processes of torchrun are ended at once, as it expects: one
    that waits for another that is gone would not come to raise anything.
    """
    if threading.current_thread() is not threading.main_thread() or "TORCHELASTIC_RUN_ID" in os.environ:
        yield
        return
    last_s = -_SAME_S
    around = len(_importers(sys._getframe()))

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal last_s
        if begun := _importers(frame)[around:]:
            importing(number, begun[0])
            again = threading.Timer(_AGAIN_S, signal.pthread_kill, (threading.main_thread().ident, number))
            again.daemon = True
            again.start()
            return
        before_s, last_s = last_s, time.monotonic()
        if last_s - before_s >= _SAME_S:
            raise KeyboardInterrupt if number == signal.SIGINT else Ended(number)

    usual = {signal.SIGINT: signal.default_int_handler} | dict.fromkeys(ENDING, signal.SIG_DFL)
    ours = {number: handler for number, handler in usual.items() if signal.getsignal(number) == handler}
    for number in ours:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)


def _importers(frame: FrameType | None) -> list[str]:
    """The files whose imports are under way in `frame`, the one that began first in front."""
    files, inside = list[str](), False
    while frame is not None:
        file = frame.f_code.co_filename
        before, inside = inside, file.startswith("<frozen importlib") or file == importlib.__file__
        if before and not inside:
            files.append(file)
        frame = frame.f_back
    return files[::-1]


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
