"""`--device adb`: the bench program of targets/android, built for this machine, behind a stand-in for adb."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from d3d_edge import resources
from d3d_edge.report import Report
from d3d_edge.transports import tool
from tests.cli.conftest import D3DEdge, alone, once
from tests.devices import build_android_bench, call_android_bench, reach, small_disk


def test_a_bench_program_that_is_not_built_is_said_before_anything_else(
    made: Path, clips: Path, d3d_edge: D3DEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("D3D_EDGE_ANDROID_BENCH", "nowhere")
    done = d3d_edge("validate", made / "bundles" / "android", "--data", clips, "--device", "adb")
    assert done.code == 7
    assert "not at nowhere (targets/android/bench/README.md says how to build it" in done.err


EXECUTORCH = """
file(WRITE "${CMAKE_BINARY_DIR}/kernels" "${EXECUTORCH_BUILD_KERNELS_OPTIMIZED} ${EXECUTORCH_BUILD_KERNELS_QUANTIZED}")
add_library(executorch INTERFACE)
foreach(name backends extensions kernels)
  add_library(executorch_${name} INTERFACE)
  add_library(executorch::${name} ALIAS executorch_${name})
endforeach()
"""
"""Stands in for a checkout: the targets that the bench program links, and what it was asked to put into them."""


def test_the_bench_program_is_built_with_the_kernels_that_export_counts_on(tmp_path: Path) -> None:
    cmake = shutil.which("cmake") or pytest.skip("no CMake on this machine (Debian: apt install cmake g++)")
    checkout = tmp_path / "executorch"
    checkout.mkdir()
    (checkout / "version.txt").write_text("1.4.1\n")
    (checkout / "CMakeLists.txt").write_text(EXECUTORCH)
    sources = resources.root("targets") / "android" / "bench"
    command = [cmake, "-S", sources, "-B", tmp_path / "build", f"-DEXECUTORCH_SOURCE={checkout}"]
    subprocess.run(command, check=True, capture_output=True)
    assert (tmp_path / "build" / "kernels").read_text() == "ON ON"


@pytest.fixture(scope="module")
def bench(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bench program of targets/android, for this machine."""
    program = tmp_path_factory.mktemp("bench") / "d3d-edge-bench"
    call_android_bench(once(shared / "bench", build_android_bench) / "libbench.so", program)
    return program


@pytest.fixture
def phone(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Path) -> Path:
    """The folder of a phone that a stand-in for adb reaches, which runs the real bench program."""
    monkeypatch.setenv("D3D_EDGE_ANDROID_BENCH", str(bench))
    return reach("adb", request, tmp_path / "device", monkeypatch)[1]


@pytest.mark.slow
def test_validate_here_and_over_adb(made: Path, clips: Path, phone: Path, tmp_path: Path, d3d_edge: D3DEdge) -> None:
    bundle = alone(made / "bundles" / "android", tmp_path / "bundles")
    words = ["validate", bundle, "--data", clips, "--out", tmp_path, "--threads", "1", "--device", "adb"]
    done = d3d_edge(*words, "--device", "local")
    assert done.code == 0, done.err
    there, here = (row for row in Report.read(tmp_path / "report.json").rows if row.role == "bundle")
    assert (there.name, there.device) == ("android on adb", "adb")
    assert there.runtime.startswith(f"{here.runtime} on ")
    assert there.where == "host runtime"  # the program says that it does not run on Android
    assert there.answers == here.answers
    assert there.golden_difference_max == here.golden_difference_max
    assert there.samples is not None
    assert (there.samples.build, there.samples.threads) == ("release", 1)
    results = max(phone.glob("jobs/*/results.jsonl"), key=lambda path: path.stat().st_size)  # the other tried it out
    whole = results.read_bytes().splitlines(keepends=True)
    results.write_bytes(b"".join(whole[:-2]) + whole[-2][:9])
    again = d3d_edge(*words, "--resume", "--json")
    assert again.code == 0, again.err
    resumed = json.loads(again.out)["rows"][-1]
    assert resumed["answers"] == there.answers.model_dump(mode="json")
    kept, count = len(whole) - 3, len(whole) - 1  # the first line says what ran, the last two are gone
    time = there.samples.environment_before.time
    assert resumed["note"] == f"its times, and the logits of {kept} of {count} clips, are of an earlier run, {time}"
    assert not there.note
    results.write_bytes(whole[0])  # as if it had been killed before the first clip was done
    (anew,) = (row for row in json.loads(d3d_edge(*words, "--resume", "--json").out)["rows"] if row["device"])
    assert not anew["note"]
    assert anew["samples"]["environment_before"]["time"] > time
    assert results.read_bytes().splitlines(keepends=True) == whole


# What the services of Android print, in the words and the order of versions 10 and 14.
ANDROID_10 = {
    "battery": """Current Battery Service state:
  AC powered: false
  USB powered: true
  Wireless powered: false
  Max charging current: 500000
  Charge counter: 2448000
  status: 2
  health: 2
  present: true
  level: 87
  scale: 100
  voltage: 4246
  temperature: 301
  technology: Li-ion""",
    "thermalservice": "Can't find service: thermalservice",
}
ANDROID_14 = {
    "battery": """Current Battery Service state:
  AC powered: false
  USB powered: false
  Wireless powered: false
  Dock powered: false
  Max charging current: 0
  Time when the latest updated value of the voltage was sent via battery changed broadcast: 120
  Charge counter: 4410000
  status: 3
  present: true
  level: 9
  scale: 100
  voltage: 3712
  temperature: 384
  technology: Li-ion
  Charging state: 0
  Capacity level: -1""",
    "thermalservice": """IsStatusOverride: false
ThermalEventListeners:
\tcallbacks: 2
\tkilled: false
ThermalStatusListeners:
\tcallbacks: 5
Thermal Status: 3
Cached temperatures:
\tTemperature{mValue=44.1, mType=3, mName=SKIN, mStatus=3}
HAL Ready: true""",
}


DENIED = dict.fromkeys(ANDROID_14, "Permission Denial: can't dump it from pid=7, uid=2000")
ODD = {"battery": "  level: unknown\n  temperature: 310\n  USB powered: maybe", "thermalservice": ""}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("says", "percent", "charging", "celsius", "throttling"),
    [
        (ANDROID_10, 87, True, 30.1, None),
        (ANDROID_14, 9, False, 38.4, "3"),
        (DENIED, None, None, None, None),
        (ODD, None, None, 31.0, None),
        ({"battery": "  level: 1e30\n  temperature: 99999999999999", "thermalservice": ""}, None, None, None, None),
        ({name: said.replace("\n", "\r\n") for name, said in ANDROID_14.items()}, 9, False, 38.4, "3"),
    ],
    ids=[
        "Android 10",
        "Android 14",
        "what is denied is left out",
        "what is no number is left out",
        "too large",
        "CRLF",
    ],
)
def test_what_a_phone_says_of_itself_is_in_the_report(
    made: Path,
    phone: Path,
    d3d_edge: D3DEdge,
    says: dict[str, str],
    percent: int | None,
    charging: bool | None,
    celsius: float | None,
    throttling: str | None,
) -> None:
    for service, said in says.items():
        (phone / service).write_text(said)
    (phone / "dumpsys").write_text('#!/bin/sh\ncat "$1"\n')
    (phone / "dumpsys").chmod(0o700)
    done = d3d_edge("benchmark", made / "bundles" / "android", "--runs", 1, "--device", "adb", "--json")
    assert done.code == 0, done.err
    (row,) = json.loads(done.out)["rows"]
    for side in ("environment_before", "environment_after"):
        found = row["samples"][side]
        assert (found["battery_percent"], found["charging"], found["thermal_status"]) == (percent, charging, throttling)
        assert found["temperature_c"].get("battery") == (celsius and pytest.approx(celsius))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        (["--protocol", "2", "--later"], "protocol", "this runner speaks protocol 1, not 2"),
        ([], "protocol", "this runner speaks protocol 1, not an unnamed one"),
        (["--protocol", "1", "--later"], "usage", "unknown argument --later"),
        (["--protocol", "1", "--runs", "x"], "usage", "not a number: x"),
        (["--model", "none"], "input", "none: No such file or directory"),
        (["--clips", "pack=3"], "input", "pack has 8 bytes, 12 are expected"),
        (["--model", "pack"], "model", "cannot load the model: ExecuTorch error 18"),
        (["--out", "/dev/null/job"], "storage", "/dev/null/job: Not a directory"),
    ],
)
def test_the_bench_program_says_what_is_wrong(
    bench: Path, made: Path, tmp_path: Path, words: list[str], kind: str, message: str
) -> None:
    (tmp_path / "pack").write_bytes(b"notclips")
    model = made / "bundles" / "android" / "model.pte"
    whole = ["--protocol", "1", "--model", model, "--shape", "1,2,2,3", "--clips", "pack=1", "--out", "job"]
    command = [sys.executable, bench, *(() if not words or words[0] == "--protocol" else whole), *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert json.loads(done.stdout.splitlines()[-1]) == {"event": "error", "kind": kind, "message": message}


def small_job(made: Path, folder: Path) -> list[str]:
    """Words for the bench program, in `folder`: two clips, timed as briefly as can be."""
    (folder / "pack").write_bytes(np.load(made / "bundles" / "android" / "golden" / "clips.npy").tobytes())
    words = ["--protocol", "1", "--model", str(made / "bundles" / "android" / "model.pte"), "--shape", "4,32,32,3"]
    words += ["--classes", "10", "--clips", "pack=2"]
    return [*words, "--warmup", "1", "--runs", "1", "--min-runs", "1"]


class HeardEnoughError(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize(
    "endless", [["--warmup"], ["--runs", "--min-runs"], ["--sustained-s"]], ids=lambda words: words[0]
)
def test_the_bench_program_says_that_it_is_alive_however_long_it_measures(
    bench: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endless: list[str]
) -> None:
    """The host gives up one that says nothing, so one that is well must speak in every part of the measurement."""
    monkeypatch.chdir(tmp_path)
    words = [*small_job(made, tmp_path), "--out", "job"]
    for name in endless:
        words += [name, "1000000000"]
    events: list[str] = []

    def hear(line: str) -> None:
        events.append(json.loads(line)["event"])
        if events[-3:] == ["alive"] * 3:  # the first of them after loading
            raise HeardEnoughError

    with pytest.raises(HeardEnoughError):
        tool.stream([sys.executable, str(bench), *words], device="bench", on_line=hear, silence_s=20)
    assert events == ["hello", "clips", *["alive"] * 3]


@pytest.mark.slow
def test_the_bench_program_says_that_it_is_alive_once_the_model_is_loaded(
    bench: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    events: list[str] = []
    words = [sys.executable, str(bench), *small_job(made, tmp_path), "--out", "job"]
    tool.stream(words, device="bench", on_line=lambda line: events.append(json.loads(line)["event"]), silence_s=20)
    assert (events[:3], events[-1]) == (["hello", "clips", "alive"], "done")


@pytest.mark.slow
def test_the_bench_program_on_a_full_disk_ends_and_works_once_there_is_room(
    bench: Path, made: Path, tmp_path: Path
) -> None:
    words = [*small_job(made, tmp_path), "--out", "disk/job"]

    def said() -> dict[str, str]:
        done = subprocess.run(
            [sys.executable, bench, *words], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
        )
        event = json.loads(done.stdout.splitlines()[-1])
        assert done.returncode == (event["event"] == "error")
        return dict(event)

    with small_disk(tmp_path / "disk", "256k") as disk:
        disk.fill()
        event = said()
        assert (event["kind"], event["message"].partition(": ")[2]) == ("disk_full", "No space left on device")
        disk.empty()
        assert said() == {"event": "done"}
