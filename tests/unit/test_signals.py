"""Signals that are held back come when the block is over, once, and to the handlers that were there before."""

from __future__ import annotations

import importlib
import signal
import sys
import threading
import time
from pathlib import Path

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


@pytest.mark.parametrize("number", [signal.SIGINT, *ENDING])
def test_a_signal_waits_for_the_end_of_an_import(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pressed twice, since nothing happened the first time."""
    inner, outer = f"d3d_inner_{number}", f"d3d_outer_{number}"
    pressed = f"for _ in 'twice':\n    signal.raise_signal({int(number)})\n    time.sleep(0.05)\n"
    (tmp_path / f"{inner}.py").write_text(f"import signal, time\n{pressed}whole = True\n")
    (tmp_path / f"{outer}.py").write_text(f"import {inner}\nwhole = {inner}.whole\n")
    monkeypatch.syspath_prepend(tmp_path)
    came = 0
    with raised():
        try:
            importlib.import_module(outer)
            time.sleep(5)
        except (KeyboardInterrupt, Ended):
            came += 1
            time.sleep(0.2)
    assert came == 1
    assert sys.modules[outer].whole


def test_a_program_that_runs_while_it_is_imported_can_be_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ("import signal", "from d3d_edge.signals import raised", "with raised():", "    signal.raise_signal(2)")
    (tmp_path / "d3d_program.py").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        importlib.import_module("d3d_program")


def test_in_another_thread_nothing_is_changed() -> None:
    seen = []

    def work() -> None:
        with held_back():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]
