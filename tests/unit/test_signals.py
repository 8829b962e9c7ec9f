"""Signals that are held back come when the block is over, once, and to the handlers that were there before."""

from __future__ import annotations

import signal
import threading

import pytest

from d3d_edge.signals import ENDING, Ended, held_back, raised

pytestmark = pytest.mark.usefixtures("terminal")


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("number", [signal.SIGINT, *ENDING])
def test_a_signal_waits_for_the_end_of_the_outermost_block(number: signal.Signals, depth: int) -> None:
    steps = []

    def work(left: int) -> None:
        with held_back():
            if left:
                work(left - 1)
            else:
                signal.raise_signal(number)
            steps.append(left)

    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else Ended), raised():
        work(depth - 1)
    assert steps == list(range(depth))
    assert signal.getsignal(number) == before


def test_a_signal_comes_where_the_block_failed_too() -> None:
    @held_back()
    def fail() -> None:
        signal.raise_signal(signal.SIGINT)
        raise ValueError

    with pytest.raises(KeyboardInterrupt) as ended:
        fail()
    assert isinstance(ended.value.__context__, ValueError)


def test_in_another_thread_nothing_is_changed() -> None:
    seen = []

    def work() -> None:
        with held_back():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]
