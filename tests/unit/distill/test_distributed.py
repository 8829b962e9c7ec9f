"""Two processes train as one does with the double batch, and the main one alone writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from d3d_edge.distill import distributed, loop
from d3d_edge.distill.checkpoint import Checkpoint
from d3d_edge.errors import DataError, RecipeError
from d3d_edge.progress import Silent
from d3d_edge.video.datasets import Batch
from tests.unit.distill.jobs import CUDA
from tests.unit.distill.processes import SPECS, job

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda:0", marks=CUDA)])
def device(request: pytest.FixtureRequest) -> str:
    """The one device of all processes."""
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def two(device: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left: a folder for each run, and what each process saw."""
    out = tmp_path_factory.mktemp("two")
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "D3D_EDGE_DEVICE": device}
    done = subprocess.run(
        [*torchrun, "-m", "tests.unit.distill.processes", str(out)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out


def seen(two: Path, process: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((two / f"process-{process}.json").read_text())
    assert found["processes"] == 2
    return found


@pytest.mark.parametrize("name", SPECS)
def test_the_curve_is_that_of_one_process_with_the_double_batch(
    name: str, two: Path, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so are the weights; on a GPU with batch statistics, which the processes take together."""
    monkeypatch.setenv("D3D_EDGE_DEVICE", device)
    alone = job(SPECS[name].model_copy(update={"batch_size": 8}))
    curve = [row["loss"] for row in loop.run(alone, tmp_path, "mark", Silent())]
    assert len(set(curve)) == len(curve)
    for process in (0, 1):
        assert [row["loss"] for row in seen(two, process)["histories"][name]] == pytest.approx(curve, abs=1e-4)
    checkpoint = Checkpoint.read(two / name)
    assert checkpoint is not None
    for key, value in alone.model.state_dict().items():
        assert torch.allclose(checkpoint.model[key], value.cpu(), atol=1e-4), key


@pytest.mark.parametrize("killed", ["killed", "killed within"])
def test_a_killed_run_of_two_processes_ends_as_an_unbroken_one(killed: str, two: Path) -> None:
    checkpoints = [Checkpoint.read(two / name) for name in ("adamw", killed)]
    unbroken, resumed = (checkpoint.model for checkpoint in checkpoints if checkpoint)
    for key, value in unbroken.items():
        assert torch.equal(resumed[key], value), key
    losses = [[row["loss"] for row in rows] for rows in (seen(two, 0)[killed], seen(two, 0)["histories"]["adamw"])]
    assert losses[0] == losses[1]


def test_the_processes_know_the_same(two: Path) -> None:
    for name in SPECS:
        ours, theirs = (seen(two, process)["histories"][name] for process in (0, 1))
        assert [row["top1"] for row in ours] == [row["top1"] for row in theirs]
    for process in (0, 1):
        assert seen(two, process)["from_main"] == 0
        assert seen(two, process)["refused"] == "no such clips (give others)"


def test_one_process_writes(two: Path) -> None:
    written = [path.name for path in (two / "sgd").iterdir() if "tfevents" not in path.name]
    assert sorted(written) == ["best.pt", "last.pt", "log.jsonl"]
    assert len(list((two / "sgd").glob("*tfevents*"))) <= 1
    assert len((two / "sgd" / "log.jsonl").read_text().splitlines()) == 3


def test_another_number_of_processes_does_not_go_on(two: Path, tmp_path: Path) -> None:
    longer = SPECS["sgd"].model_copy(update={"epochs": 5})
    with pytest.raises(DataError, match=r"begun with 2 processes, and here are 1, .*torchrun --nproc-per-node 2"):
        loop.run(job(longer), two / "sgd", "mark", Silent())


def test_the_device_is_chosen_by_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("D3D_EDGE_DEVICE", "cpu")
    assert distributed.device() == torch.device("cpu")
    monkeypatch.setenv("D3D_EDGE_DEVICE", "cuda:77")
    with pytest.raises(RecipeError, match=r"cuda:77 is not a device that PyTorch can use here \(D3D_EDGE_DEVICE=cpu\)"):
        distributed.device()
    for name in ("gpu", "meta", "hpu"):
        monkeypatch.setenv("D3D_EDGE_DEVICE", name)
        with pytest.raises(RecipeError, match=f"{name} is not a device"):
            distributed.device()


def test_without_a_variable_the_device_is_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("D3D_EDGE_DEVICE", raising=False)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert distributed.device() == torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(("named", "backend"), [(None, "nccl"), ("cuda", "nccl"), ("cuda:0", "gloo")])
def test_processes_that_share_a_gpu_do_not_talk_by_nccl(
    named: str | None, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if named is None:
        monkeypatch.delenv("D3D_EDGE_DEVICE", raising=False)
    else:
        monkeypatch.setenv("D3D_EDGE_DEVICE", named)
    assert distributed._backend("cuda") == f"cpu:gloo,cuda:{backend}"
    assert distributed._backend("cpu") == "gloo"


def test_a_batch_that_is_where_it_should_be_is_not_copied() -> None:
    batch = Batch(torch.zeros(1), torch.zeros(1), torch.zeros(1))
    assert distributed.moved(batch, torch.device("cpu")) is batch


def test_one_process_is_the_main_one_and_averages_nothing() -> None:
    assert not distributed.launched()
    with distributed.group():
        assert (distributed.rank(), distributed.processes(), distributed.is_main()) == (0, 1, True)
        assert distributed.mean(torch.tensor(2.5)).item() == 2.5
        assert distributed.from_main(lambda: 3) == 3
