"""A command killed at any moment leaves a folder from which the same command goes on, to the same result.

One that is only asked to end cleans up before.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from d3d_edge.bundle import Bundle
from tests.cli.conftest import D3DEdge, ended, finished


def kill_when(happened, *words: object) -> None:
    """Start a command in a process group of its own and kill the group when `happened()`."""
    command = [sys.executable, "-m", "d3d_edge", *(str(word) for word in words)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 300
    while not happened():
        assert process.poll() is None, "the command ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


ENDLESS = """
import time
from d3d_edge import cli

def run(**_):
    try:
        print("begun", flush=True)
        time.sleep(60)
    finally:
        time.sleep(0.3)
        print("left clean", flush=True)

cli.group.main = run
cli.main()
"""


def asked_to_end(signals: tuple[signal.Signals, ...], shell: str = "", **environment: str) -> tuple[int, str, str]:
    """Exit code, output and errors of a command that gets `signals`, one after the other, while it works."""
    with subprocess.Popen(
        ["sh", "-c", f'{shell} exec "$@"', "sh", sys.executable, "-c", ENDLESS],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        for number in signals:
            process.send_signal(number)
            time.sleep(0.1)
        out, errors = ended(process)
    return process.returncode, out, errors


INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
SAID = {
    number: f"error: {why}; run the same command again to go on\n"
    for number, why in ((INT, "interrupted"), (TERM, "ended by SIGTERM"), (HUP, "ended by SIGHUP"))
}


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("signals", [(INT,), (TERM,), (HUP,), (INT, INT), (TERM, TERM), (HUP, TERM)])
def test_a_command_that_is_asked_to_end_cleans_up(signals: tuple[signal.Signals, ...]) -> None:
    assert asked_to_end(signals) == (128 + signals[0], "left clean\n", SAID[signals[0]])


IMPORTING = """
import signal, sys
from d3d_edge import cli

class Asked:
    def find_spec(name, *_):
        if name == sys.argv[1]:
            signal.raise_signal(int(sys.argv[2]))

sys.meta_path.insert(0, Asked)
cli.main(["recipes", "check", "demo"])
"""


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("module", ["d3d_edge.cli.recipes", "d3d_edge.pipeline.checks", "torch", "torch._C"])
@pytest.mark.parametrize("number", [INT, TERM, HUP])
def test_a_command_that_is_still_imported_ends_at_once(number: signal.Signals, module: str) -> None:
    command = [sys.executable, "-c", IMPORTING, module, str(int(number))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "", SAID[number])


def test_what_ignores_that_its_terminal_is_closed_goes_on() -> None:
    assert asked_to_end((HUP, TERM), shell="trap '' HUP;")[0] == 128 + TERM


def test_a_process_of_torchrun_is_ended_at_once() -> None:
    """One that waits for another that is gone, in code that is not Python's, would never come to clean up."""
    assert asked_to_end((TERM,), TORCHELASTIC_RUN_ID="none") == (-TERM, "", "")


def weights(run: Path, stage: str) -> dict[str, torch.Tensor]:
    return dict(torch.load(run / stage / "last.pt", weights_only=True)["model"])


def assert_equal_weights(run: Path, other: Path, stage: str) -> None:
    ours, theirs = weights(run, stage), weights(other, stage)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


@pytest.mark.slow
def test_distill(made: Path, clips: Path, recipe_file: Path, cache: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ("distill", recipe_file, "--data", clips, "--out", run, "--cache", cache)
    kill_when((run / "data.csv").exists, *words)
    kill_when((run / "teacher" / "last.pt").exists, *words)
    kill_when((run / "student" / "last.pt").exists, *words)
    finished(*words, "--workers", 0)
    for stage in ("teacher", "student"):
        assert_equal_weights(run, made / "run", stage)


@pytest.mark.slow
def test_quantize(d3d_edge: D3DEdge, made: Path, cache: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(made / "run", run, ignore=shutil.ignore_patterns("quantized"))
    words = ("quantize", run, "--cache", cache, "--workers", 0)
    kill_when((run / "quantized" / "last.pt").exists, *words)
    result = d3d_edge(*words)
    assert result.code == 0, result.err
    assert "begins again" not in result.err
    assert_equal_weights(run, made / "run", "quantized")


@pytest.mark.slow
def test_quantize_of_an_older_version(d3d_edge: D3DEdge, made: Path, cache: Path, tmp_path: Path) -> None:
    """Its finished stage is kept. Its training, killed before the stage was finished, begins again."""
    run = tmp_path / "run"
    shutil.copytree(made / "run", run)
    words = ("quantize", run, "--cache", cache, "--workers", 0)
    # Versions that did not yet know the form of a graph marked a checkpoint by what marks the stage.
    done, last = run / "quantized" / "done.json", run / "quantized" / "last.pt"
    checkpoint = torch.load(last, weights_only=True)
    torch.save(checkpoint | {"fingerprint": json.loads(done.read_text())["fingerprint"]}, last)
    assert "quantized: finished before" in d3d_edge(*words).err
    done.unlink()
    assert "quantization-aware training: begins again, since the checkpoint in" in d3d_edge(*words).err
    assert_equal_weights(run, made / "run", "quantized")


@pytest.mark.slow
def test_export(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundles"
    words = ("export", made / "run", "--target", "host", "--workers", 1, "--out", out)
    kill_when((out / "host" / "manifest.json").exists, *words)
    before = (out / "host" / "model.pt2").stat().st_mtime_ns
    finished(*words)
    assert (out / "host" / "model.pt2").stat().st_mtime_ns == before
    assert sorted(path.name for path in out.iterdir()) == ["host", "reference-float32", "reference-int8"]
    for path in out.iterdir():
        Bundle.open(path)


def test_the_cache(clips: Path, recipe_file: Path, tmp_path: Path) -> None:
    cache, run = tmp_path / "cache", tmp_path / "run"
    words = ("distill", recipe_file, "--data", clips, "--out", run, "--cache", cache, "--workers", 1)
    kill_when(lambda: any(cache.rglob("*.flow.npy")), *words)
    # An entry that was killed between its two files is not whole, and is written again.
    pairs = [(flow, Path(str(flow).replace(".flow.", ".frames."))) for flow in cache.rglob("[!.]*.flow.npy")]
    whole = {path: path.stat().st_mtime_ns for pair in pairs for path in pair}
    assert whole
    kill_when((run / "teacher" / "last.pt").exists, *words)
    assert whole.items() <= {path: path.stat().st_mtime_ns for path in cache.rglob("*.npy")}.items()
