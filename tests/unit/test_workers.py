"""Work shared by processes: in order, deaf to Ctrl-C, and gone with one clear error."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Thread

import pytest

from d3d_edge import workers as shared
from d3d_edge.errors import DataError, StorageError
from d3d_edge.signals import Ended
from d3d_edge.workers import mapper

DIED = DataError("a worker died")


def work_until(wish: BaseException, work: Callable[[Path], None], folder: Path) -> None:
    """Have two processes work, and raise when both do, while their results are waited for."""

    def raised(*_: object) -> None:
        raise wish

    def when_both_work() -> None:
        until_s = time.monotonic() + 60
        while len(list(folder.glob("*.began"))) < 2 and time.monotonic() < until_s:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, raised)
    try:
        with mapper(2, prepare=nothing, died=DIED) as mapped:
            Thread(target=when_both_work).start()
            list(mapped(work, [folder] * 8))
    finally:
        signal.signal(signal.SIGUSR1, before)


def nothing() -> None:
    """There is nothing to prepare."""


def heard(_: int) -> set[int]:
    """Those of Ctrl-C and a closed terminal that this process is not deaf to."""
    return {signal.SIGINT, signal.SIGHUP} - signal.pthread_sigmask(signal.SIG_BLOCK, ())


def work_for_long(folder: Path) -> None:
    try:
        (folder / f"{os.getpid()}.began").touch()
        time.sleep(60)
        (folder / f"{os.getpid()}.finished").touch()
    finally:
        (folder / f"{os.getpid()}.tidied").touch()


def work_whatever_comes(folder: Path) -> None:
    (folder / f"{os.getpid()}.began").touch()
    while True:
        with suppress(SystemExit):
            time.sleep(60)


def die(_: int) -> None:
    os._exit(1)


@pytest.mark.parametrize("workers", [0, 2])
def test_results_come_in_the_order_of_the_work(workers: int) -> None:
    with mapper(workers, prepare=nothing, died=DIED) as mapped:
        assert list(mapped(abs, range(-5, 0))) == [5, 4, 3, 2, 1]


def test_no_worker_hears_ctrl_c_or_a_closed_terminal_and_their_parent_does() -> None:
    with mapper(2, prepare=nothing, died=DIED) as mapped:
        assert not any(mapped(heard, range(4)))
        assert heard(0) == {signal.SIGINT, signal.SIGHUP}


@pytest.mark.parametrize("wish", [KeyboardInterrupt(), Ended(signal.SIGTERM)])
def test_workers_end_in_the_midst_of_what_nobody_waits_for_and_tidy_up(tmp_path: Path, wish: BaseException) -> None:
    with pytest.raises(type(wish)):
        work_until(wish, work_for_long, tmp_path)
    began = {path.stem for path in tmp_path.glob("*.began")}
    assert {path.stem for path in tmp_path.glob("*.tidied")} == began
    assert not list(tmp_path.glob("*.finished"))
    assert not multiprocessing.active_children()


def test_a_worker_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "_TO_TIDY_UP_S", 0.1)
    with pytest.raises(KeyboardInterrupt):
        work_until(KeyboardInterrupt(), work_whatever_comes, tmp_path)
    assert not multiprocessing.active_children()


def test_a_worker_that_dies_is_one_error() -> None:
    with pytest.raises(DataError, match="a worker died"), mapper(2, prepare=nothing, died=DIED) as mapped:
        list(mapped(die, range(2)))


def test_a_worker_that_is_gone_before_it_was_told_what_to_do_is_the_same_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(ProcessPoolExecutor, "submit", broken)
    with pytest.raises(DataError, match="a worker died"), mapper(2, prepare=nothing, died=DIED) as mapped:
        mapped(abs, [1])


def test_processes_that_cannot_be_started_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shared, "ProcessPoolExecutor", full)
    with pytest.raises(StorageError, match=r"cannot start processes: No space left.*/dev/shm.*--workers 1"):
        mapper(2, prepare=nothing, died=DIED).__enter__()


def test_no_more_work_is_handed_out_than_keeps_the_processes_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "_AHEAD", 3)
    taken: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(20):
            taken.append(number)
            yield number

    with mapper(2, prepare=nothing, died=DIED) as mapped:
        results = mapped(abs, numbers())
        assert len(taken) == 6
        assert next(results) == 0
        assert len(taken) == 7
        assert [*results] == [*range(1, 20)]
