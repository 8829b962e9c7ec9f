"""Where training runs: this process's device, and its place among those that torchrun started. Knows no network.

Without torchrun there is one process, and everything here does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import TypeVar, cast

import torch
from torch import Tensor, distributed, nn

from d3d_edge.distill.loss import Answer
from d3d_edge.errors import D3DEdgeError, RecipeError
from d3d_edge.processors import cpus
from d3d_edge.video.datasets import Batch

T = TypeVar("T")

DEVICE_VARIABLE = "D3D_EDGE_DEVICE"
"""Environment variable that chooses the device, e.g. `cpu` or `cuda:1`."""
MOST_LOADERS = 16
"""More would wait for one another: Python runs one thread at a time between their copies."""
_PATIENCE = timedelta(days=2)
"""How long a process waits for the others. The main one decodes whole data sets meanwhile; torchrun ends them all when
one has failed, so nobody waits for the dead."""


def device() -> torch.device:
    """$D3D_EDGE_DEVICE, else this process's GPU where there is one, else the CPU.

    Raises:
        RecipeError: the variable names no device of this machine.
    """
    named = os.environ.get(DEVICE_VARIABLE)
    if named is None:
        named = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(named)
        if chosen == torch.device("cuda"):
            chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.zeros(1, device=chosen).item()  # `meta` makes tensors, and has no values
    except (RuntimeError, AssertionError, ImportError) as error:  # builds without CUDA assert
        raise RecipeError(
            f"{named} is not a device that PyTorch can use here", hint=f"{DEVICE_VARIABLE}=cpu"
        ) from error
    return chosen


def launched() -> bool:
    """Whether torchrun started this process together with others."""
    return distributed.is_torchelastic_launched() and int(os.environ.get("WORLD_SIZE", 1)) > 1


@contextmanager
def group() -> Iterator[None]:
    """Belong, for the block, to the processes that torchrun started.

    Raises:
        RecipeError: $D3D_EDGE_DEVICE names no device of this machine.
    """
    chosen = device()  # a wrong one is told before any clip is decoded
    if not launched():
        yield
        return
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    distributed.init_process_group(_backend(chosen.type), timeout=_PATIENCE)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def _backend(device_type: str) -> str:
    """What the processes talk by: gradients travel between GPUs, and what the main one found out between CPUs."""
    if device_type != "cuda":
        return "gloo"
    # NCCL takes one process a GPU, and a GPU that the variable names by its number is that of all.
    shared = torch.device(os.environ.get(DEVICE_VARIABLE, "cuda")).index is not None
    return "cpu:gloo,cuda:gloo" if shared else "cpu:gloo,cuda:nccl"


def rank() -> int:
    """The place of this process among all, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def processes() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_main() -> bool:
    """Whether this is the one process that writes files and reports."""
    return rank() == 0


def from_main(make: Callable[[], T]) -> T:
    """What `make` gives in the main process, where alone it is called; the others wait for it.

    An error of this package is raised in all.
    """
    if processes() == 1:
        return make()
    outcome: list[T | D3DEdgeError | None] = [None]
    if is_main():
        try:
            outcome[0] = make()
        except D3DEdgeError as error:
            outcome[0] = error
    distributed.broadcast_object_list(outcome, src=0)
    if isinstance(outcome[0], D3DEdgeError):
        raise outcome[0]
    return cast(T, outcome[0])


def mean(value: Tensor) -> Tensor:
    """The mean of a scalar over all processes."""
    if processes() == 1:
        return value
    total = value.detach().clone()
    distributed.all_reduce(total)
    return total / processes()


def moved(batch: Batch, to: torch.device) -> Batch:
    """`batch` on another device; the copy of pinned memory to a GPU goes on while the caller does."""
    return batch if to.type == "cpu" else Batch(*(part.to(to, non_blocking=True) for part in batch))


def loaders() -> int:
    """How many threads are to read batches: one beside a CPU that trains, else this process's share of the cores."""
    if device().type == "cpu":
        return 1
    share = cpus() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return max(1, min(MOST_LOADERS, share - 1))


class Forward(nn.Module):
    """A function of a batch that calls `model`, as a module: DistributedDataParallel must be the one that is called."""

    def __init__(self, model: nn.Module, function: Callable[[Batch], Answer]) -> None:
        super().__init__()
        self.model = model
        self._function = function

    def forward(self, batch: Batch) -> Answer:
        return self._function(batch)


def parallel(forward: Forward) -> nn.Module:
    """`forward`, averaging the gradients of all processes in the backward pass. Changes its model.

    Batch statistics are taken over all processes on GPUs, and by each process alone on CPUs, which PyTorch cannot
    synchronise; there the main process's running statistics are the ones kept.
    """
    if processes() == 1:
        return forward
    if device().type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(forward)  # type: ignore[no-untyped-call]
    return nn.parallel.DistributedDataParallel(forward)


def averaging(forward: nn.Module, wanted: bool) -> AbstractContextManager[None]:
    """For the block, whether `forward` averages gradients over all processes, or leaves each its own to add up."""
    if wanted or not isinstance(forward, nn.parallel.DistributedDataParallel):
        return nullcontext()
    return forward.no_sync()
