"""A training step as one CUDA graph. Knows no network and no optimiser."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from d3d_edge.video.datasets import Batch

Backward = Callable[[Batch, Tensor], Tensor]
"""The loss of a batch on the device, its gradient, divided by a scalar, added to that of the parameters."""
_TRIALS = 3
"""Runs before the capture, in which PyTorch's libraries load kernels and choose among them."""


class Captured:
    """`backward` of `model` as a graph that is launched whole.

    A step of these networks is more than a thousand operators of microseconds, and Python takes longer to launch one
    than a GPU to run it. The graph is captured at the first batch; every later one has the same shapes. It reads and
    writes the memory it was captured with: gradients must be set to zero in place, never dropped.
    """

    def __init__(self, backward: Backward, model: nn.Module) -> None:
        self._backward = backward
        self._model = model
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, batch: Batch, divisor: float) -> Tensor:
        """The loss of `batch`, wherever that is; as yet to be computed, like the gradient."""
        if self._graph is None:
            self._graph = self._capture(batch)
        for ours, part in zip(self._batch, batch, strict=True):
            ours.copy_(part, non_blocking=True)
        self._divisor.fill_(divisor)
        self._graph.replay()
        return self._loss.clone()

    def _capture(self, batch: Batch) -> torch.cuda.CUDAGraph:
        device = next(self._model.parameters()).device
        self._batch = Batch(*(part.to(device) for part in batch))
        self._divisor = torch.ones((), device=device)
        # The trials count for nothing: what they change is put back.
        states = [(buffer, buffer.clone()) for buffer in self._model.buffers()]
        random_state = torch.cuda.get_rng_state(device)
        with torch.cuda.device(device):
            trials = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            trials.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(trials):
                for _ in range(_TRIALS):
                    self._backward(self._batch, self._divisor)
            torch.cuda.current_stream().wait_stream(trials)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._loss = self._backward(self._batch, self._divisor)
        torch.cuda.set_rng_state(random_state, device)
        for buffer, before in states:
            buffer.copy_(before)
        for parameter in self._model.parameters():
            if parameter.grad is not None:
                parameter.grad.zero_()
        return graph
