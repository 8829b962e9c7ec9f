"""A device whose disk is full, for real: said in one line, nothing half-written stays, and it works once there is room.

SSH is a real server and a real scp. The disk is a small file system of its own, which takes the right to mount one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from d3d_edge import transports
from d3d_edge.errors import DeviceError
from d3d_edge.transports import File
from d3d_edge.transports.shell import ShellDevice
from tests.devices import Disk, reach, small_disk

MB = 2**20


@pytest.fixture(params=["local", "ssh", "adb"])
def kind(request: pytest.FixtureRequest) -> str:
    """All but an iPhone, whose app copies."""
    return str(request.param)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with small_disk(tmp_path / "device", "256k") as mounted:
        yield mounted


@pytest.fixture
def transport(
    kind: str, disk: Disk, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ShellDevice]:
    """A device whose folder is on the small disk."""
    name, _ = reach(kind, request, disk.folder, monkeypatch)
    with transports.get(name) as reached:
        assert isinstance(reached, ShellDevice)
        yield reached


@pytest.fixture
def files(tmp_path: Path) -> list[File]:
    """One of 1 MB, and one of 3 MB."""
    made = []
    for size in (MB, 3 * MB):
        path = tmp_path / f"{size}"
        path.write_bytes(hashlib.sha256(str(size).encode()).digest() * (size // 32))
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        made.append(File(f"blobs/{sha256}.clips", path, sha256))
    return made


def refused(transport: ShellDevice, files: list[File], message: str) -> None:
    """Pushing ends in one line that names the device, and with the exit code of a device's failure."""
    with pytest.raises(DeviceError, match=rf"^{re.escape(transport.name)}: not enough room: {message}") as raised:
        transport.push(files)
    assert raised.value.exit_code == 7
    assert len(str(raised.value).splitlines()) == 1
    assert "may be deleted" in raised.value.hint


def test_a_disk_that_is_too_small_gets_nothing_and_all_once_it_is_larger(
    transport: ShellDevice, disk: Disk, files: list[File]
) -> None:
    refused(transport, files, r"4\.2 MB are to be copied and 17 MB to stay free, 0\.3 MB are free")
    assert disk.files() == []
    disk.grow("32m")
    assert [transport.push(files), transport.push(files)] == [4 * MB, 0]


def test_a_full_disk_gets_nothing(transport: ShellDevice, disk: Disk, files: list[File]) -> None:
    disk.fill()
    refused(transport, files, r"4\.2 MB are to be copied and 17 MB to stay free, 0\.0 MB are free")
    assert disk.files() == []


def test_a_disk_that_fills_up_meanwhile_keeps_nothing_half_written(
    transport: ShellDevice, disk: Disk, files: list[File]
) -> None:
    disk.grow("32m")
    copy = transport.copy_there

    def filled_by_another(path: Path, place: str) -> list[str]:
        # All but the room for the first file and a half of the second one, which is begun then.
        if not (disk.folder / "filler").exists():
            with (disk.folder / "filler").open("wb") as filler:
                filler.write(bytes(int(29.5 * MB)))
        return copy(path, place)

    with pytest.MonkeyPatch.context() as meanwhile:
        meanwhile.setattr(transport, "copy_there", filled_by_another)
        refused(transport, files, "its disk is full")
    # Not even the first file, which was copied whole and has not been checked; what is there the next time is not
    # taken for whole, and takes no room away.
    assert disk.files() == []
    assert disk.processes() == []
    disk.empty()
    assert [transport.push(files), transport.push(files)] == [4 * MB, 0]
