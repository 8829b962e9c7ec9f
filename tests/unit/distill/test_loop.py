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
from d3d_edge.errors import DataError, MissingDependency, RecipeError
from d3d_edge.progress import Silent
from d3d_edge.recipe import TrainSpec
from d3d_edge.video.datasets import Batch

SPEC = TrainSpec(epochs=6, batch_size=8, learning_rate=0.05)
VARIANTS = {
    "adamw": {},
    "sgd": {"optimizer": "sgd", "schedule": "steps", "milestones": (0.5, 0.8)},
    "cosine": {"schedule": "cosine"},
    "accumulated": {"accumulate": 2},
    "bfloat16": {"precision": "bfloat16"},
    "best": {"keep": "best"},
}
DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
    ),
]


class Killed(Exception):
    """Stands for SIGKILL between two epochs."""


def batches(epoch: int) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(epoch)
    for _ in range(3):
        clip = torch.randint(0, 255, (8, 1, 2, 2, 3), generator=generator, dtype=torch.uint8)
        label = (clip[:, 0, 0, 0, 0] > 127).long()
        yield Batch(clip, torch.zeros(8, 1, 2, 2, 2), label)


def variant(name: str) -> TrainSpec:
    return SPEC.model_copy(update=VARIANTS[name])


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


def test_the_defaults_are_adamw_and_one_cycle_as_pytorch_has_them(tmp_path: Path) -> None:
    mine, plain = job(), job()
    loop.run(mine, tmp_path, "mark", Silent())
    weights = [p for p in plain.model.parameters() if p.ndim > 1]
    vectors = [p for p in plain.model.parameters() if p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.05, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=18, pct_start=0.1)
    for epoch in range(6):
        torch.manual_seed(epoch)
        plain.model.train()
        for batch in batches(epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(plain.forward(batch).logits, batch.label).backward()
            nn.utils.clip_grad_norm_([*plain.model.parameters()], 5.0)
            optimizer.step()
            schedule.step()
    assert_equal(mine.model, plain.model)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("killed_after", [1, 3, 5])
def test_a_killed_run_ends_with_the_weights_of_an_unbroken_one(
    killed_after: int, name: str, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("D3D_EDGE_DEVICE", device)
    top1s = (0.5, 0.25, 0.75, 0.75, 0.5, 0.25)

    def start() -> Job:
        started = job(variant(name))
        return dataclasses.replace(started, evaluate=lambda: top1s[epochs[-1]], begin_epoch=epochs.append)

    epochs: list[int] = []
    unbroken = start()
    loop.run(unbroken, tmp_path / "unbroken", "mark", Silent())

    def stop(epoch: int) -> None:
        epochs.append(epoch)
        if epoch == killed_after:
            raise Killed

    with pytest.raises(Killed):
        loop.run(dataclasses.replace(start(), begin_epoch=stop), tmp_path / "killed", "mark", Silent())
    torch.manual_seed(12345)  # A new process has another random state.
    resumed = start()
    loop.run(resumed, tmp_path / "killed", "mark", Silent())
    assert_equal(resumed.model, unbroken.model)
    assert len((tmp_path / "killed" / "log.jsonl").read_text().splitlines()) == 6
    for which in ("last", "best"):
        read = [Checkpoint.read(tmp_path / run, which) for run in ("unbroken", "killed")]
        ours, theirs = (checkpoint for checkpoint in read if checkpoint)
        assert ours.epoch == theirs.epoch == {"last": 6, "best": 3}[which]
        for key, value in ours.model.items():
            assert torch.equal(value, theirs.model[key]), key


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

    def answer(batch: Batch) -> Outputs:
        logits = teacher(batch.clip.flatten(1).float() / 255)
        seen.append(logits.requires_grad)
        return Outputs(logits)

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


def test_accumulated_batches_are_one_larger_batch(tmp_path: Path) -> None:
    """Two batches and then one make a step each: the mean over 16 clips, and the mean over the 8 left."""

    def plain(spec: TrainSpec) -> Job:
        made = job(spec)
        for module in made.model:
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        return dataclasses.replace(made, set_training=lambda mode: made.model.train(False))

    def joined(epoch: int) -> Iterator[Batch]:
        first, second, third = batches(epoch)
        yield Batch(*(torch.cat(parts) for parts in zip(first, second, strict=True)))
        yield third

    accumulated = plain(variant("accumulated"))
    assert accumulated.steps_per_epoch == 2
    loop.run(accumulated, tmp_path / "accumulated", "mark", Silent())
    whole = dataclasses.replace(plain(SPEC), batches=joined, batches_per_epoch=2)
    loop.run(whole, tmp_path / "whole", "mark", Silent())
    for ours, theirs in zip(accumulated.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_more_batches_to_accumulate_than_there_are_is_one_step_an_epoch(tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"accumulate": 100})
    assert job(spec).steps_per_epoch == 1
    loop.run(job(spec), tmp_path, "mark", Silent())
    checkpoint = Checkpoint.read(tmp_path)
    assert checkpoint is not None
    assert checkpoint.schedule["_step_count"] == 7


def test_bfloat16_is_for_the_networks_and_not_for_loss_and_weights(tmp_path: Path) -> None:
    seen: dict[str, torch.dtype] = {}
    started = job(variant("bfloat16"))
    started.model[1].register_forward_hook(lambda module, inputs, output: seen.update(layer=output.dtype))

    def minimised(student: Outputs, labels: torch.Tensor, teacher: Outputs | None) -> torch.Tensor:
        assert teacher is not None
        seen.update(logits=student.logits.dtype, teacher=teacher.logits.dtype)
        return nn.functional.cross_entropy(student.logits, labels)

    zeros = Outputs(torch.zeros(8, 2, dtype=torch.bfloat16))
    half = dataclasses.replace(started, loss=minimised, teacher=lambda batch: zeros)
    history = loop.run(half, tmp_path, "mark", Silent())
    assert seen == {"layer": torch.bfloat16, "logits": torch.float32, "teacher": torch.float32}
    assert {value.dtype for value in half.model.parameters()} == {torch.float32}
    assert history[-1]["loss"] < history[0]["loss"]


@pytest.mark.slow
def test_a_compiled_run_learns_the_same(tmp_path: Path) -> None:
    compiled = job(SPEC.model_copy(update={"compile": True}))
    compiled.model[4].p = 0.0
    eager = job()
    eager.model[4].p = 0.0
    losses = [
        [row["loss"] for row in loop.run(one, tmp_path / str(place), "mark", Silent())]
        for place, one in enumerate((compiled, eager))
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert compiled.model.state_dict().keys() == eager.model.state_dict().keys()


def test_where_torch_compile_does_not_work_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (str(tmp_path / "no-compiler"),))
    torch.compiler.reset()
    with pytest.raises(MissingDependency, match=r"torch\.compile does not work here: .*set compile: false"):
        loop.run(job(SPEC.model_copy(update={"compile": True})), tmp_path / "run", "mark", Silent())
    assert not (tmp_path / "run" / "last.pt").exists()


@pytest.mark.parametrize(("top1s", "best"), [((0.1, 0.3, 0.2, 0.3, 0.3, 0.0), 2), ((0.0, 0.0, 0.0, 0.0, 0.0, 0.0), 1)])
@pytest.mark.parametrize("keep", ["last", "best"])
def test_the_best_checkpoint_is_the_earliest_of_the_highest(
    keep: str, top1s: tuple[float, ...], best: int, tmp_path: Path
) -> None:
    measured = iter(top1s)
    started = job(SPEC.model_copy(update={"keep": keep}))
    loop.run(dataclasses.replace(started, evaluate=lambda: next(measured)), tmp_path, "mark", Silent())
    kept = Checkpoint.kept(tmp_path)
    assert kept is not None
    assert kept.epoch == {"last": 6, "best": best}[keep]
    for name, value in started.model.state_dict().items():
        assert torch.equal(value, kept.model[name]), name
    found = Checkpoint.read(tmp_path, "best")
    assert found is not None
    assert found.epoch == best


def test_without_held_out_clips_the_best_cannot_be_kept(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"test: keep is 'best', but there are no val clips"):
        loop.run(job(variant("best")), tmp_path, "mark", Silent())


def test_the_best_of_an_earlier_training_does_not_outlive_it(tmp_path: Path) -> None:
    loop.run(dataclasses.replace(job(), evaluate=lambda: 1.0), tmp_path, "mark", Silent())
    loop.run(job(), tmp_path, "another mark", Silent())
    assert Checkpoint.read(tmp_path, "best") is None


def test_a_resumed_run_shows_each_step_once(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    def stop(epoch: int) -> None:
        if epoch == 2:
            raise Killed

    with pytest.raises(Killed):
        loop.run(dataclasses.replace(job(), begin_epoch=stop), tmp_path, "mark", Silent())
    history = loop.run(job(), tmp_path, "mark", Silent())
    read = accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in read.Scalars("step/loss")] == list(range(1, 19))
    assert [event.step for event in read.Scalars("epoch/loss")] == [3, 6, 9, 12, 15, 18]
    shown = [event.value for event in read.Scalars("epoch/loss")]
    assert shown == pytest.approx([row["loss"] for row in history])
