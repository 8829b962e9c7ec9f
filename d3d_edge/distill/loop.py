"""The training loop: one for teacher, student and quantization-aware training. Knows no file format but checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from d3d_edge.distill.checkpoint import Checkpoint
from d3d_edge.distill.loss import Loss
from d3d_edge.errors import DataError
from d3d_edge.files import write_text
from d3d_edge.progress import Progress, Task
from d3d_edge.recipe import TrainSpec
from d3d_edge.video.datasets import Batch

LOG_NAME = "log.jsonl"
WARM_UP_SHARE = 0.1
"""Share of the steps in which the learning rate rises. PyTorch's 0.3 is much of a run of a few hundred steps."""
_EVALUATIONS = 10  # Times top-1 is measured in a run: enough to see a curve, little beside the training itself.


@dataclass(frozen=True)
class Job:
    """One run of the loop."""

    title: str
    model: nn.Module
    forward: Callable[[Batch], Tensor]
    """Logits [B, classes] of a batch, or whatever else `loss` takes, through `model`."""
    teacher: Callable[[Batch], Tensor] | None
    """Logits [B, classes], or the like of `forward`, to learn from without gradient; None where there are none."""
    loss: Loss
    batches: Callable[[int], Iterable[Batch]]
    """The batches of an epoch; the same ones for the same epoch, so that a resumed run is the unbroken run."""
    batches_per_epoch: int
    spec: TrainSpec
    seed: int
    set_training: Callable[[bool], None]
    """Training or evaluation mode (graphs captured by torch.export need more than `.train()`)."""
    evaluate: Callable[[], float] | None = None
    """Top-1 on held-out clips, with the model in evaluation mode."""
    begin_epoch: Callable[[int], None] | None = None
    """Called before each epoch, in training mode."""


def run(job: Job, folder: Path, fingerprint: str, progress: Progress) -> list[dict[str, float]]:
    """Train `job.model` in place, from the checkpoint in `folder` where there is one, and return the history.

    After each epoch `folder` holds last.pt and log.jsonl. A run that was killed goes on after its last finished epoch
    and ends with the weights of an unbroken run, on the same machine and number of threads.

    Raises:
        DataError: the loss is not finite, or the checkpoint is damaged.
        StorageError: a checkpoint cannot be written.
    """
    parameters = [parameter for parameter in job.model.parameters() if parameter.requires_grad]
    optimizer = _optimizer(job.model, job.spec)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, job.spec.learning_rate, total_steps=job.spec.epochs * job.batches_per_epoch, pct_start=WARM_UP_SHARE
    )
    epoch, history = _restore(folder, fingerprint, job, optimizer, schedule)
    every = max(1, job.spec.epochs // _EVALUATIONS)
    with progress.task(job.title, job.spec.epochs * job.batches_per_epoch, epoch * job.batches_per_epoch) as task:
        while epoch < job.spec.epochs:
            started = time.monotonic()
            # Dropout is decided by (seed, epoch), so no random state needs to be stored.
            torch.manual_seed(job.seed * 1_000_003 + epoch)
            job.set_training(True)
            if job.begin_epoch:
                job.begin_epoch(epoch)
            row = {"epoch": epoch + 1.0, "learning_rate": float(schedule.get_last_lr()[0])}
            row["loss"] = _train_epoch(job, epoch, parameters, optimizer, schedule, task)
            epoch += 1
            if job.evaluate and (epoch % every == 0 or epoch == job.spec.epochs):
                job.set_training(False)
                row["top1"] = job.evaluate()
            row["seconds"] = time.monotonic() - started
            history.append(row)
            Checkpoint(
                fingerprint, epoch, job.model.state_dict(), optimizer.state_dict(), schedule.state_dict(), history
            ).write(folder)
            write_text(folder / LOG_NAME, "".join(_line(row) for row in history))
    job.set_training(False)
    return history


def _optimizer(model: nn.Module, spec: TrainSpec) -> torch.optim.Optimizer:
    """AdamW; biases and normalisation (rank 1) are not decayed."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": spec.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=spec.learning_rate, fused=True)


def _restore(
    folder: Path,
    fingerprint: str,
    job: Job,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> tuple[int, list[dict[str, float]]]:
    checkpoint = Checkpoint.read(folder)
    if checkpoint is None or checkpoint.fingerprint != fingerprint:
        return 0, []
    job.model.load_state_dict(checkpoint.model)
    optimizer.load_state_dict(checkpoint.optimizer)
    schedule.load_state_dict(checkpoint.schedule)
    return checkpoint.epoch, checkpoint.history


def _train_epoch(
    job: Job,
    epoch: int,
    parameters: list[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    task: Task,
) -> float:
    """Mean loss of the epoch."""
    total = 0.0
    for batch in job.batches(epoch):
        with torch.no_grad():
            target = job.teacher(batch) if job.teacher else None
        loss = job.loss(job.forward(batch), batch.label, target)
        value = loss.item()
        if not torch.isfinite(loss):
            raise DataError(
                f"{job.title}: the loss is {value} in epoch {epoch + 1}", hint="lower learning_rate in the recipe"
            )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, job.spec.gradient_clip)
        optimizer.step()
        schedule.step()
        total += value
        task.advance(1, f"loss {value:.3f}")
    return total / job.batches_per_epoch


def _line(row: dict[str, float]) -> str:
    values = ", ".join(f'"{key}": {value:.6g}' for key, value in row.items())
    return "{" + values + "}\n"
