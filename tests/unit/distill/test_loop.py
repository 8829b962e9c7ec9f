"""The loop trains as the recipe says, logs each step once, and stops at what is not a number."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from torch import nn

from d3d_edge.distill import loop
from d3d_edge.distill.checkpoint import Checkpoint
from d3d_edge.distill.job import Job
from d3d_edge.distill.loss import Outputs
from d3d_edge.errors import DataError, MissingDependency
from d3d_edge.progress import Silent
from d3d_edge.recipe import TrainSpec
from d3d_edge.video.datasets import Batch
from tests.notes import Notes
from tests.unit.distill.jobs import SPEC, Killed, assert_equal, batches, job, variant


def test_the_loss_falls_and_the_log_has_a_row_per_epoch(tmp_path: Path) -> None:
    history = loop.run(job(), tmp_path, "mark", Silent())
    assert history[-1]["loss"] < history[0]["loss"]
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]


def test_progress_counts_batches_and_names_the_epoch_and_its_loss(tmp_path: Path) -> None:
    task, progress = Mock(), Mock()
    progress.task.return_value = nullcontext(task)
    loop.run(job(SPEC.model_copy(update={"epochs": 2})), tmp_path, "mark", progress)
    progress.task.assert_called_once_with("test", 6, 0)
    said = [(batches, text.rpartition(" ")[0]) for (batches, text), _ in task.advance.call_args_list]
    assert said == 3 * [(1, "epoch 1 of 2, loss")] + 3 * [(1, "epoch 2 of 2, loss")]


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


def test_a_loss_that_is_not_finite_stops_with_a_hint(tmp_path: Path) -> None:
    broken = dataclasses.replace(job(), loss=lambda student, labels, teacher: student.logits.sum() * float("nan"))
    with pytest.raises(DataError, match="lower learning_rate"):
        loop.run(broken, tmp_path, "mark", Silent())
    assert not (tmp_path / "last.pt").exists()


def test_a_seed_may_be_a_time_of_day_or_as_large_as_a_recipe_allows(tmp_path: Path) -> None:
    for seed in (20_261_126_120_000, 2**63 - 1):
        assert loop.run(job(seed=seed), tmp_path / str(seed), "mark", Silent())


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


def test_accumulated_batches_are_one_larger_batch(tmp_path: Path) -> None:
    """Two batches and then one make a step each: the mean over 16 clips, and the mean over the 8 left."""

    def plain(spec: TrainSpec) -> Job:
        made = job(spec)
        for module in made.model:
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        return dataclasses.replace(made, set_training=lambda mode: made.model.train(False))

    def joined(epoch: int, first: int) -> Iterator[Batch]:
        one, two, three = batches(epoch)
        yield Batch(*(torch.cat(parts) for parts in zip(one, two, strict=True)))
        yield three

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
    progress = Notes()
    loop.run(job(spec), tmp_path, "mark", progress)
    assert progress.notes == ["test: accumulate is 100, and all 3 batches of an epoch are one step"]
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


@pytest.mark.parametrize(
    ("precision", "able", "told"),
    [
        ("bfloat16", {"architecture": "x86_64", "avx2": True, "avx512_f": True}, True),
        ("bfloat16", {"architecture": "x86_64", "avx512_bf16": True}, False),
        ("bfloat16", {"architecture": "x86_64", "amx_bf16": True}, False),
        ("bfloat16", {"architecture": "aarch64"}, False),
        ("float32", {"architecture": "x86_64", "avx2": True}, False),
    ],
)
def test_bfloat16_on_a_processor_without_its_instructions_is_told(
    precision: str, able: dict[str, object], told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    progress = Notes()
    loop.run(job(SPEC.model_copy(update={"precision": precision, "epochs": 1})), tmp_path, "mark", progress)
    note = "test: precision is bfloat16, for which this processor has no instructions; float32 may be faster"
    assert progress.notes == ([note] if told else [])


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


def test_a_resumed_run_shows_each_step_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    # Files of one second and one process are read by their number as text: 10 before 9.
    files = pytest.importorskip("tensorboard.summary.writer.event_file_writer")
    monkeypatch.setattr(files, "_global_uid", files.AtomicCounter(0))

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
