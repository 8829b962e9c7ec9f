"""Observers whose scales every runtime can hold, and a moving average that is right for tensors sharing a scale.

Knows no network.
"""

from __future__ import annotations

from d3d_edge.quantize import torchao_unlogged  # noqa: F401

# isort: split
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torchao.quantization.pt2e import (
    FakeQuantizeBase,
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    PerChannelMinMaxObserver,
)

from d3d_edge.errors import DataError

_SYMMETRIC = (torch.per_tensor_symmetric, torch.per_channel_symmetric)


class Portable:
    """A mixin: the observed range gives a scale that is exact in float16, and its ends are no ties.

    Core ML stores scales in float16; rounded only there, they would be another grid. And a range of 255 steps has its
    ends between two steps of a symmetric scale, where runtimes differ in where a value goes; bytes are met at the ends
    all the time. With TensorRT's range of 254 steps, extreme / 127, they lie on a step.
    """

    quant_min: int
    quant_max: int
    qscheme: torch.qscheme
    eps: Tensor

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point.

        Raises:
            DataError: the range is too wide for a scale in float16.
        """
        scale, zero_point = super().calculate_qparams()  # type: ignore[misc]
        # 1 for weights, whose range has 254 steps already.
        scale = scale * ((self.quant_max - self.quant_min) / (2 * self.quant_max))
        half = scale.half().to(scale.dtype)
        if not half.isfinite().all():
            reached, widest = (float(one) * self.quant_max for one in (scale.max(), torch.finfo(torch.float16).max))
            raise DataError(
                f"what is quantized reaches {reached:.3g}, and the widest INT8 range is {widest:.3g}, by a scale in "
                "float16",
                hint="train again, with a lower learning_rate in the recipe or a higher weight_decay",
            )
        return half, zero_point

    def _calculate_qparams(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Of ends of any shape, one of each for every range. torchao's, in a third of the operators where it can be."""
        # False also where nothing was seen yet: torchao knows what to say.
        if self.qscheme not in _SYMMETRIC or not (low <= high).all():
            if low.isnan().any() or high.isnan().any():
                raise _no_number()
            found: tuple[Tensor, Tensor] = super()._calculate_qparams(low, high)  # type: ignore[misc]
            return found
        extreme = torch.maximum(-low, high).reshape(-1)
        # A range that is all above zero has its largest value for extreme, and one below zero minus its least.
        scale = torch.maximum(extreme / ((self.quant_max - self.quant_min) / 2), self.eps)
        return scale, torch.zeros_like(scale, dtype=torch.int64)


def refuse_no_number(x: Tensor) -> None:
    """Raises DataError where one of `x`, any shape, is not finite, which histograms cannot count."""
    if not x.isfinite().all():
        raise _no_number()


def _no_number() -> DataError:
    return DataError(
        "an activation of the network that is quantized is no number",
        hint="lower quantize.qat.train.learning_rate in the recipe",
    )


class MinMax(Portable, MinMaxObserver):  # type: ignore[misc]
    """All-time extremes."""


class Histogram(Portable, HistogramObserver):  # type: ignore[misc]
    """The clipped range with least error."""

    def forward(self, x: Tensor) -> Tensor:
        """Take note of the values of `x`, any shape. Returns `x`."""
        refuse_no_number(x)
        seen: Tensor = super().forward(x)
        return seen


class PerChannelMinMax(Portable, PerChannelMinMaxObserver):  # type: ignore[misc]
    """All-time extremes of each channel."""


class PerChannelNewest(Portable, MovingAveragePerChannelMinMaxObserver):  # type: ignore[misc]
    """Extremes of each channel; with an averaging constant of 1, those of the newest weights."""


class Grouped:
    """An observer that must know which calls are of one pass of the graph."""

    uses = 1
    """Tensors that share the observer, which are the calls in one pass; `count_uses` finds it."""


class GroupMovingAverage(Portable, MovingAverageMinMaxObserver, Grouped):  # type: ignore[misc]
    """One step of the average per pass of the graph, towards the range of all tensors of the group together.

    The inputs and the output of a concatenation share one observer. torchao's takes a step per tensor, so it ends
    between the ranges of the branches and cuts off the widest one.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        # Not in the state dict: between two passes there is nothing to keep.
        self._seen = 0
        self._starting = True
        self._low = self._high = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        """Take note of the extremes of `x`, any shape. Returns `x`."""
        low, high = torch.aminmax(x.detach().to(self.min_val.dtype))
        if self._seen == 0:
            self._starting = bool(torch.isinf(self.min_val))
        else:
            low, high = torch.minimum(low, self._low), torch.maximum(high, self._high)
        self._low, self._high = low, high
        self._seen = (self._seen + 1) % self.uses
        if self._starting:
            self.min_val.copy_(low)
            self.max_val.copy_(high)
        elif self._seen == 0:
            self.min_val.lerp_(low, self.averaging_constant)
            self.max_val.lerp_(high, self.averaging_constant)
        return x


def count_uses(prepared: GraphModule) -> None:
    """Tell each group's observer how many tensors it sees in one pass of `prepared`."""
    calls = [prepared.get_submodule(node.target) for node in prepared.graph.nodes if node.op == "call_module"]
    observers: list[nn.Module] = [
        call.activation_post_process if isinstance(call, FakeQuantizeBase) else call for call in calls
    ]
    for observer in observers:
        if isinstance(observer, Grouped):
            observer.uses = sum(other is observer for other in observers)
