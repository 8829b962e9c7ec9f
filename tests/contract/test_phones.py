"""Phones alone: which one is meant, and one that fails. Stand-ins answer as adb and devicectl do; adb is real, too."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from d3d_edge import transports
from d3d_edge.errors import DeviceError
from tests.contract.conftest import Device, Make
from tests.devices import reach

PHONES = "R58M123ABC\tdevice\nemulator-5554\tdevice"


@pytest.mark.parametrize(
    ("name", "listed", "message"),
    [
        ("adb", "", "adb: no Android device is connected"),
        ("adb", PHONES, r"several Android devices are connected \(--device adb:SERIAL of R58M123ABC, emulator-5554\)"),
        ("adb:XYZ", PHONES, "adb:XYZ is not connected"),
        ("adb", "R58M123ABC\tunauthorized", "adb cannot be used: unauthorized .*allow USB debugging"),
        ("adb", "R58M123ABC\tno permissions (missing udev rules?)", "cannot be used: no permissions .*udev"),
    ],
)
def test_which_phone(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    listed: str,
    message: str,
) -> None:
    reach("adb", request, tmp_path / "device", monkeypatch)
    monkeypatch.setenv("FAKE_ADB_DEVICES", listed)
    with pytest.raises(DeviceError, match=message):
        transports.get(name).__enter__()


@pytest.mark.parametrize("kind", ["adb"], indirect=True)
@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("error: device 'R58M123ABC' not found", "adb went away: .*is it still connected"),
        ("error: device offline", "adb went away"),
        ("adb: error: failed to copy 'a' to 'b': remote couldn't create file: No space left on device", "enough room"),
        ("adb: error: failed to copy 'a' to 'b': remote couldn't create file: Read-only file system", "Read-only file"),
    ],
)
def test_a_phone_that_fails(
    device: Device, make: Make, monkeypatch: pytest.MonkeyPatch, said: str, message: str
) -> None:
    monkeypatch.setenv("FAKE_ADB_SAYS", said)
    with pytest.raises(DeviceError, match=message):
        device.transport.push([make("blobs/a", b"a")])


@pytest.mark.parametrize(
    ("name", "udids", "message"),
    [
        ("ios", "", "ios: no iOS device is connected"),
        ("ios", "A B", "several iOS devices are connected .*ios:UDID of A, B"),
        ("ios:C", "A B", "ios:C is not connected"),
    ],
)
def test_which_iphone(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, udids: str, message: str
) -> None:
    reach("ios", request, tmp_path / "device", monkeypatch)
    monkeypatch.setenv("FAKE_UDIDS", udids)
    with pytest.raises(DeviceError, match=message):
        transports.get(name).__enter__()


@pytest.mark.parametrize("name", ["adb", "adb:R58M123ABC"])
def test_the_real_adb_without_a_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("adb") is None:
        pytest.skip("no adb on this machine (Debian: apt install adb)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(free.getsockname()[1]))
    monkeypatch.setenv("ADB_MDNS", "0")
    try:
        with pytest.raises(DeviceError, match=f"^{name}: no Android device is connected"):
            transports.get(name).__enter__()
    finally:
        subprocess.run(["adb", "kill-server"], check=False, capture_output=True)
