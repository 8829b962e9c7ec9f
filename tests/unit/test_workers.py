"""Work shared by processes: in order, deaf to Ctrl-C, and gone with one clear error."""

from __future__ import annotations

import errno
import os
import signal
from concurrent.futures import ProcessPoolExecutor

import pytest

from d3d_edge import workers as shared
from d3d_edge.errors import DataError, StorageError
from d3d_edge.workers import mapper

DIED = DataError("a worker died")


def nothing() -> None:
    """There is nothing to prepare."""


def hears_interrupts(_: int) -> bool:
    return signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def die(_: int) -> None:
    os._exit(1)


@pytest.mark.parametrize("workers", [0, 2])
def test_results_come_in_the_order_of_the_work(workers: int) -> None:
    with mapper(workers, prepare=nothing, died=DIED) as mapped:
        assert list(mapped(abs, range(-5, 0))) == [5, 4, 3, 2, 1]


def test_no_worker_hears_ctrl_c_and_their_parent_does() -> None:
    with mapper(2, prepare=nothing, died=DIED) as mapped:
        assert not any(mapped(hears_interrupts, range(4)))
        assert hears_interrupts(0)


def test_a_worker_that_dies_is_one_error() -> None:
    with pytest.raises(DataError, match="a worker died"), mapper(2, prepare=nothing, died=DIED) as mapped:
        list(mapped(die, range(2)))


def test_a_worker_that_is_gone_before_it_was_told_what_to_do_is_the_same_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(ProcessPoolExecutor, "map", broken)
    with pytest.raises(DataError, match="a worker died"), mapper(2, prepare=nothing, died=DIED) as mapped:
        mapped(abs, [1])


def test_processes_that_cannot_be_started_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shared, "ProcessPoolExecutor", full)
    with pytest.raises(StorageError, match=r"cannot start processes: No space left.*/dev/shm.*--workers 1"):
        mapper(2, prepare=nothing, died=DIED).__enter__()
