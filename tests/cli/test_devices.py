"""`--device`: the same bundle here and on a device, through the commands. The SSH server is a real one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from d3d_edge.harness import accuracy, stopwatch
from d3d_edge.pipeline.devices import Fleet
from d3d_edge.report import Report
from tests.cli.conftest import D3DEdge, Result, alone, ended, refused
from tests.contract.conftest import gone
from tests.devices import reach, small_disk


@pytest.fixture
def ssh(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    return reach("ssh", request, tmp_path / "device", monkeypatch)[0]


@pytest.mark.slow
def test_validate_here_and_over_ssh_in_one_report(
    made: Path, clips: Path, ssh: str, tmp_path: Path, d3d_edge: D3DEdge
) -> None:
    bundle = alone(made / "bundles" / "jetson", tmp_path / "bundles")
    words = ["validate", bundle, "--data", clips, "--out", tmp_path, "--threads", "1"]
    words += ["--device", "local", "--device", ssh]
    done = d3d_edge(*words)
    assert done.code == 0, done.err
    report = Report.read(tmp_path / "report.json")
    here, there = (row for row in report.rows if row.role == "bundle")
    assert (here.name, here.device, there.name, there.device) == ("jetson", "", "jetson on device", ssh)
    # No TensorRT there: the row says what ran, and is no measurement on a Jetson.
    assert here.where == there.where == "host runtime"
    assert there.runtime.startswith(f"{here.runtime} on ")
    assert "its times say nothing of the target's" in " ".join(done.out.split())
    # The same file by the same runtime: the same answers, to the last bit of each probability that is kept.
    assert there.answers == here.answers
    assert there.golden_difference_max == here.golden_difference_max
    assert there.samples is not None
    assert len(there.samples.network_ms) == there.latency.runs >= 10
    assert there.samples.memory_peak_bytes > 0
    # Both are held to the gates.
    assert {gate.row for gate in report.gates} == {here.name, there.name}


@pytest.mark.slow
def test_benchmark_over_ssh(made: Path, ssh: str, d3d_edge: D3DEdge) -> None:
    bundle = made / "bundles" / "jetson"
    done = d3d_edge("benchmark", bundle, "--runs", 12, "--device", ssh, "--device-runtime", "onnxruntime", "--json")
    assert done.code == 0, done.err
    (row,) = json.loads(done.out)["rows"]
    assert (row["name"], row["device"], row["latency"]["runs"]) == ("jetson on device", ssh, 12)


@pytest.mark.slow
def test_a_device_that_fails_in_the_middle_loses_none_of_the_other_times(
    made: Path, request: pytest.FixtureRequest, tmp_path: Path, d3d_edge: D3DEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = (reach("local", request, tmp_path / name, monkeypatch)[0] for name in ("bad", "good"))
    tried_out = Fleet.try_out

    def fails_from_then_on(*args: Any) -> None:
        tried_out(*args)
        (tmp_path / "bad" / "venv").unlink()
        python = tmp_path / "bad" / "venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text("#!/bin/sh\necho worn out >&2; exit 1\n")
        python.chmod(0o755)

    monkeypatch.setattr(Fleet, "try_out", fails_from_then_on)
    words = ["benchmark", made / "bundles" / "jetson", "--runs", 2, "--device", bad, "--device", good]
    done = d3d_edge(*words, "--out", tmp_path / "times.json")
    assert done.code == 7
    (line,) = (line for line in done.err.splitlines() if line.startswith("error: "))
    failed, timed = Report.read(tmp_path / "times.json").rows
    assert (failed.device, failed.samples, timed.device, timed.latency.runs) == (bad, None, good, 2)
    assert failed.note.endswith("its runner did not start: worn out (docs/devices.md)")
    assert failed.note in line
    assert f"{failed.name} was not timed: {failed.note}" in done.out


@pytest.mark.slow
def test_a_bundle_that_no_device_runs_is_told(made: Path, ssh: str, d3d_edge: D3DEdge) -> None:
    bundles = [made / "bundles" / name for name in ("jetson", "android")]
    done = d3d_edge("benchmark", *bundles, "--runs", 2, "--device", ssh)
    assert done.code == 0, done.err
    assert "android was not timed: none of the devices given runs it" in done.out
    assert "this machine" not in done.out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--device", "ssh:nowhere.invalid"], 7, "ssh:nowhere.invalid cannot be reached"),
        (["--device", "jetson"], 2, "no device can be meant by 'jetson'"),
        (["--device", "ios"], 2, "ios runs none of the bundles, which are for jetson"),
        (["--device", "local", "--device", "adb"], 2, "adb runs none of the bundles"),
    ],
)
def test_what_cannot_be_run_is_said_in_one_line(
    made: Path, clips: Path, ssh: str, d3d_edge: D3DEdge, words: list[str], code: int, message: str
) -> None:
    for command in (["validate", "--data", clips], ["benchmark"]):
        done = d3d_edge(command[0], made / "bundles" / "jetson", *command[1:], *words)
        assert (done.code, done.out) == (code, "")
        assert message in done.err
        assert len(done.err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("target", "words", "said"),
    [
        ("jetson", ["--device-runtime", "tensorrt"], "--device-runtime tensorrt is for the file of a Jetson's bundle"),
        ("android", ["--device-runtime", "onnxruntime", "--device", "local"], "--device-runtime onnxruntime is for"),
        ("ios", ["--device-runtime", "tensorrt", "--device", "ios"], "--device-runtime tensorrt is for"),
        ("jetson", ["--resume"], "--resume goes on with what was cut short on a device"),
    ],
)
def test_an_option_that_no_device_heeds_is_refused(
    made: Path, clips: Path, d3d_edge: D3DEdge, target: str, words: list[str], said: str
) -> None:
    commands = [["validate", "--data", clips], *([] if "--resume" in words else [["benchmark"]])]
    for command in commands:
        done = d3d_edge(command[0], made / "bundles" / target, *command[1:], *words)
        refused(done, 2, said, "leave it out, or name the device")


@pytest.mark.slow
def test_a_device_whose_disk_is_full_is_one_line_and_works_once_there_is_room(
    made: Path, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, d3d_edge: D3DEdge
) -> None:
    with small_disk(tmp_path / "device", "256k") as disk:
        name, _ = reach("ssh", request, disk.folder, monkeypatch)

        def timed() -> Result:
            return d3d_edge("benchmark", made / "bundles" / "jetson", "--runs", 2, "--device", name)

        def refused(said: str) -> None:
            done = timed()
            assert (done.code, done.out) == (7, "")
            (line,) = done.err.strip().splitlines()
            assert f"{name}: {said}" in line
            assert disk.processes() == []

        refused("not enough room: ")
        assert disk.files() == []
        disk.grow("64m")
        assert timed().code == 0
        # All is there, so nothing has to be sent, and the runner itself finds that it cannot write.
        disk.fill()
        refused(f"{disk.folder}: No space left on device")
        disk.empty()
        done = timed()
        assert done.code == 0, done.err


@pytest.mark.slow
@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_command_that_is_asked_to_end_leaves_nothing_running(
    made: Path, ssh: str, tmp_path: Path, number: signal.Signals
) -> None:
    words = ["benchmark", made / "bundles" / "jetson", "--runs", "1000000", "--device", ssh]
    command = [sys.executable, "-m", "d3d_edge", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while (leader := running(tmp_path / "device", "1000000")) is None:
            assert process.poll() is None
            time.sleep(0.05)
        folders = connections()
        process.send_signal(number)
        out, errors = ended(process)
    assert (process.returncode, out) == (128 + number, "")
    assert len([line for line in errors.splitlines() if line.startswith("error: ")]) == 1
    assert gone(leader)
    assert folders
    assert connections() == set()
    assert not any(folder.exists() for folder in folders)


def running(device: Path, word: str) -> int | None:
    """The process of a runner that `device` has been given `word` for."""
    for file in device.glob("jobs/*/pid"):
        with suppress(OSError, ValueError):  # it has ended, or is about to begin
            process = int(file.read_text())
            if word in Path(f"/proc/{process}/cmdline").read_text().split("\0"):
                return process
    return None


def connections() -> set[Path]:
    """Folders of the connections that processes of this test hold."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_text().split("\0")
            if os.environ["D3D_EDGE_SSH_CONFIG"] in words:
                found |= {Path(word.partition("=")[2]).parent for word in words if word.startswith("ControlPath=")}
    return found


@pytest.mark.slow
def test_a_device_that_lacks_something_is_told_before_anything_is_measured(
    made: Path, clips: Path, ssh: str, tmp_path: Path, d3d_edge: D3DEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(stopwatch, "take", measured)
    monkeypatch.setattr(accuracy, "logits_of", measured)
    words = ["--device", "local", "--device", ssh, "--device-runtime", "tensorrt"]
    for command in (["benchmark"], ["validate", "--data", clips, "--out", tmp_path / "out"]):
        done = d3d_edge(command[0], made / "bundles" / "jetson", *command[1:], *words)
        refused(done, 7, "cannot import tensorrt, which comes with JetPack")
