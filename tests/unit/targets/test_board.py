"""What the Jetson's runner reads of its board, and when it builds an engine anew. Files stand in for a board."""

from __future__ import annotations

import io
import json
import mmap
import os
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from d3d_edge import resources
from d3d_edge.timing import Conditions
from tests.devices import small_disk

# Names and numbers as an Orin Nano gives them.
FILES = {
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
    "proc/loadavg": "0.52 0.48 0.40 1/512 4242\n",
    "proc/meminfo": "MemTotal: 7802924 kB\nMemFree: 1 kB\nMemAvailable: 5120000 kB\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1510400\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "729600\n",
    "sys/class/devfreq/17000000.gpu/cur_freq": "624750000\n",
    "sys/class/devfreq/15340000.vic/cur_freq": "1\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "46187\n",
    "sys/class/thermal/thermal_zone1/type": "cv0-thermal\n",
    "sys/class/hwmon/hwmon1/in1_label": "VDD_IN\n",
    "sys/class/hwmon/hwmon1/in1_input": "5072\n",
    "sys/class/hwmon/hwmon1/curr1_input": "912\n",
    "sys/class/hwmon/hwmon1/in7_label": "sum of shunt voltages\n",
    "var/lib/nvpmodel/status": "pmode:0002\n",
}


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The runner's modules, imported here for once."""
    monkeypatch.syspath_prepend(resources.root("targets") / "jetson" / "runner")
    for name in [name for name in sys.modules if name.startswith("d3d_edge_runner")]:
        monkeypatch.delitem(sys.modules, name)
    from d3d_edge_runner import __main__, board, errors, job, tensorrt_model

    return SimpleNamespace(main=__main__, board=board, errors=errors, job=job, tensorrt=tensorrt_model)


@pytest.fixture
def jetson(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_jetson_is_read_as_the_report_names_it(runner: Any, jetson: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")  # no nvpmodel: its file is read
    found = Conditions.model_validate(runner.board.state(jetson))
    assert found.time.endswith("+00:00")
    assert (found.load_average, found.governor, found.power_mode) == (0.52, "schedutil", "pmode:0002")
    assert (found.clock_mhz, found.gpu_clock_mhz) == ((1510.4, 729.6), 624.75)
    assert (found.temperature_c, found.rail_mw) == ({"cpu-thermal": 46.187}, {"VDD_IN": pytest.approx(4625.664)})
    assert found.memory_available_bytes == 5120000 * 1024
    assert "NVIDIA Jetson Orin Nano Developer Kit" in runner.board.describe(jetson)


# As JetPack 6 says it, as JetPack 5 does where fans have modes, where nothing was set, and to who may not ask.
@pytest.mark.parametrize(
    ("said", "mode"),
    [
        ("NV Power Mode: MAXN_SUPER\\n2", "MAXN_SUPER"),
        ("NV Fan Mode:cool\\nNV Power Mode: MODE_30W_4CORE\\n5", "MODE_30W_4CORE"),
        ("NV Power Mode: 15W\\n0", "15W"),
        ("NVPM WARN: power mode is not set!", "pmode:0002"),
        ("NVPM ERROR: Error opening /var/lib/nvpmodel/status: 13", "pmode:0002"),
    ],
)
def test_nvpmodel_is_asked_where_it_is(
    runner: Any, jetson: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, mode: str
) -> None:
    tool = tmp_path / "nvpmodel"
    tool.write_text(f"#!/bin/sh\nprintf '{said}\\n'\n")
    tool.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    # What the fan does is no other mode, or an engine would be built anew for it.
    (jetson / "var/lib/nvpmodel/status").write_text("pmode:0002 fmode:quiet")
    assert runner.board.power_mode(jetson) == mode


def test_others_are_those_outside_the_runner(runner: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "proc").mkdir()
    clock, own = iter([100.0, 110.0]), iter([1.0, 9.0])
    monkeypatch.setattr(runner.board.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(runner.board.time, "process_time", lambda: next(own))
    monkeypatch.setattr(runner.board.os, "sysconf", lambda name: 100)
    stat = tmp_path / "proc/stat"
    stat.write_text("cpu  1000 0 100 5000 10 0 0 0 50 0\ncpu0 1 0 1 1 1 0 0 0 0 0\n")
    watch = runner.board.Watch(tmp_path)
    stat.write_text("cpu  1900 100 200 9000 99 10 10 80 90 0\n")  # 12 s of work, of which 8 are the runner's own
    assert watch.found() == {"others_cpus": 0.4, "cpus": os.cpu_count()}
    stat.unlink()
    assert runner.board.Watch(tmp_path).found() == {}


def test_a_machine_that_says_little_is_no_error(runner: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert runner.board.state(tmp_path).keys() == {"time"}
    assert runner.board.describe(tmp_path).endswith(f", {os.uname().machine})")


@pytest.fixture
def built(runner: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The ONNX files that an engine was built of; TensorRT, its builder and the GPU are stood in for."""
    exception = ModuleType("polygraphy.exception")
    exception.PolygraphyException = type("PolygraphyException", (Exception,), {})  # type: ignore[attr-defined]
    polygraphy, backend = ModuleType("polygraphy"), SimpleNamespace(TrtRunner=Engine, engine_from_bytes=bytes)
    polygraphy.__version__ = "0.49"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "polygraphy", polygraphy)
    monkeypatch.setitem(sys.modules, "polygraphy.backend.trt", backend)
    monkeypatch.setitem(sys.modules, "polygraphy.exception", exception)
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="10.3.0"))
    monkeypatch.setattr(runner.tensorrt, "gpu", lambda: "Orin (compute 8.7)")
    monkeypatch.setattr(runner.board, "power_mode", lambda *root: "15W")
    files: list[Path] = []
    monkeypatch.setattr(runner.tensorrt, "_build", lambda path: files.append(path) or b"engine")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.onnx").write_bytes(b"a")
    return files


class Engine:
    """What Polygraphy's TrtRunner is asked for."""

    def __init__(self, engine: bytes) -> None:
        assert engine == b"engine"

    def activate(self) -> None:
        # Pages of its own, not those that other tests freed, and some more than are asked for: Linux counts them late.
        self.kept = mmap.mmap(-1, 2**25 + 2**22)
        self.kept[::4096] = bytes(len(self.kept) // 4096)

    def get_input_metadata(self) -> list[str]:
        return ["clip"]

    def infer(self, given: dict[str, Any], check_inputs: bool) -> dict[str, Any]:
        return {"logits": given["clip"].reshape(1, 3).astype("float32")}

    def deactivate(self) -> None: ...


def test_an_engine_is_built_once_and_anew_when_something_changes(
    runner: Any, built: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Path("a.onnx")

    def builds() -> int:
        before = len(built)
        runner.tensorrt.prepare(model)
        return len(built) - before

    assert [builds(), builds()] == [1, 0]
    monkeypatch.setattr(runner.board, "power_mode", lambda: "MAXN")
    assert [builds(), builds()] == [1, 0]
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="10.7.0"))
    assert [builds(), builds()] == [1, 0]
    monkeypatch.setattr(runner.tensorrt, "gpu", lambda: "Thor (compute 11.0)")
    assert [builds(), builds()] == [1, 0]
    model.write_bytes(b"b")
    assert [builds(), builds()] == [1, 0]
    monkeypatch.setattr(runner.board, "power_mode", lambda: "15W")
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="10.3.0"))
    monkeypatch.setattr(runner.tensorrt, "gpu", lambda: "Orin (compute 8.7)")
    model.write_bytes(b"a")
    assert builds() == 0, "the first engine is still there"


def test_tensorrt_runs_with_no_number_of_threads_whatever_was_asked_for(runner: Any, built: list[Path]) -> None:
    assert samples_of(runner, "--threads", "4")["threads"] == 0


def test_what_building_and_finding_an_engine_takes_is_none_of_the_models(
    runner: Any, built: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    if runner.main.timing.memory_peak_from_now() is None:
        pytest.skip("this system lets no process forget its peak of memory")
    state = runner.board.state
    monkeypatch.setattr(runner.board, "state", lambda: {**state(), "engines_built": len(built)})
    monkeypatch.setattr(runner.board, "power_mode", lambda *root: time.sleep(0.3))
    monkeypatch.setattr(runner.tensorrt, "_build", lambda path: built.append(path) or (b"x" * 2**28)[:0] + b"engine")
    for _ in ("built", "found"):
        samples = samples_of(runner)
        assert 2**25 <= samples["memory_peak_bytes"] < 2**27
        assert samples["load_ms"] < 300
        assert samples["environment_before"]["engines_built"] == 1
    assert len(built) == 1


def test_memory_not_counted_yet_is_unknown(runner: Any, built: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner.main.timing, "memory_peak_from_now", lambda: 2**40)
    assert "memory_peak_bytes" not in samples_of(runner)


def samples_of(runner: Any, *words: str) -> dict[str, Any]:
    """Of a run of the engine of a.onnx."""
    Path("pack").write_bytes(b"abc")
    job = "--protocol 1 --runtime tensorrt --model a.onnx --shape 1,1,1,3 --classes 3 --clips pack=1 --out ."
    runner.main._run(runner.job.parse([*job.split(), *words]), runner.main.Events(io.StringIO()))
    samples: dict[str, Any] = json.loads(Path("samples.json").read_text())
    return samples


def test_an_engine_whose_building_fails_leaves_nothing(
    runner: Any, built: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path) -> bytes:
        raise sys.modules["polygraphy.exception"].PolygraphyException("no tactic\nmore")

    monkeypatch.setattr(runner.tensorrt, "_build", refused)
    with pytest.raises(runner.errors.RunnerError, match=r"^TensorRT cannot build the engine: no tactic$"):
        runner.tensorrt.prepare(Path("a.onnx"))
    assert not list(Path().glob("engines/*"))


def test_an_engine_that_the_disk_has_no_room_for_leaves_nothing_and_is_built_once_there_is(
    runner: Any, built: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = bytes(2**20)
    monkeypatch.setattr(runner.tensorrt, "_build", lambda path: built.append(path) or engine)
    with small_disk(tmp_path / "disk", "256k") as disk:
        monkeypatch.chdir(disk.folder)
        Path("a.onnx").write_bytes(b"a")
        with pytest.raises(OSError, match="No space left on device") as full:
            runner.tensorrt.prepare(Path("a.onnx"))
        told = runner.errors.of_os_error(full.value)  # as the runner does
        assert (told.kind, str(told)) == ("disk_full", f"{disk.folder}: No space left on device")
        assert disk.files() == ["a.onnx"]
        disk.grow("4m")
        runner.tensorrt.prepare(Path("a.onnx"))
        assert runner.tensorrt.engine_path(Path("a.onnx")).read_bytes() == engine
        monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (SimpleNamespace(), "which comes with JetPack"),  # a package of type stubs can be imported, too
        (SimpleNamespace(__version__="8.6.1"), "TensorRT 8.6.1 is too old"),
        (SimpleNamespace(__version__="10.3.0"), "Polygraphy is missing: pip install polygraphy"),
    ],
)
def test_a_tensorrt_that_will_not_do_is_refused(
    runner: Any, monkeypatch: pytest.MonkeyPatch, module: SimpleNamespace, message: str
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setitem(sys.modules, "polygraphy", None)
    with pytest.raises(runner.errors.RunnerError, match=message):
        runner.tensorrt.version()
