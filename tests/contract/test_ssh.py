"""SSH alone: servers that are not there, refuse us, talk too much or go away. The server is a real one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

from d3d_edge import transports
from d3d_edge.errors import DeviceError
from d3d_edge.transports import ssh
from d3d_edge.transports.ssh import Ssh
from tests import sshd
from tests.contract.conftest import JOB, LEADER, PROGRAM, Make, alive, gone
from tests.devices import reach


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


def configure(request: pytest.FixtureRequest, folder: Path, patch: pytest.MonkeyPatch, *lines: str) -> None:
    """Let the user's own configuration of ssh say more of the device."""
    config = folder / "config"
    config.write_text("\n    ".join([request.getfixturevalue("ssh_config").read_text().rstrip(), *lines]) + "\n")
    patch.setenv("D3D_EDGE_SSH_CONFIG", str(config))


def test_a_folder_that_may_not_be_written_to(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Make
) -> None:
    reach("ssh", request, tmp_path / "device", monkeypatch)
    name = "ssh:device:/dev/null/a"
    with (
        transports.get(name) as transport,
        pytest.raises(DeviceError, match=f"^{name}: cannot use its folder /dev/null/a: mkdir: .*Not a directory"),
    ):
        transport.push([make("blobs/a", b"a")])


def test_a_login_that_prints_a_greeting(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Make
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


def test_a_server_without_sftp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Make) -> None:
    server = tmp_path / "server"
    server.mkdir()
    with sshd.serving(server, sftp=False) as config:
        monkeypatch.setenv("D3D_EDGE_SSH_CONFIG", str(config))
        with (
            transports.get(f"ssh:{sshd.HOST}:{tmp_path}/device") as transport,
            pytest.raises(DeviceError, match=r"Connection closed \(.* and an SFTP server there"),
        ):
            transport.push([make("blobs/a", b"a")])


def test_what_a_person_runs_there_is_not_run(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Make
) -> None:
    name, folder = reach("ssh", request, tmp_path / "device", monkeypatch)
    command = f"RemoteCommand touch {tmp_path}/run && sleep 60"
    configure(request, tmp_path, monkeypatch, command, "RequestTTY yes")
    with transports.get(name) as transport:
        assert transport.push([make("blobs/a", b"a")]) == 1
    assert (folder / "blobs/a").read_bytes() == b"a"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("connection", "said"),
    [("exec sleep 60 <&- >&-", "the connection was lost .*same command again"), ("exec cat", r"\.bashrc")],
)
def test_a_copy_that_breaks_off_is_blamed_on_the_login_only_where_the_connection_holds(
    connection: str, said: str
) -> None:
    device = Ssh("ssh:device", "device")
    with subprocess.Popen(["sh", "-c", connection], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        device._master = process
        try:
            error = device.lost(255, "scp: Connection closed\n")
        finally:
            process.kill()
    assert re.search(f"ssh:device cannot be reached: .*{said}", str(error))


def test_a_connection_that_the_user_wants_to_keep_ends_with_the_run(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Make
) -> None:
    name, _ = reach("ssh", request, tmp_path / "device", monkeypatch)
    kept = ("ControlMaster auto", "ControlPersist 600", f"ControlPath {tmp_path}/own")
    configure(request, tmp_path, monkeypatch, *kept)

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
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Make
) -> None:
    name, folder = reach("ssh", request, tmp_path / "device", monkeypatch)
    with transports.get(name) as transport:
        # The program ends the server's side of the connection, which started it.
        script = f"#!/bin/sh\n{LEADER}kill -s KILL $PPID\nsleep 600\n"
        transport.push([make(PROGRAM, script.encode())])
        with pytest.raises(DeviceError, match=rf"{re.escape(name)} cannot be reached.*--resume"):
            transport.start(PROGRAM, [], folder=JOB, on_line=lambda line: None, silence_s=20)
    assert gone(int((folder / JOB / "pid").read_text()))


def stand_in_for_ssh(folder: Path, patch: pytest.MonkeyPatch, script: str) -> Path:
    """An ssh that runs `script`, first in the PATH, and a folder that stands in for /tmp."""
    tools, scratch = folder / "tools", folder / "scratch"
    for made in (tools, scratch):
        made.mkdir()
    for name in ("ssh", "scp"):
        (tools / name).write_text(f"#!/bin/sh\necho $$ > {folder}/pid\n{script}\n")
        (tools / name).chmod(0o755)
    patch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    make = tempfile.mkdtemp
    patch.setattr(tempfile, "mkdtemp", lambda **_: make(dir=scratch))
    return scratch


@pytest.mark.parametrize("script", ["exec yes", "while sleep 0.1; do echo welcome; done"], ids=["fast", "slow"])
def test_a_login_that_prints_without_an_end_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    scratch = stand_in_for_ssh(tmp_path, monkeypatch, script)
    monkeypatch.setattr(ssh, "_CONNECT_S", 0.5)
    with pytest.raises(DeviceError, match="ssh:device cannot be reached"):
        transports.get("ssh:device").__enter__()
    assert gone(int((tmp_path / "pid").read_text()))
    assert list(scratch.iterdir()) == []


def test_an_interruption_while_connecting_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = stand_in_for_ssh(tmp_path, monkeypatch, "echo welcome; exec sleep 600")

    def interrupted(transport: Ssh, timeout_s: float) -> bool:
        assert transport._master is not None
        assert transport._master.stdout is not None
        transport._master.stdout.readline()
        raise KeyboardInterrupt

    monkeypatch.setattr(Ssh, "_is_ready", interrupted)
    with pytest.raises(KeyboardInterrupt):
        transports.get("ssh:device").__enter__()
    assert gone(int((tmp_path / "pid").read_text()))
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("connection", ["exec sleep 60 <&- >&-", "exec cat >/dev/null"])
def test_a_connection_that_is_about_to_end_is_lost(connection: str) -> None:
    """For a moment, ssh's process still lives: it is the answer that counts."""
    device = Ssh("ssh:device", "device")
    with subprocess.Popen(["sh", "-c", connection], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        device._master = process
        try:
            assert device.lost(255, "") is not None
            assert process.poll() is None
        finally:
            process.kill()


def test_a_host_that_is_killed_leaves_nothing_running(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Make
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
