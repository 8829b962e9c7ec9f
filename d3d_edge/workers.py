"""Work shared by processes that end with their parent, or by a cluster. Knows nothing of the work."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing.process import BaseProcess
from typing import Any

from d3d_edge.errors import D3DEdgeError, RecipeError, StorageError
from d3d_edge.signals import Ended

Mapper = Callable[..., Any]
"""As the built-in `map`: results come in the order of the work."""


PROCESSES = "processes"
"""The engine that needs nothing: processes of this machine."""

_AHEAD = 64
"""Pieces of work for each process that are handed out before their turn: there may be hundreds of thousands."""
_TO_TIDY_UP_S = 5.0


@contextmanager
def mapper(
    workers: int, *, prepare: Callable[[], None], died: D3DEdgeError, engine: str = PROCESSES
) -> Iterator[Mapper]:
    """Yield a `map` whose work is shared by `workers` processes; 0 or 1 leaves it to this one.

    `prepare` is called once in each process before any work. What the work raises is raised here. Where Ctrl-C or a
    signal ends the block, it ends the processes in the midst of their work. The engine 'ray' starts a Ray of `workers`
    processes on this machine, and 'ray:ADDRESS' gives the work to a cluster that runs.

    Raises:
        D3DEdgeError: `died`, when a process was killed, by the system for want of memory for example.
        RecipeError: there is no such engine.
        MissingDependency: the engine's package is not installed.
    """
    name, _, address = engine.partition(":")
    if name == "ray":
        from d3d_edge.cluster import ray_mapper

        with ray_mapper(address, workers, prepare=prepare, died=died) as mapped:
            yield mapped
        return
    if engine != PROCESSES:
        raise RecipeError(f"no engine {engine!r}", hint=f"{PROCESSES}, ray or ray:ADDRESS")
    if workers < 2:
        yield map
        return
    hint = "is /dev/shm full? --workers 1 does without"
    with _pool(workers, _start, prepare, died=died, hint=hint) as pool:

        def handed_out(work: Callable[..., Any], *items: Any) -> Any:
            waiting, handed = zip(*items, strict=True), deque[Future[Any]]()

            def hand_out(count: int) -> None:
                with without_interrupts():  # This starts the processes.
                    try:
                        handed.extend(pool.submit(_do, work, *item) for item in islice(waiting, count))
                    except BrokenPipeError as error:  # of one that was gone before it was told what to do
                        raise died from error

            # Not `pool.map`, which takes work back where it is left by an exception: of work that was taken back,
            # Python 3.11 prints where it was when processes end.
            def results() -> Iterator[Any]:
                while handed:
                    result = handed.popleft().result()
                    hand_out(1)
                    yield result

            hand_out(_AHEAD * workers)
            return results()

        yield handed_out


@contextmanager
def apart(*, died: D3DEdgeError) -> Iterator[Callable[..., Any]]:
    """Yield a function that calls another, with what it is given beside, in one young process that ends with this one.

    Raises:
        D3DEdgeError: `died`, when the process was killed.
        StorageError: it cannot be started.
    """
    with _pool(1, _end_with_parent, died=died, hint="is /dev/shm full?") as pool:

        def call(work: Callable[..., Any], *items: Any) -> Any:
            with without_interrupts():  # this starts the process
                found = pool.submit(work, *items)
            return found.result()

        yield call


@contextmanager
def _pool(
    workers: int, start: Callable[..., None], *given: Any, died: D3DEdgeError, hint: str
) -> Iterator[ProcessPoolExecutor]:
    # spawn: a forked copy of a process in which torch or OpenCV has threads can lock up, and has its memory.
    context = multiprocessing.get_context("spawn")
    try:
        with without_interrupts():  # This may start the process that tracks what the others share.
            pool = ProcessPoolExecutor(workers, mp_context=context, initializer=start, initargs=given)
    except OSError as error:  # its locks are files in /dev/shm
        raise StorageError(f"cannot start processes: {error.strerror}", hint=hint) from error
    try:
        with ended_with_the_block():
            yield pool
    except BrokenProcessPool as error:
        raise died from error
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def without_interrupts() -> Iterator[None]:
    """Ctrl-C and SIGHUP wait for the end of the block, and never reach processes that are started in it: they are their
    parent's to handle, and while they still import their modules they would each print where they were."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def ended_with_the_block() -> Iterator[None]:
    """Where Ctrl-C or a signal ends the block, end the processes that were started in it, amid their work."""
    others = multiprocessing.active_children()
    try:
        yield
    except (KeyboardInterrupt, Ended):
        _end([process for process in multiprocessing.active_children() if process not in others])
        raise


def _end(processes: list[BaseProcess]) -> None:
    """End processes in the midst of their work. They delete what is half-written, if that is soon done."""
    for process in processes:
        process.terminate()
    until_s = time.monotonic() + _TO_TIDY_UP_S
    for process in processes:
        process.join(max(0.0, until_s - time.monotonic()))
        process.kill()


def collect_seldom() -> None:
    """Have Python look for garbage in cycles less often than it does by itself.

    Of the objects of a captured graph, and of the packages that lower it, nearly all stay, and looking through them
    once more for every 700 takes time.
    """
    gc.set_threshold(10_000, 10, 10)


def _start(prepare: Callable[[], None]) -> None:
    collect_seldom()
    _end_with_parent()
    prepare()
    signal.signal(signal.SIGTERM, _tidy_up)


def _tidy_up(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_IGN)  # a pool of which one process has ended asks all others once more
    sys.exit(1)


def _do(work: Callable[..., Any], *items: Any) -> Any:
    """The work, after whose end by a signal there is no other."""
    try:
        return work(*items)
    except SystemExit:
        os._exit(1)


def _end_with_parent() -> None:
    """A pool's worker whose parent was killed would wait for work for ever."""

    def end() -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
            os._exit(1)

    threading.Thread(target=end, daemon=True).start()
