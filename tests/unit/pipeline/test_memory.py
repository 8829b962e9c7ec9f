"""The process that measures memory: its parent alone hears Ctrl-C, and ends it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from d3d_edge.pipeline import memory

pytestmark = pytest.mark.usefixtures("terminal")


def hears_interrupts(_: Path, __: int) -> int:
    return signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def measure_for_long(folder: Path, _: int) -> None:
    (folder / "began").touch()
    time.sleep(60)
    (folder / "finished").touch()


def test_it_hears_no_ctrl_c_and_its_parent_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_peak_bytes", hears_interrupts)
    assert not memory.peak_bytes(Path(), 0)
    assert hears_interrupts(Path(), 0)


def test_ctrl_c_ends_it_in_the_midst_of_its_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        while not (tmp_path / "began").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(memory, "_peak_bytes", measure_for_long)
    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        memory.peak_bytes(tmp_path, 0)
    assert not multiprocessing.active_children()
    assert not (tmp_path / "finished").exists()
