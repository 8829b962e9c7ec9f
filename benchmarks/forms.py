"""Exact forms of a convolution over time and of a max pool over space and time, written once for all runtimes.

`ops` is a `benchmarks.graphs.Graph` or one of `benchmarks.dialects`. Convolutions take [1, T, HW, C] and pools
[T, H, W, C]; both give [1, T', HW, C']. Nothing here is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from d3d_edge.models.views import pads


class Layer(NamedTuple):
    """A layer's input, [T, H, W, C], and its kernel in time."""

    time: int
    height: int
    width: int
    channels: int
    outputs: int
    taps: int
    stride: int

    @property
    def area(self) -> int:
        """Positions of a frame."""
        return self.height * self.width

    @property
    def around(self) -> tuple[int, int]:
        """Frames of zeros before and after."""
        return pads("same", self.time, self.taps, self.stride)


class Weights:
    """One temporal kernel and its bias, arranged for every form. The same array is the same object, always."""

    def __init__(self, layer: Layer) -> None:
        random = np.random.default_rng(0)
        shape = (layer.outputs, layer.channels, layer.taps)
        kernel = random.normal(0, (layer.channels * layer.taps) ** -0.5, shape).astype(np.float32)
        self.column, self.row = kernel[..., None].copy(), kernel[:, :, None].copy()
        self.stacked = kernel.transpose(0, 2, 1).reshape(layer.outputs, -1, 1, 1).copy()
        self.each = [kernel[:, :, tap, None, None].copy() for tap in range(layer.taps)]
        self.bias = random.normal(0, 0.1, layer.outputs).astype(np.float32)


def column(ops: Any, x: Any, layer: Layer, weights: Weights) -> Any:
    """k x 1 on T x HW."""
    return ops.convolve(x, weights.column, weights.bias, stride=(layer.stride, 1), pads=(layer.around, (0, 0)))


def column_of_frames(ops: Any, x: Any, layer: Layer, weights: Weights) -> Any:
    """k x 1, dilated by H, on TH x W."""
    height = layer.height
    x = ops.view(x, 1, layer.time * height, layer.width, layer.channels)
    around = (layer.around[0] * height, layer.around[1] * height)
    y = ops.convolve(x, weights.column, weights.bias, dilation=(height, 1), pads=(around, (0, 0)))
    return ops.view(y, 1, layer.time, layer.area, layer.outputs)


def row(ops: Any, x: Any, layer: Layer, weights: Weights) -> Any:
    """1 x k, dilated by HW, on 1 x THW."""
    area = layer.area
    x = ops.view(x, 1, 1, layer.time * area, layer.channels)
    around = (layer.around[0] * area, layer.around[1] * area)
    y = ops.convolve(x, weights.row, weights.bias, dilation=(1, area), pads=((0, 0), around))
    return ops.view(y, 1, layer.time, area, layer.outputs)


def time_last(ops: Any, x: Any, layer: Layer, weights: Weights) -> Any:
    """1 x k on HW x T, moved there and back."""
    x = ops.transpose(x, 0, 2, 1, 3)
    y = ops.convolve(x, weights.row, weights.bias, stride=(1, layer.stride), pads=((0, 0), layer.around))
    return ops.transpose(y, 0, 2, 1, 3)


def lines(ops: Any, x: Any, layer: Layer, weights: Weights) -> Any:
    """1D along T, of HW lines, moved there and back."""
    x = ops.view(ops.transpose(x, 0, 2, 1, 3), layer.area, 1, layer.time, layer.channels)
    y = ops.line(x, weights.row, weights.bias, layer.around, layer.stride)
    steps = ops.dims(y)[2]
    return ops.transpose(ops.view(y, 1, layer.area, steps, layer.outputs), 0, 2, 1, 3)


def _shifted(ops: Any, x: Any, layer: Layer) -> Iterator[Any]:
    """What each tap sees, in turn. A stride is a view, since XNNPACK slices with step 1 only."""
    (before, after), stride, area = layer.around, layer.stride, layer.area
    steps = (before + layer.time + after - layer.taps) // stride + 1
    rows = steps + (layer.taps - 1) // stride
    x = ops.pad(x, 1, before, rows * stride - before - layer.time)
    x = ops.view(x, 1, rows, stride * area, layer.channels) if stride > 1 else x
    for tap in range(layer.taps):
        seen = ops.part(x, 1, tap // stride, steps)
        yield ops.part(seen, 2, tap % stride * area, area) if stride > 1 else seen


def stacked(ops: Any, x: Any, layer: Layer, weights: Weights) -> Any:
    """1x1 on k shifted copies, joined."""
    parts = list(_shifted(ops, x, layer))
    while len(parts) > 1:  # XNNPACK joins five at most.
        parts = [ops.join(parts[:4]), *parts[4:]]
    return ops.convolve(parts[0], weights.stacked, weights.bias)


def summed(ops: Any, x: Any, layer: Layer, weights: Weights) -> Any:
    """Sum of k 1x1."""
    total = None
    for tap, seen in enumerate(_shifted(ops, x, layer)):
        one = ops.convolve(seen, weights.each[tap], None if tap else weights.bias, relu=False)
        total = one if total is None else ops.both("Add", total, one, relu=tap == layer.taps - 1)
    return total


def space_first(ops: Any, x: Any, layer: Layer, weights: Any) -> Any:
    """3x3, then 3 in time."""
    return _in_time(ops, ops.pool(x, (3, 3), ((1, 1), (1, 1))), layer)


def time_first(ops: Any, x: Any, layer: Layer, weights: Any) -> Any:
    """3 in time, then 3x3."""
    y = ops.view(_in_time(ops, x, layer), layer.time, layer.height, layer.width, layer.channels)
    return ops.view(ops.pool(y, (3, 3), ((1, 1), (1, 1))), 1, layer.time, layer.area, layer.channels)


def three_lines(ops: Any, x: Any, layer: Layer, weights: Any) -> Any:
    """1x3, 3x1, then 3 in time."""
    y = ops.pool(ops.pool(x, (1, 3), ((0, 0), (1, 1))), (3, 1), ((1, 1), (0, 0)))
    return _in_time(ops, y, layer)


def shifted_maximum(ops: Any, x: Any, layer: Layer, weights: Any) -> Any:
    """3x3, then the largest of three shifted copies."""
    y = ops.pool(x, (3, 3), ((1, 1), (1, 1)))
    before, here, after = _shifted(ops, ops.view(y, 1, layer.time, layer.area, layer.channels), layer)
    return ops.both("Maximum", ops.both("Maximum", before, here), after)


def _in_time(ops: Any, x: Any, layer: Layer) -> Any:
    x = ops.view(x, 1, layer.time, layer.area, layer.channels)
    return ops.pool(x, (3, 1), ((1, 1), (0, 0)))


Form = Callable[[Any, Any, Layer, Any], Any]
CONVOLUTIONS: tuple[Form, ...] = (column, column_of_frames, row, time_last, lines, stacked, summed)
STRIDED: tuple[Form, ...] = (column, time_last, lines, stacked, summed)
"""A dilated kernel of stride 2 would have to move by two frames and see every position of one."""
POOLS: tuple[Form, ...] = (space_first, time_first, three_lines, shifted_maximum)
"""All for values that are not negative, as behind a ReLU: zeros stand for what lies outside."""


def exact(form: Form, runtime: str) -> bool:
    """Whether it is the same function there. INT8 sums of rounded INT8 products are not: every product is rounded."""
    return form is not summed or "INT8" not in runtime
