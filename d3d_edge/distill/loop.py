"""The training loop: one for teacher, student and quantization-aware training. Knows no file format but checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from d3d_edge.distill import able, distributed, memory
from d3d_edge.distill.captured import Captured
from d3d_edge.distill.checkpoint import Checkpoint, discard
from d3d_edge.distill.job import Job
from d3d_edge.distill.log import Log
from d3d_edge.distill.loss import Answer
from d3d_edge.distill.optim import optimizer_of, schedule_of
from d3d_edge.distill.waiting import Waiting
from d3d_edge.errors import DataError, RecipeError
from d3d_edge.files import sweep
from d3d_edge.progress import Progress, Task
from d3d_edge.video.datasets import Batch

_EVALUATIONS = 10  # Times top-1 is measured in a run: enough to see a curve, little beside the training itself.
_PART_STEPS = 100
"""Steps of the optimiser in a part of an epoch: between two parts it can be saved, and gone on with."""
_SAVE_S = 600.0
"""How long what is trained goes unsaved, up to a part of an epoch more."""
_SEEDS = 2**63
"""Seeds are counted modulo this: all below it, and some above, torch takes."""


@dataclass
class _State:
    """What changes while training."""

    forward: nn.Module
    """`Job.forward`, averaging gradients over all processes."""
    parameters: list[nn.Parameter]
    optimizer: Optimizer
    schedule: LRScheduler
    step: Callable[[Batch, int], Tensor]
    """(batch of this process, batches that are averaged) -> its loss on the device; adds to the gradient."""
    epoch: int
    """Epochs finished."""
    history: list[dict[str, float]]
    """A row for each."""
    within: dict[str, float]
    """Of the epoch that is not finished: its batches so far, the sum of their losses, their seconds, and the learning
    rate that it began with. Empty where none is begun."""

    saved_s: float = field(default_factory=time.monotonic)
    """When all this was last saved, or there was nothing to save yet."""

    @property
    def batches(self) -> int:
        """Batches so far of the epoch that is not finished."""
        return int(self.within.get("batches", 0))


@memory.kept()
def run(job: Job, folder: Path, fingerprint: str, progress: Progress) -> list[dict[str, float]]:
    """Train `job.model` in place, from the checkpoint in `folder` where there is one, and return the history.

    The model is moved to the device of this process, and ends with the weights that the recipe keeps. After each epoch
    `folder` holds last.pt, best.pt where top-1 was measured, and the log. A run that was killed goes on after its last
    finished epoch, or within a long one, and ends with the weights of an unbroken run, on the same machine and number
    of threads. They differ by rounding on a GPU, some of whose sums are added in whatever order they come, and in three
    or more processes, whose gradients the first step after a start adds in another order than the later ones do. A
    checkpoint of another `fingerprint` is told of and deleted.

    Under torchrun all processes call this with the same arguments, but for their share of the batches; the main one
    alone evaluates and writes.

    Raises:
        RecipeError: the best weights are to be kept and there is no `job.evaluate` to choose them.
        DataError: the loss is not finite, the checkpoint is damaged, or another number of processes began it.
        MissingDependency: the recipe wants torch.compile, which does not work here.
        StorageError: a checkpoint cannot be written.
    """
    spec = job.spec
    if spec.keep == "best" and job.evaluate is None:
        raise RecipeError(f"{job.title}: keep is 'best', but there are no val clips to choose by", hint="keep: last")
    job.model.to(distributed.device())
    state = _begin(job, folder, fingerprint, progress)
    if spec.accumulate > job.batches_per_epoch:
        there = job.batches_per_epoch
        progress.note(f"{job.title}: accumulate is {spec.accumulate}, and all {there} batches of an epoch are one step")
    if spec.precision == "bfloat16" and distributed.device().type == "cpu" and not able.knows_bfloat16():
        progress.note(
            f"{job.title}: precision is bfloat16, for which this processor has no instructions; float32 may be faster"
        )
    every = max(1, spec.epochs // _EVALUATIONS)
    total, done = spec.epochs * job.batches_per_epoch, state.epoch * job.batches_per_epoch + state.batches
    with Log(folder, _steps(job, state)) as log, progress.task(job.title, total, done) as task:
        while state.epoch < spec.epochs:
            started = time.monotonic()
            job.set_training(True)
            if job.begin_epoch:
                job.begin_epoch(state.epoch)
            rate = float(state.schedule.get_last_lr()[0])
            state.within = {"batches": 0.0, "loss": 0.0, "seconds": 0.0, "learning_rate": rate} | state.within
            before_s = state.within["seconds"]
            row = {"epoch": state.epoch + 1.0, "learning_rate": state.within["learning_rate"]}
            row |= _train_epoch(job, state, log, task, lambda: _save_within(job, state, folder, fingerprint))
            state.epoch, state.within = state.epoch + 1, {}
            if job.evaluate and (state.epoch % every == 0 or state.epoch == spec.epochs):
                job.set_training(False)
                row["top1"] = distributed.from_main(job.evaluate)
            row["seconds"] = before_s + time.monotonic() - started
            state.history.append(row)
            distributed.from_main(lambda: _save(job, state, log, folder, fingerprint))
    job.set_training(False)
    if spec.keep == "best" and (best := Checkpoint.kept(folder)):
        job.model.load_state_dict(best.model)
    return state.history


def _begin(job: Job, folder: Path, fingerprint: str, progress: Progress) -> _State:
    """The state after the checkpoint in `folder`, or that of a run not begun."""
    optimizer = optimizer_of(job.model, job.spec)
    schedule = schedule_of(optimizer, job.spec, job.spec.epochs * job.steps_per_epoch)
    parameters = [parameter for parameter in job.model.parameters() if parameter.requires_grad]
    epoch, history, within = 0, list[dict[str, float]](), dict[str, float]()
    checkpoint = distributed.from_main(lambda: _found(job, folder, fingerprint, progress))
    if checkpoint is not None:
        epoch, history, within = checkpoint.epoch, checkpoint.history, checkpoint.within
        if epoch < job.spec.epochs and checkpoint.processes != distributed.processes():
            raise DataError(
                f"{folder} was begun with {checkpoint.processes} processes, and here are {distributed.processes()}, "
                "whose batches would be others",
                hint=f"torchrun --nproc-per-node {checkpoint.processes}, or delete the folder to train it again",
            )
        try:
            job.model.load_state_dict(checkpoint.model)
        except RuntimeError as error:
            raise DataError(
                f"{folder} holds a checkpoint of another network", hint="delete the folder to train this stage again"
            ) from error
        optimizer.load_state_dict(checkpoint.optimizer)
        schedule.load_state_dict(checkpoint.schedule)
    forward = distributed.Forward(job.model, job.forward)
    if job.spec.compile and epoch < job.spec.epochs:
        able.compile_forward(forward)
    parallel = distributed.parallel(forward)
    return _State(parallel, parameters, optimizer, schedule, _step_of(job, parallel), epoch, history, within)


def _step_of(job: Job, forward: nn.Module) -> Callable[[Batch, int], Tensor]:
    device = distributed.device()

    def backward(batch: Batch, divisor: float | Tensor) -> Tensor:
        loss = _loss(job, forward, batch)
        (loss / divisor).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    if job.capture and device.type == "cuda" and distributed.processes() == 1:
        return Captured(backward, job.model)
    return lambda batch, divisor: backward(distributed.moved(batch, device), divisor)


def _found(job: Job, folder: Path, fingerprint: str, progress: Progress) -> Checkpoint | None:
    """The checkpoint to go on from. One of something else is deleted, lest its best.pt outlive it."""
    sweep(folder)
    checkpoint = Checkpoint.read(folder)
    if checkpoint is not None and checkpoint.fingerprint == fingerprint:
        best = Checkpoint.read(folder, "best")
        if checkpoint.is_best and (best is None or best.epoch != checkpoint.epoch):
            checkpoint.write(folder, "best")  # a kill came between the two
        return checkpoint
    if checkpoint is not None:
        progress.note(
            f"{job.title}: begins again, since the checkpoint in {folder} is of other data or settings, or of another "
            "version of the code"
        )
    discard(folder)
    return None


class _Taken(NamedTuple):
    """A batch that was trained on."""

    loss: Tensor
    """Mean over all processes. On the device, which may not have come to it yet."""
    averaged: int
    """Batches in the same step of the optimiser."""
    learning_rate: float | None
    """Of the step that this batch ended, if it did."""


def _steps(job: Job, state: _State) -> int:
    """Steps of the optimiser so far."""
    return state.epoch * job.steps_per_epoch + state.batches // job.spec.accumulate


def _train_epoch(job: Job, state: _State, log: Log, task: Task, save: Callable[[], None]) -> dict[str, float]:
    """The epoch's mean loss, and how fast it went. Goes on within it, and saves it now and then between its parts."""
    began_s, waiting = time.perf_counter(), Waiting(distributed.device())
    before_s, accumulated, step = state.within["seconds"], 0.0, _steps(job, state)
    size = _PART_STEPS * job.spec.accumulate
    batches = waiting.over(job.batches(state.epoch, state.batches))
    for part in range(state.batches // size, -(-job.batches_per_epoch // size)):
        # Dropout is decided by (seed, epoch, part, process), so no random state needs to be stored.
        seed = job.seed * 1_000_003 + state.epoch + distributed.rank() * 1_000_000_007 + part * 1_000_000_000_039
        torch.manual_seed(seed % _SEEDS)
        # A loss is read when the next batch is on its way: reading waits for the device, which is busy then.
        for taken, _ in pairwise(chain(_taken(job, state, islice(batches, size), part * size), (None,))):
            assert taken is not None
            value = taken.loss.item()
            if not math.isfinite(value):
                raise DataError(
                    f"{job.title}: the loss is {value} in epoch {state.epoch + 1}",
                    hint="lower learning_rate in the recipe; distill takes a changed one with another --out",
                )
            state.within["batches"] += 1
            state.within["loss"] += value
            accumulated += value / taken.averaged
            if taken.learning_rate is not None:
                step += 1
                log.step(step, accumulated, taken.learning_rate)
                accumulated = 0.0
            task.advance(1, f"epoch {state.epoch + 1} of {job.spec.epochs}, loss {value:.3f}")
        state.within["seconds"] = before_s + time.perf_counter() - began_s
        if state.batches < job.batches_per_epoch:
            distributed.from_main(save)
    waited_s, elapsed_s = waiting.seconds(), time.perf_counter() - began_s
    return {
        "loss": state.within["loss"] / job.batches_per_epoch,
        "clips_per_s": waiting.clips * distributed.processes() / elapsed_s,
        "waiting_for_data": waited_s / elapsed_s,
    }


def _taken(job: Job, state: _State, batches: Iterable[Batch], begin: int) -> Iterator[_Taken]:
    """Train on batches of an epoch, the first of which is at the place `begin`."""
    captured = isinstance(state.step, Captured)
    for place, batch in enumerate(batches, begin):
        first = place - place % job.spec.accumulate
        count = min(job.spec.accumulate, job.batches_per_epoch - first)
        last = place == first + count - 1
        if place == first:
            state.optimizer.zero_grad(set_to_none=not captured)
        with distributed.averaging(state.forward, last):
            loss = distributed.mean(state.step(batch, count))
        rate = float(state.schedule.get_last_lr()[0]) if last else None
        if last:
            nn.utils.clip_grad_norm_(state.parameters, job.spec.gradient_clip)
            state.optimizer.step()
            state.schedule.step()
        yield _Taken(loss, count, rate)


def _loss(job: Job, forward: nn.Module, batch: Batch) -> Tensor:
    """The loss of one batch, in float32 whatever the networks run in."""
    with torch.autocast(batch.label.device.type, torch.bfloat16, enabled=job.spec.precision == "bfloat16"):
        with torch.no_grad():
            target = job.teacher(batch).float() if job.teacher else None
        answer: Answer = forward(batch)
    return job.loss(answer.float(), batch.label, target)


def _save(job: Job, state: _State, log: Log, folder: Path, fingerprint: str) -> None:
    """Write what an epoch leaves."""
    # The log goes first: after a kill in between the epoch is run again. best.pt goes last: where that epoch comes
    # out differently, as on a GPU, one that was written before would be of no epoch that there was.
    log.epoch(state.epoch * job.steps_per_epoch, state.history)
    checkpoint = _checkpoint(job, state, fingerprint)
    checkpoint.write(folder, "last")
    if checkpoint.is_best:
        checkpoint.write(folder, "best")
    state.saved_s = time.monotonic()


def _save_within(job: Job, state: _State, folder: Path, fingerprint: str) -> None:
    """Write the state within an epoch, if it is time."""
    if time.monotonic() - state.saved_s > _SAVE_S:
        _checkpoint(job, state, fingerprint).write(folder, "last")
        state.saved_s = time.monotonic()


def _checkpoint(job: Job, state: _State, fingerprint: str) -> Checkpoint:
    return Checkpoint(
        fingerprint,
        state.epoch,
        job.model.state_dict(),
        state.optimizer.state_dict(),
        state.schedule.state_dict(),
        state.history,
        processes=distributed.processes(),
        keep=job.spec.keep,
        within=state.within,
    )
