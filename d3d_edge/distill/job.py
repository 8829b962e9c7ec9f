"""What is trained, how, and on what: what the loop is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import nn

from d3d_edge.distill.loss import Answer, Loss
from d3d_edge.recipe import TrainSpec
from d3d_edge.video.datasets import Batch

Teacher = Callable[[Batch], Answer]
"""What there is to learn from, as a function of a batch."""


@dataclass(frozen=True)
class Job:
    """One run of the loop."""

    title: str
    model: nn.Module
    forward: Callable[[Batch], Answer]
    """What `model` says of a batch on the device."""
    teacher: Teacher | None
    """What to learn from, without gradient; None where there is nothing. On the device already."""
    loss: Loss
    batches: Callable[[int, int], Iterable[Batch]]
    """(epoch, n) -> the batches of an epoch but for the first n, all of one size, as many in each process; the same
    ones for the same epoch, so that a resumed run is the unbroken run."""
    batches_per_epoch: int
    spec: TrainSpec
    seed: int
    set_training: Callable[[bool], object]
    """Training or evaluation mode (graphs captured by torch.export need more than `.train()`)."""
    evaluate: Callable[[], float] | None = None
    """Top-1 on held-out clips, with the model in evaluation mode. Called in the main process alone."""
    begin_epoch: Callable[[int], None] | None = None
    """Called before each epoch, or the rest of one, in training mode."""
    capture: bool = True
    """Whether a step may become one CUDA graph: it launches the same kernels each time, and reads no value from the
    device."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps of the optimiser; the last one of an epoch may average fewer batches."""
        return -(-self.batches_per_epoch // self.spec.accumulate)
