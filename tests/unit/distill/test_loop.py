"""The loop trains, stops at what is not a number, and resumes to the weights of an unbroken run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from d3d_edge.distill import loop, loss
from d3d_edge.distill.checkpoint import Checkpoint
from d3d_edge.distill.loop import Job
from d3d_edge.distill.loss import Outputs
from d3d_edge.errors import DataError
from d3d_edge.progress import Silent
from d3d_edge.recipe import TrainSpec
from d3d_edge.video.datasets import Batch

SPEC = TrainSpec(epochs=6, batch_size=8, learning_rate=0.05)


class Killed(Exception):
    """Stands for SIGKILL between two epochs."""


def batches(epoch: int) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(epoch)
    for _ in range(3):
        clip = torch.randint(0, 255, (8, 1, 2, 2, 3), generator=generator, dtype=torch.uint8)
        label = (clip[:, 0, 0, 0, 0] > 127).long()
        yield Batch(clip, torch.zeros(8, 1, 2, 2, 2), label)


def job(spec: TrainSpec = SPEC, seed: int = 0) -> Job:
    torch.manual_seed(7)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2)
    )

    def forward(batch: Batch) -> Outputs:
        return Outputs(model(batch.clip.float() / 255))

    def set_training(mode: bool) -> None:
        model.train(mode)

    return Job(
        title="test",
        model=model,
        forward=forward,
        teacher=None,
        loss=loss.cross_entropy(0.0),
        batches=batches,
        batches_per_epoch=3,
        spec=spec,
        seed=seed,
        set_training=set_training,
    )


def assert_equal(model: nn.Module, other: nn.Module) -> None:
    for (name, value), theirs in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(value, theirs), name


def test_the_loss_falls_and_the_log_has_a_row_per_epoch(tmp_path: Path) -> None:
    history = loop.run(job(), tmp_path, "mark", Silent())
    assert history[-1]["loss"] < history[0]["loss"]
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("killed_after", [1, 3, 5])
def test_a_killed_run_ends_with_the_weights_of_an_unbroken_one(killed_after: int, tmp_path: Path) -> None:
    unbroken = job()
    loop.run(unbroken, tmp_path / "unbroken", "mark", Silent())

    def stop(epoch: int) -> None:
        if epoch == killed_after:
            raise Killed

    with pytest.raises(Killed):
        loop.run(dataclasses.replace(job(), begin_epoch=stop), tmp_path / "killed", "mark", Silent())
    torch.manual_seed(12345)  # A new process has another random state.
    resumed = job()
    loop.run(resumed, tmp_path / "killed", "mark", Silent())
    assert_equal(resumed.model, unbroken.model)
    assert len((tmp_path / "killed" / "log.jsonl").read_text().splitlines()) == 6


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    first = job()
    loop.run(first, tmp_path, "mark", Silent())
    before = (tmp_path / "last.pt").stat().st_mtime_ns
    again = job()
    loop.run(again, tmp_path, "mark", Silent())
    assert_equal(again.model, first.model)
    assert (tmp_path / "last.pt").stat().st_mtime_ns == before


def test_a_checkpoint_of_something_else_is_not_gone_on_with(tmp_path: Path) -> None:
    loop.run(job(), tmp_path, "mark", Silent())
    other = job(seed=1)
    loop.run(other, tmp_path, "another mark", Silent())
    checkpoint = Checkpoint.read(tmp_path)
    assert checkpoint is not None
    assert checkpoint.fingerprint == "another mark"
    assert checkpoint.epoch == 6


def test_a_loss_that_is_not_finite_stops_with_a_hint(tmp_path: Path) -> None:
    broken = dataclasses.replace(job(), loss=lambda student, labels, teacher: student.logits.sum() * float("nan"))
    with pytest.raises(DataError, match="lower learning_rate"):
        loop.run(broken, tmp_path, "mark", Silent())
    assert not (tmp_path / "last.pt").exists()


def test_the_teacher_gets_no_gradient(tmp_path: Path) -> None:
    teacher = nn.Linear(12, 2)
    seen = []

    def answer(batch: Batch) -> torch.Tensor:
        logits: torch.Tensor = teacher(batch.clip.flatten(1).float() / 255)
        seen.append(logits.requires_grad)
        return logits

    loop.run(dataclasses.replace(job(), teacher=answer), tmp_path, "mark", Silent())
    assert seen
    assert not any(seen)
    assert teacher.weight.grad is None


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "last.pt").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"last\.pt is damaged"):
        Checkpoint.read(tmp_path)


def test_a_checkpoint_keeps_the_version_numbers_of_a_state_dict(tmp_path: Path) -> None:
    state = nn.Sequential(nn.BatchNorm2d(3)).state_dict()
    Checkpoint("mark", 1, state, {}, {}, []).write(tmp_path)
    read = Checkpoint.read(tmp_path)
    assert read is not None
    assert read.model._metadata == state._metadata  # type: ignore[attr-defined]
    assert read.model._metadata["0"] == {"version": 2}  # type: ignore[attr-defined]
