"""The Python runner of targets/jetson, run as on a device but by ONNX Runtime: TensorRT needs NVIDIA's hardware."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from d3d_edge import resources
from d3d_edge.errors import DeviceError
from d3d_edge.harness import device as harness
from d3d_edge.pipeline.devices import _RUNNER_MAIN
from d3d_edge.transports import Transport
from tests.unit.targets.conftest import MakeJob

RUNNER = resources.root("targets") / "jetson" / "runner"
SOURCES = sorted((RUNNER / "d3d_edge_runner").glob("*.py"))


def expected(clips: int) -> np.ndarray:
    return np.arange(clips, dtype=np.float32)[:, None] * np.array([1, 2, 3], np.float32)


def run(transport: Transport, job: harness.Job, *, resume: bool = False, on_clip=lambda done: None) -> harness.Outcome:
    return harness.run(transport, job, resume=resume, on_clip=on_clip)


def results(folder: Path, job: harness.Job) -> Path:
    return folder / job.folder / harness.RESULTS


def test_logits_and_raw_times_come_back(device: Transport, make_job: MakeJob) -> None:
    seen: list[int] = []
    came = run(device, make_job(), on_clip=seen.append)
    assert np.array_equal(came.logits, expected(6))
    assert came.runtime.startswith("onnxruntime ")
    assert not came.native
    assert os.uname().machine in came.device
    assert (seen[0], seen[-1], came.ran) == (0, 6, 6)
    samples = came.samples
    assert (len(samples.warmup_ms), len(samples.network_ms), samples.threads) == (1, 2, 1)
    assert min(samples.load_ms, samples.first_ms, *samples.warmup_ms, *samples.network_ms) > 0
    assert samples.memory_peak_bytes is not None
    assert 2**20 < samples.memory_peak_bytes < 2**31
    assert samples.environment_before.time <= samples.environment_after.time
    assert samples.environment_before.memory_available_bytes
    assert samples.environment_before.cpus == samples.environment_after.cpus == os.cpu_count()
    assert min(samples.environment_before.others_cpus, samples.environment_after.others_cpus) >= 0


def test_running_without_a_pause_is_sampled_on_request(device: Transport, make_job: MakeJob) -> None:
    job = make_job(1)
    sustained = run(device, replace(job, timing={**job.timing, "sustained-s": 0.3})).samples.sustained
    assert sustained is not None
    assert len(sustained.at_s) == len(sustained.network_ms) > 1
    assert sustained.at_s[-1] <= 0.3


def test_a_runner_killed_in_mid_run_goes_on_where_it_was(device: Transport, folder: Path, make_job: MakeJob) -> None:
    job = make_job(60)

    def kill(done: int) -> None:
        if done:
            os.killpg(int((folder / job.folder / "pid").read_text()), signal.SIGKILL)

    with pytest.raises(DeviceError, match=r"the runner was ended after \d+ of 60 clips .*run the same command again"):
        run(device, job, on_clip=kill)
    left = results(folder, job).read_bytes()
    done = left.count(b"\n") - 1
    assert 0 < done < 60
    times = (folder / job.folder / harness.SAMPLES).read_bytes()
    # A device that lost power in mid-write leaves a torn line, too.
    results(folder, job).write_bytes(left[: left.rfind(b"\n") + 1] + b'{"clip": 59, "log')
    seen: list[int] = []
    came = run(device, job, resume=True, on_clip=seen.append)
    assert np.array_equal(came.logits, expected(60))
    assert (seen[0], came.ran) == (done, 60 - done)
    assert results(folder, job).read_bytes().startswith(left[: left.rfind(b"\n") + 1])
    assert (folder / job.folder / harness.SAMPLES).read_bytes() == times


def test_what_is_done_is_not_run_again(device: Transport, folder: Path, make_job: MakeJob) -> None:
    job = make_job()
    run(device, job)
    before = results(folder, job).stat().st_mtime_ns
    assert run(device, job, resume=True).ran == 0
    assert results(folder, job).stat().st_mtime_ns == before
    assert run(device, job).ran == 6


def test_times_are_kept_with_clips_alone(device: Transport, folder: Path, make_job: MakeJob) -> None:
    """So that whoever is told of old clips knows of old times."""
    job = make_job()
    first = run(device, job)
    results(folder, job).write_bytes(results(folder, job).read_bytes().splitlines(keepends=True)[0])
    again = run(device, job, resume=True)
    assert again.ran == 6
    assert again.samples.network_ms != first.samples.network_ms
    assert run(device, job, resume=True).samples == again.samples


def test_answers_of_another_version_of_the_runtime_are_not_kept(
    device: Transport, folder: Path, make_job: MakeJob
) -> None:
    job = make_job()
    run(device, job)
    text = results(folder, job).read_text()
    results(folder, job).write_text(text.replace("onnxruntime ", "onnxruntime 0."))
    assert run(device, job, resume=True).ran == 6


def test_an_interrupted_host_leaves_nothing_running(device: Transport, folder: Path, make_job: MakeJob) -> None:
    job = make_job(60)
    process = 0

    def interrupt(done: int) -> None:
        nonlocal process
        if done:
            process = int((folder / job.folder / "pid").read_text())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(device, job, on_clip=interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    assert run(device, job, resume=True).ran < 60


def test_a_runner_ends_with_its_input(folder: Path, device: Transport, make_job: MakeJob) -> None:
    """A host that dies cannot end the runner; the connection that breaks does."""
    job = make_job(200)
    device.push([*job.program.files, *job.files, *(pack for pack, _ in job.clips)])
    command = [sys.executable, job.program.name, *job.words(), "--out", job.folder, "--watch-stdin"]
    process = subprocess.Popen(
        command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    while json.loads(process.stdout.readline()) != {"event": "clips", "done": 0, "total": 200}:
        pass
    process.stdin.close()
    assert process.wait(timeout=30) == 3
    process.stdout.close()


def test_a_second_host_is_refused_and_spoils_nothing(device: Transport, folder: Path, make_job: MakeJob) -> None:
    job, refused = make_job(20), []

    def another_host(done: int) -> None:
        if not refused:
            first = int((folder / job.folder / "pid").read_text())
            os.killpg(first, signal.SIGSTOP)  # it would be done before the second is there
            for other in (job, replace(job, threads=2)):  # whatever that runs, it would spoil the times
                with pytest.raises(DeviceError, match=r"another run is going on on this device \(wait for") as error:
                    run(device, other)
                refused.append(error)
            os.killpg(first, signal.SIGCONT)

    came = run(device, job, on_clip=another_host)
    assert refused
    assert np.array_equal(came.logits, expected(20))
    run(device, job)


@pytest.mark.parametrize("name", [harness.RESULTS, harness.SAMPLES, harness.RUN])
def test_results_of_a_second_host_that_came_before_the_copy_are_not_ours(
    device: Transport, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    job, pull = make_job(), device.pull

    def late(there: str, path: Path) -> None:
        if there.endswith(name):
            monkeypatch.setattr(device, "pull", pull)
            run(device, job)
        pull(there, path)

    monkeypatch.setattr(device, "pull", late)
    with pytest.raises(DeviceError, match=r"another run took the device .*run the same command again"):
        run(device, job)


@pytest.mark.parametrize(
    ("version", "numpy", "message"),
    [
        ((3, 6, 9), np, r"Python 3\.8 or newer is needed, .* is 3\.6"),
        ((3, 8, 10), None, "numpy is missing: pip install"),
    ],
)
def test_a_python_that_will_not_do_is_refused(
    monkeypatch: pytest.MonkeyPatch, version: tuple[int, ...], numpy: object, message: str
) -> None:
    begin = ast.parse(_RUNNER_MAIN, feature_version=(3, 4))
    monkeypatch.setitem(sys.modules, "numpy", numpy)
    monkeypatch.setattr(sys, "version_info", version)
    with pytest.raises(SystemExit, match=message):
        exec(compile(begin, "__main__.py", "exec"), {})


def test_a_full_disk_of_the_device(device: Transport, folder: Path, make_job: MakeJob) -> None:
    job = make_job()
    results(folder, job).parent.mkdir(parents=True)
    results(folder, job).symlink_to("/dev/full")
    with pytest.raises(DeviceError, match=r"No space left on device .*make room there"):
        run(device, job)


def test_a_model_that_cannot_be_loaded(device: Transport, make_job: MakeJob, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not ONNX")
    with pytest.raises(DeviceError, match="ONNX Runtime cannot load the model"):
        run(device, make_job(model=broken))


def test_a_runtime_that_is_not_there(device: Transport, make_job: MakeJob) -> None:
    with pytest.raises(DeviceError, match=r"cannot import tensorrt, which comes with JetPack .*docs/devices.md"):
        run(device, make_job(words=("--runtime", "tensorrt")))


@pytest.mark.parametrize("protocol", [0, 2])
def test_an_old_runner_is_refused(
    device: Transport, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, protocol: int
) -> None:
    job = make_job()
    monkeypatch.setattr(harness, "PROTOCOL", protocol)
    with pytest.raises(DeviceError, match=f"this runner speaks protocol 1, not {protocol} .*from this version"):
        run(device, job)


def test_results_that_are_no_logits_are_refused(device: Transport, folder: Path, make_job: MakeJob) -> None:
    job = make_job()
    run(device, job)
    text = results(folder, job).read_text()
    for damage, message in (
        (text.replace('"clip": 5', '"clip": 7'), "the results are damaged"),
        (text.replace("[5.0, 10.0, 15.0]", "[5.0, NaN, 15.0]"), "not finite"),
        (text.replace("[5.0, 10.0, 15.0]", "[5.0]"), "the results are damaged"),
    ):
        results(folder, job).write_text(damage)
        with pytest.raises(DeviceError, match=message):
            run(device, job, resume=True)


@pytest.mark.parametrize(
    "words",
    ["from d3d_edge.runtimes.tensorrt import OnnxRunner as Model", "from d3d_edge_runner.onnx_model import Model"],
    ids=["here", "on the device"],
)
def test_onnx_runtime_notes_nothing_for_its_maker(words: str, onnx_file: Path, tmp_path: Path) -> None:
    """Its builds keep a number of the machine in the user's folder, and a database of sessions, which they send off."""
    pytest.importorskip("onnxruntime")
    environment = {
        key: value for key, value in os.environ.items() if key not in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    }
    environment |= {
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([os.getcwd(), str(RUNNER)]),
    }
    code = f"import pathlib, sys; {words}; Model(pathlib.Path(sys.argv[1]), 1)"
    subprocess.run([sys.executable, "-c", code, onnx_file], env=environment, check=True)
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_the_runner_reads_as_python_3_8_and_imports_nothing_of_the_host(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    imports = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level}
    imports |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    allowed = {"numpy", "onnxruntime", "tensorrt", "polygraphy"} | set(sys.stdlib_module_names)
    assert {name.partition(".")[0] for name in imports} <= allowed


def test_the_host_and_the_runner_speak_the_same_protocol() -> None:
    assert f"\nPROTOCOL = {harness.PROTOCOL}\n" in (RUNNER / "d3d_edge_runner" / "__init__.py").read_text()
