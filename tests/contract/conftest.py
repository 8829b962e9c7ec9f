"""A device of every kind, reached; files for it, and whether a process that was started there lives."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from d3d_edge import transports
from d3d_edge.transports import File, Transport
from tests.devices import KINDS, reach

PROGRAM = "blobs/app"
JOB = "jobs/1"
# A runner's duties, and no more: it leads its process group, says which in `pid`, and ends when its input does.
LEADER = f"mkdir -p {JOB}; echo $$ > {JOB}/pid; exec 3<&0; (cat <&3 >/dev/null; kill -s KILL -- -$$) &\n"
Make = Callable[[str, bytes], File]


class Device(NamedTuple):
    """A device, reached, and the folder of this machine that its files are in."""

    kind: str
    transport: Transport
    folder: Path


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def device(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Device]:
    name, folder = reach(kind, request, tmp_path / "device", monkeypatch)
    with transports.get(name) as transport:
        yield Device(kind, transport, folder)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    (tmp_path / "Ein Ordner, für alle").mkdir()

    def file(name: str, content: bytes) -> File:
        path = tmp_path / "Ein Ordner, für alle" / hashlib.sha256(name.encode()).hexdigest()
        path.write_bytes(content)
        return File(name, path, hashlib.sha256(content).hexdigest())

    return file


def alive(process: int) -> bool:
    # One look: between two it may end. Its file is gone then, or cannot be read to the end.
    try:
        return "zombie" not in Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(process: int) -> bool:
    deadline = time.monotonic() + 10
    while alive(process) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(process)
