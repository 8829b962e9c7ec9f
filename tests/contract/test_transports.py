"""The contract that every transport keeps: files arrive whole, a program's lines come back, and nothing is left behind.

The SSH server is a real one. Stand-ins answer as adb and devicectl do; no phone was at hand.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from d3d_edge import transports
from d3d_edge.errors import DeviceError, RecipeError
from d3d_edge.transports import File, shell, tool
from tests.contract.conftest import JOB, LEADER, PROGRAM, Device, Make, gone


def test_files_arrive_whole_and_once(device: Device, make: Make, tmp_path: Path) -> None:
    files = [make("blobs/a.clips", bytes(range(256)) * 999), make("blobs/b.onnx/weights.bin", b"\0\r\n$'\" \n")]
    sent = sum(file.path.stat().st_size for file in files)
    assert [device.transport.push(files), device.transport.push(files)] == [sent, 0]
    for file in files:
        device.transport.pull(file.name, tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == file.path.read_bytes()


def test_a_file_that_is_damaged_there_is_sent_again(device: Device, make: Make) -> None:
    file = make("blobs/a.clips", b"what is to be there")
    (device.folder / "blobs").mkdir()
    (device.folder / file.name).write_bytes(b"of the same length!")
    assert device.transport.push([file]) == 19
    assert (device.folder / file.name).read_bytes() == b"what is to be there"


def test_an_openssl_that_does_not_start_is_none(tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "openssl").write_text("#!/bin/sh\necho 'libssl.so.3: cannot open shared object file' >&2\nexit 127\n")
    (tools / "openssl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    with transports.get(f"local:{tmp_path}/device") as transport:
        assert [transport.push([make("blobs/a", b"a")]) for _ in range(2)] == [1, 0]


def test_more_files_than_fit_into_one_command(device: Device, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    there = [make(f"blobs/{number:0130}", str(number).encode()) for number in range(600)]  # 131072 bytes fit
    (device.folder / "blobs").mkdir(parents=True)
    for file in there:
        shutil.copy(file.path, device.folder / file.name)
    assert device.transport.push(there) == 0
    monkeypatch.setattr(shell, "_AT_ONCE", 2)
    new = [make(f"blobs/{name}", name.encode()) for name in "abcde"]
    assert device.transport.push(new) == 5
    assert all((device.folder / file.name).read_bytes() == file.path.read_bytes() for file in new)


@pytest.mark.parametrize("kind", ["local", "ssh", "adb"], indirect=True)
def test_what_another_run_reads_is_never_written_to(device: Device, make: Make) -> None:
    file = make("blobs/a.clips", b"what is to be there")
    (device.folder / "blobs").mkdir()
    (device.folder / file.name).write_bytes(b"of another")
    with (device.folder / file.name).open("rb") as opened:
        device.transport.push([file])
        assert opened.read() == b"of another"
    assert [path.name for path in (device.folder / "blobs").iterdir()] == ["a.clips"]


def test_a_file_that_arrives_otherwise_is_refused(device: Device, make: Make) -> None:
    file = make("blobs/a.clips", b"what is to be there")
    file.path.write_bytes(b"changed on the way!")
    with pytest.raises(DeviceError, match=f"{re.escape(device.transport.name)}.*did not arrive as it was sent"):
        device.transport.push([file])


@pytest.mark.parametrize("kind", ["local", "ssh", "adb"], indirect=True)
def test_a_link_that_is_too_slow_is_no_silent_device(
    device: Device, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(device.transport, shell.ShellDevice)
    monkeypatch.setattr(shell, "ANSWER_S", 3.0)
    monkeypatch.setattr(device.transport, "copy_there", lambda path, place: ["sleep", "60"])
    with pytest.raises(DeviceError, match=r"did not take \S+ \(0\.0 MB\) within 3 s .*link must carry 0\.1 MB/s"):
        device.transport.push([make("blobs/a.clips", b"a")])


@pytest.mark.parametrize("kind", ["local", "ssh", "adb"], indirect=True)
def test_a_large_file_may_be_as_long_in_coming_as_it_needs(
    device: Device, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, waited_s = tool.call, []

    def noting(command: Sequence[str], **options: Any) -> CompletedProcess[str]:
        waited_s.append(options["timeout_s"])
        return call(command, **options)

    monkeypatch.setattr(tool, "call", noting)
    for size_bytes, seconds in ((5_000_000, 50.0), (1, shell.ANSWER_S)):
        device.transport.push([make(f"blobs/{size_bytes}", bytes(size_bytes))])
        device.transport.pull(f"blobs/{size_bytes}", tmp_path / "back")
        assert waited_s[-1] == seconds


def test_a_program_gets_its_words_and_gives_its_lines(device: Device, make: Make) -> None:
    script = b'#!/bin/sh\nfor word in "$@"; do echo "<$word>"; done\necho trouble >&2\nexit 5\n'
    device.transport.push([make(PROGRAM, script)])
    lines: list[str] = []
    words = ["--shape", "4,16,16,3", "two words", "it's", '"$HOME"', "*"]
    ended = device.transport.start(PROGRAM, words, folder=JOB, on_line=lines.append, silence_s=20)
    assert lines == [f"<{word}>" for word in words]
    assert (ended.code, ended.errors.splitlines()[-1]) == (5, "trouble")


@pytest.mark.parametrize("last_words", ["", "Permission denied: /dev/nvhost-gpu"])
def test_a_program_that_is_killed_is_no_lost_device(device: Device, make: Make, last_words: str) -> None:
    script = f"#!/bin/sh\necho begun\n{f'echo {last_words} >&2' if last_words else ''}\nkill -s KILL $$\n"
    device.transport.push([make(PROGRAM, script.encode())])
    lines: list[str] = []
    ended = device.transport.start(PROGRAM, [], folder=JOB, on_line=lines.append, silence_s=20)
    assert lines == ["begun"]
    assert ended.code != 0
    assert last_words in ended.errors


def test_a_silent_program_is_ended_with_its_children(device: Device, make: Make) -> None:
    device.transport.push([make(PROGRAM, f"#!/bin/sh\n{LEADER}sleep 600 &\necho $!\nwait\n".encode())])
    lines: list[str] = []
    with pytest.raises(DeviceError, match=f"{re.escape(device.transport.name)} said nothing for 1 s.*--resume"):
        device.transport.start(PROGRAM, [], folder=JOB, on_line=lines.append, silence_s=1)
    assert gone(int(lines[0]))
    assert gone(int((device.folder / JOB / "pid").read_text()))


def test_an_interruption_ends_the_program_with_its_children(device: Device, make: Make) -> None:
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
    "name",
    [
        *("jetson", "ssh", "ssh:", "adb:", "local:", "tcp:host", "ssh:-oProxyCommand=x", "ssh:a:b c", "adb:-s"),
        *("ssh:@", "ssh:user@", "ssh:@host", "ssh:user@:folder"),
    ],
)
def test_what_is_no_device_is_refused_without_reaching_one(name: str) -> None:
    with pytest.raises(RecipeError):
        transports.get(name)


@pytest.mark.parametrize("name", ["ssh:[::1]", "ssh:nano@[fe80::1]:folder", "ssh:device:22", "ssh:nano@10.0.0.5:2222"])
def test_what_belongs_into_the_configuration_of_ssh_is_refused_with_its_name(name: str) -> None:
    with pytest.raises(RecipeError, match=r"~/\.ssh/config"):
        transports.get(name)


@pytest.mark.parametrize(
    ("name", "tool"), [("ssh:somewhere", "ssh"), ("adb", "adb"), ("ios", r"xcrun is not installed .*on a Mac")]
)
def test_a_tool_that_is_not_installed_is_named(
    name: str, tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match=tool):
        transports.get(name).__enter__()
