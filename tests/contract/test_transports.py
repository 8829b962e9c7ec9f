"""The contract that every transport keeps: files arrive whole, a program's lines come back, and nothing is left behind.

The SSH server is a real one. Stand-ins answer as adb and devicectl do; no phone was at hand.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from d3d_edge import transports
from d3d_edge.errors import DeviceError, RecipeError
from d3d_edge.transports import File
from d3d_edge.transports.ssh import Ssh
from tests import sshd
from tests.contract.conftest import Device
from tests.devices import reach

PROGRAM = "blobs/app"
JOB = "jobs/1"
# A runner's duties, and no more: it leads its process group, says which in `pid`, and ends when its input does.
LEADER = f"mkdir -p {JOB}; echo $$ > {JOB}/pid; exec 3<&0; (cat <&3 >/dev/null; kill -s KILL -- -$$) &\n"


@pytest.fixture
def make(tmp_path: Path) -> Callable[[str, bytes], File]:
    (tmp_path / "Ein Ordner, für alle").mkdir()

    def file(name: str, content: bytes) -> File:
        path = tmp_path / "Ein Ordner, für alle" / hashlib.sha256(name.encode()).hexdigest()
        path.write_bytes(content)
        return File(name, path, hashlib.sha256(content).hexdigest())

    return file


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return "zombie" not in Path(f"/proc/{process}/status").read_text()


def gone(process: int) -> bool:
    deadline = time.monotonic() + 10
    while alive(process) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(process)


def test_files_arrive_whole_and_once(device: Device, make: Callable[[str, bytes], File], tmp_path: Path) -> None:
    files = [make("blobs/a.clips", bytes(range(256)) * 999), make("blobs/b.onnx/weights.bin", b"\0\r\n$'\" \n")]
    sent = sum(file.path.stat().st_size for file in files)
    assert [device.transport.push(files), device.transport.push(files)] == [sent, 0]
    for file in files:
        device.transport.pull(file.name, tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == file.path.read_bytes()


def test_a_file_that_is_damaged_there_is_sent_again(device: Device, make: Callable[[str, bytes], File]) -> None:
    file = make("blobs/a.clips", b"what is to be there")
    (device.folder / "blobs").mkdir()
    (device.folder / file.name).write_bytes(b"of the same length!")
    assert device.transport.push([file]) == 19
    assert (device.folder / file.name).read_bytes() == b"what is to be there"


@pytest.mark.parametrize("kind", ["local", "ssh", "adb"], indirect=True)
def test_what_another_run_reads_is_never_written_to(device: Device, make: Callable[[str, bytes], File]) -> None:
    file = make("blobs/a.clips", b"what is to be there")
    (device.folder / "blobs").mkdir()
    (device.folder / file.name).write_bytes(b"of another")
    with (device.folder / file.name).open("rb") as opened:
        device.transport.push([file])
        assert opened.read() == b"of another"
    assert [path.name for path in (device.folder / "blobs").iterdir()] == ["a.clips"]


def test_a_file_that_arrives_otherwise_is_refused(device: Device, make: Callable[[str, bytes], File]) -> None:
    file = make("blobs/a.clips", b"what is to be there")
    file.path.write_bytes(b"changed on the way!")
    with pytest.raises(DeviceError, match=f"{re.escape(device.transport.name)}.*did not arrive as it was sent"):
        device.transport.push([file])


def test_a_program_gets_its_words_and_gives_its_lines(device: Device, make: Callable[[str, bytes], File]) -> None:
    script = b'#!/bin/sh\nfor word in "$@"; do echo "<$word>"; done\necho trouble >&2\nexit 5\n'
    device.transport.push([make(PROGRAM, script)])
    lines: list[str] = []
    words = ["--shape", "4,16,16,3", "two words", "it's", '"$HOME"', "*"]
    ended = device.transport.start(PROGRAM, words, folder=JOB, on_line=lines.append, silence_s=20)
    assert lines == [f"<{word}>" for word in words]
    assert (ended.code, ended.errors.splitlines()[-1]) == (5, "trouble")


def test_a_program_that_is_killed_is_no_lost_device(device: Device, make: Callable[[str, bytes], File]) -> None:
    device.transport.push([make(PROGRAM, b"#!/bin/sh\necho begun\nkill -s KILL $$\n")])
    lines: list[str] = []
    ended = device.transport.start(PROGRAM, [], folder=JOB, on_line=lines.append, silence_s=20)
    assert lines == ["begun"]
    assert ended.code != 0


def test_a_silent_program_is_ended_with_its_children(device: Device, make: Callable[[str, bytes], File]) -> None:
    device.transport.push([make(PROGRAM, f"#!/bin/sh\n{LEADER}sleep 600 &\necho $!\nwait\n".encode())])
    lines: list[str] = []
    with pytest.raises(DeviceError, match=f"{re.escape(device.transport.name)} said nothing for 1 s.*--resume"):
        device.transport.start(PROGRAM, [], folder=JOB, on_line=lines.append, silence_s=1)
    assert gone(int(lines[0]))
    assert gone(int((device.folder / JOB / "pid").read_text()))


def test_an_interruption_ends_the_program_with_its_children(device: Device, make: Callable[[str, bytes], File]) -> None:
    device.transport.push([make(PROGRAM, f"#!/bin/sh\n{LEADER}sleep 600 &\necho $!\nwait\n".encode())])
    children: list[int] = []

    def interrupted(line: str) -> None:
        children.append(int(line))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        device.transport.start(PROGRAM, [], folder=JOB, on_line=interrupted, silence_s=20)
    assert gone(children[0])


def test_what_is_not_there_cannot_be_pulled(device: Device, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=re.escape(device.transport.name)):
        device.transport.pull("jobs/1/results.jsonl", tmp_path / "back")


@pytest.mark.parametrize("kind", ["local", "ssh", "adb"], indirect=True)
def test_too_little_room_is_said_before_anything_is_sent(device: Device, tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        free = os.statvfs(tmp_path)
        file.truncate(free.f_bavail * free.f_frsize + 2**20)  # a hole: it takes no room here
    with pytest.raises(
        DeviceError, match=r"not enough room: \d+\.\d MB are to be copied and 17 MB to stay free, \d+\.\d MB"
    ):
        device.transport.push([File("blobs/large.clips", path, "0" * 64)])
    assert not (device.folder / "blobs" / "large.clips").exists()


def test_a_program_that_cannot_be_run_ends_with_an_error(device: Device) -> None:
    ended = device.transport.start("blobs/none", [], folder=JOB, on_line=lambda line: None, silence_s=20)
    assert ended.code != 0
    assert ended.errors


@pytest.mark.parametrize(
    "name", ["jetson", "ssh", "ssh:", "adb:", "local:", "tcp:host", "ssh:-oProxyCommand=x", "ssh:a:b c", "adb:-s"]
)
def test_what_is_no_device_is_refused_without_reaching_one(name: str) -> None:
    with pytest.raises(RecipeError):
        transports.get(name)


def test_a_server_that_is_not_there(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reach("ssh", request, tmp_path / "device", monkeypatch)
    with pytest.raises(DeviceError, match=r"ssh:nowhere.invalid cannot be reached: .*nowhere.invalid"):
        transports.get("ssh:nowhere.invalid").__enter__()


def test_a_server_whose_key_is_not_known(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, _ = reach("ssh", request, tmp_path / "device", monkeypatch)
    text = request.getfixturevalue("ssh_config").read_text()
    (tmp_path / "config").write_text(re.sub("UserKnownHostsFile .*", "UserKnownHostsFile /dev/null", text))
    monkeypatch.setenv("D3D_EDGE_SSH_CONFIG", str(tmp_path / "config"))
    with pytest.raises(DeviceError, match=r"Host key verification failed. \(connect once by hand"):
        transports.get(name).__enter__()


def test_a_folder_that_may_not_be_written_to(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[str, bytes], File]
) -> None:
    reach("ssh", request, tmp_path / "device", monkeypatch)
    name = "ssh:device:/dev/null/a"
    with (
        transports.get(name) as transport,
        pytest.raises(DeviceError, match=f"^{name}: cannot use its folder /dev/null/a: mkdir: .*Not a directory"),
    ):
        transport.push([make("blobs/a", b"a")])


def test_a_login_that_prints_a_greeting(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[str, bytes], File]
) -> None:
    name, folder = reach("ssh", request, tmp_path / "device", monkeypatch)
    login = tmp_path / "login"
    login.write_text('#!/bin/sh\nprintf "Welcome! Disk 0 99%%"\nexec sh -c "$SSH_ORIGINAL_COMMAND"\n')
    login.chmod(0o700)
    server = tmp_path / "server"
    server.mkdir()
    there = make("blobs/there", b"copied by hand")
    (folder / "blobs").mkdir()
    (folder / there.name).write_bytes(b"copied by hand")
    with sshd.serving(server, f"ForceCommand {login}\n") as config:
        monkeypatch.setenv("D3D_EDGE_SSH_CONFIG", str(config))
        with transports.get(name) as transport:
            assert transport.push([there]) == 0
            # What is there is seen, and so is how much room there is; but scp's own program cannot be talked to.
            with pytest.raises(DeviceError, match=r"^ssh:device.*(does its login print something|\.bashrc)"):
                transport.push([make("blobs/a", b"a")])


def test_a_connection_that_the_user_wants_to_keep_ends_with_the_run(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[str, bytes], File]
) -> None:
    name, _ = reach("ssh", request, tmp_path / "device", monkeypatch)
    given = request.getfixturevalue("ssh_config").read_text()
    config = tmp_path / "config"
    config.write_text(f"{given}    ControlMaster auto\n    ControlPersist 600\n    ControlPath {tmp_path}/own\n")
    monkeypatch.setenv("D3D_EDGE_SSH_CONFIG", str(config))

    def connections(socket: str) -> list[bytes]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                found.append((process / "cmdline").read_bytes())
        return [words for words in found if socket.encode() in words]

    with transports.get(name) as transport:
        assert isinstance(transport, Ssh)
        assert transport.push([make("blobs/a", b"a")]) == 1
        assert connections(transport._scratch)
    assert not connections(transport._scratch)


def test_a_server_that_takes_no_key_of_ours(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reach("ssh", request, tmp_path / "device", monkeypatch)
    with pytest.raises(DeviceError, match=r"nobody@device cannot be reached: .*Permission denied.*ssh-copy-id"):
        transports.get("ssh:nobody@device").__enter__()


def test_a_server_that_goes_away(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[str, bytes], File]
) -> None:
    name, folder = reach("ssh", request, tmp_path / "device", monkeypatch)
    with transports.get(name) as transport:
        # The program ends the server's side of the connection, which started it.
        script = f"#!/bin/sh\n{LEADER}kill -s KILL $PPID\nsleep 600\n"
        transport.push([make(PROGRAM, script.encode())])
        with pytest.raises(DeviceError, match=rf"{re.escape(name)} cannot be reached"):
            transport.start(PROGRAM, [], folder=JOB, on_line=lambda line: None, silence_s=20)
    assert gone(int((folder / JOB / "pid").read_text()))


def test_a_host_that_is_killed_leaves_nothing_running(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[str, bytes], File]
) -> None:
    name, folder = reach("ssh", request, tmp_path / "device", monkeypatch)
    with transports.get(name) as transport:
        transport.push([make(PROGRAM, f"#!/bin/sh\n{LEADER}sleep 600 &\necho $!\nwait\n".encode())])
    host = (
        "import sys\nfrom d3d_edge import transports\nwith transports.get(sys.argv[1]) as device:\n"
        "    say = lambda line: print(line, flush=True)\n"
        f"    device.start({PROGRAM!r}, [], folder={JOB!r}, on_line=say, silence_s=60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", host, name], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        leader = int((folder / JOB / "pid").read_text())
        assert alive(child)
        process.kill()
    assert gone(child)
    assert gone(leader)


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
    ],
)
def test_a_phone_that_fails(
    device: Device, make: Callable[[str, bytes], File], monkeypatch: pytest.MonkeyPatch, said: str, message: str
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


@pytest.mark.parametrize(
    ("name", "tool"), [("ssh:somewhere", "ssh"), ("adb", "adb"), ("ios", r"xcrun is not installed .*on a Mac")]
)
def test_a_tool_that_is_not_installed_is_named(
    name: str, tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match=tool):
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
