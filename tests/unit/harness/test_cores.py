"""The thread that takes times shares its core with no other thread of the process, and afterwards all is as before."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from d3d_edge.harness import cores

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="threads cannot be kept on cores here")


@contextmanager
def another_thread() -> Iterator[int]:
    """The number of a thread that waits."""
    end, numbers = threading.Event(), list[int]()
    ready = threading.Event()
    thread = threading.Thread(target=lambda: (numbers.append(threading.get_native_id()), ready.set(), end.wait(10)))
    thread.start()
    ready.wait(10)
    try:
        yield numbers[0]
    finally:
        end.set()
        thread.join()


def test_the_thread_that_times_shares_its_core_with_no_other() -> None:
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        pytest.skip("one core only")
    with another_thread() as other:
        with cores.apart():
            own, others = os.sched_getaffinity(0), os.sched_getaffinity(other)
            assert (len(own), own | others, own & others) == (1, allowed, set())
        assert os.sched_getaffinity(0) == os.sched_getaffinity(other) == allowed


def test_a_thread_that_was_kept_on_a_core_stays_there() -> None:
    with another_thread() as other:
        os.sched_setaffinity(other, {min(os.sched_getaffinity(0))})
        before = os.sched_getaffinity(other)
        with cores.apart():
            assert os.sched_getaffinity(other) == before
        assert os.sched_getaffinity(other) == before


def test_on_one_core_nothing_is_kept_anywhere() -> None:
    allowed = os.sched_getaffinity(0)
    with another_thread() as other:
        os.sched_setaffinity(0, {min(allowed)})
        try:
            with cores.apart():
                assert os.sched_getaffinity(0) == {min(allowed)}
                assert os.sched_getaffinity(other) == allowed
        finally:
            os.sched_setaffinity(0, allowed)
