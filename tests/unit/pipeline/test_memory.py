"""The process that measures memory: its parent alone hears Ctrl-C, and ends it."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from d3d_edge import workers
from d3d_edge.errors import BundleError, StorageError
from d3d_edge.pipeline import memory
from tests.contract.conftest import gone

pytestmark = pytest.mark.usefixtures("terminal")


def hears_interrupts(_: Path, __: int) -> int:
    return signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def measure_for_long(folder: Path, _: int) -> None:
    (folder / "began").write_text(str(os.getpid()))
    time.sleep(60)
    (folder / "finished").touch()


def kill_itself(_: Path, __: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


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


def test_a_process_that_is_killed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_peak_bytes", kill_itself)
    with pytest.raises(BundleError, match="the process that measures its memory was killed"):
        memory.peak_bytes(Path("a"), 0)


MEASURED = """
import sys
from pathlib import Path
from d3d_edge.pipeline import memory
from tests.unit.pipeline.test_memory import measure_for_long

memory._peak_bytes = measure_for_long
memory.peak_bytes(Path(sys.argv[1]), 0)
"""


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[3]
    began = tmp_path / "began"
    with subprocess.Popen([sys.executable, "-c", MEASURED, tmp_path], cwd=root) as parent:
        while not (began.exists() and began.read_text()):
            assert parent.poll() is None
            time.sleep(0.05)
        parent.kill()
    assert gone(int(began.read_text()))


def test_where_no_process_can_be_started_it_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(workers, "ProcessPoolExecutor", full)
    with pytest.raises(StorageError, match=r"cannot start processes: Read-only file system .*/dev/shm"):
        memory.check()
