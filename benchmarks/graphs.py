"""Writes small graphs of XNNPACK by hand, as ExecuTorch would serialize them, for `benchmarks.xnnpack.Part` to run.

INT8 graphs have one scale for all activations and one for each output channel of a weight. It times nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from executorch.backends.xnnpack.serialization import xnnpack_graph_schema as schema
from numpy.typing import NDArray

from benchmarks.xnnpack import described

SCALE = 1 / 32
"""Of INT8 activations."""
_INPUT, _OUTPUT = 1, 2
_KEEP_DIMS = 64
"""`XNN_FLAG_KEEP_DIMS`."""
Pair = tuple[int, int]


class Graph:
    """A graph being written. Values are numbers; their memory is [B, H, W, C]."""

    def __init__(self, *, int8: bool) -> None:
        self.int8 = int8
        self.constants = bytearray()
        self.written = schema.XNNGraph("0", [], [], 0, [], [], [schema.ConstantDataOffset(0, 0)])

    def input(self, *dims: int, kind: str = "") -> int:
        """A value that comes from outside; floats, if `kind` is fp32."""
        value = self._value(dims, flags=_INPUT, kind=kind)
        self.written.input_ids.append(value)
        self.written.num_externs += 1
        return value

    def output(self, value: int) -> None:
        """Let a value leave the graph."""
        tensor = self._tensor(value)
        tensor.flags, tensor.external_id = _OUTPUT, self.written.num_externs
        self.written.output_ids.append(value)
        self.written.num_externs += 1

    def dims(self, value: int) -> list[int]:
        """Shape of a value."""
        return list(self._tensor(value).dims)

    def view(self, x: int, *dims: int) -> int:
        """The same bytes in another shape."""
        return self._node(dims, schema.XNNStaticReshape(4, list(dims), x, 0, 0))

    def transpose(self, x: int, *order: int) -> int:
        """The axes in another order."""
        dims = [self.dims(x)[axis] for axis in order]
        return self._node(dims, schema.XNNStaticTranspose(4, list(order), x, 0, 0))

    def part(self, x: int, axis: int, start: int, size: int) -> int:
        """Some of an axis."""
        dims, offsets = self.dims(x), [0, 0, 0, 0]
        dims[axis], offsets[axis] = size, start
        return self._node(dims, schema.XNNStaticSlice(4, offsets, list(dims), x, 0, 0))

    def pad(self, x: int, axis: int, before: int, after: int) -> int:
        """Zeros before and after an axis."""
        dims, front, back = self.dims(x), [0, 0, 0, 0], [0, 0, 0, 0]
        dims[axis], front[axis], back[axis] = dims[axis] + before + after, before, after
        return self._node(dims, schema.XNNStaticConstantPad(front, back, 0.0, x, 0, 0))

    def join(self, parts: list[int], axis: int = 3) -> int:
        """Several along one axis."""
        dims = self.dims(parts[0])
        dims[axis] = sum(self.dims(part)[axis] for part in parts)
        ids = [*parts, *[0] * (5 - len(parts))]
        kind = getattr(schema, f"XNNConcatenate{len(parts)}")
        return self._node(dims, kind(axis, *ids[:4], 0, 0, ids[4]))

    def convolve(
        self,
        x: int,
        weight: NDArray[np.float32],
        bias: NDArray[np.float32] | None,
        *,
        stride: Pair = (1, 1),
        dilation: Pair = (1, 1),
        pads: tuple[Pair, Pair] = ((0, 0), (0, 0)),
        relu: bool = True,
    ) -> int:
        """A convolution by float32 [O, I, kh, kw], rounded to INT8 per output channel where the graph is INT8."""
        batch, *area, inputs = self.dims(x)
        outputs, _, *kernel = weight.shape
        down, across = (
            (size + sum(around) - spread * (length - 1) - 1) // step + 1
            for size, around, spread, length, step in zip(area, pads, dilation, kernel, stride, strict=True)
        )
        (top, bottom), (left, right) = pads
        ids = self._weights(np.moveaxis(weight, 1, -1), bias)
        call = schema.XNNConv2d(
            top, right, bottom, left, *kernel, *stride, *dilation, inputs, outputs, 1, 0, 0, x, *ids, 0, 0
        )  # fmt: skip
        return self._node((batch, down, across, outputs), call, relu=relu)

    def line(self, x: int, weight: NDArray[np.float32], bias: NDArray[np.float32], pads: Pair, stride: int) -> int:
        """A convolution of [B, 1, L, C] along L, by [O, I, 1, k]."""
        return self.convolve(x, weight, bias, stride=(1, stride), pads=((0, 0), pads))

    def pool(self, x: int, kernel: Pair, pads: tuple[Pair, Pair]) -> int:
        """A max pool of stride 1."""
        batch, *area, channels = self.dims(x)
        sizes = [size + sum(around) - k + 1 for size, around, k in zip(area, pads, kernel, strict=True)]
        (top, bottom), (left, right) = pads
        call = schema.XNNMaxPooling2d(top, right, bottom, left, *kernel, 1, 1, 1, 1, x, 0, _KEEP_DIMS)
        return self._node((batch, *sizes, channels), call)

    def mean(self, x: int) -> int:
        """Of all positions."""
        batch, *_, channels = self.dims(x)
        return self._node((batch, 1, 1, channels), schema.XNNGlobalAvgPooling2d(x, 0, _KEEP_DIMS))

    def both(self, kind: str, one: int, other: int, *, relu: bool = False) -> int:
        """`Add`, `Multiply` or `Maximum` of two values, the second of the same size or of one position."""
        return self._node(self.dims(one), getattr(schema, f"XNN{kind}")(one, other, 0, 0), relu=relu)

    def each(self, kind: str, x: int) -> int:
        """`Copy` or `Sigmoid` of a value."""
        return self._node(self.dims(x), getattr(schema, f"XNN{kind}")(x, 0, 0))

    def convert(self, x: int, *, to_float: bool) -> int:
        """The value as floats, or as INT8."""
        return self._node(self.dims(x), schema.XNNConvert(x, 0, 0), kind="fp32" if to_float else "")

    def _node(self, dims: Any, call: Any, *, relu: bool = False, kind: str = "") -> int:
        call.output_id = self._value(dims, kind=kind)
        limits = schema.OutputMinMax(0.0, "+inf") if relu else None
        self.written.xnodes.append(schema.XNode(call, 0, limits))
        return int(call.output_id)

    def _value(self, dims: Any, *, flags: int = 0, kind: str = "", constant: int = 0, scales: Any = None) -> int:
        number = len(self.written.xvalues)
        datatype = schema.XNNDatatype[f"xnn_datatype_{kind or ('qint8' if self.int8 else 'fp32')}"]
        external = self.written.num_externs if flags else 2**32 - 1
        union: Any = schema.XNNTensorValue(datatype, len(dims), list(dims), constant, external, flags, number)
        if self.int8 and kind != "fp32":
            union = schema.XNNQuantizedTensorValue(union, scales or schema.PerTensorQuant(SCALE, 0))
        self.written.xvalues.append(schema.XValue(union))
        return number

    def _tensor(self, value: int) -> Any:
        return described(self.written.xvalues[value])

    def _weights(self, weight: NDArray[np.float32], bias: NDArray[np.float32] | None) -> tuple[int, int]:
        """Numbers of the kernel, [O, kh, kw, I], and of the bias; the largest number means that there is none."""
        if not self.int8:
            kernel = self._value(weight.shape, kind="fp32", constant=self._constant(weight.astype(np.float32)))
            made = [] if bias is None else [self._value(bias.shape, constant=self._constant(bias.astype(np.float32)))]
            return kernel, *(made or [2**32 - 1])  # type: ignore[return-value]
        steps = np.abs(weight).max((1, 2, 3)).clip(2.0**-20) / 127
        rounded = np.rint(weight / steps[:, None, None, None]).astype(np.int8)
        scales = schema.PerChannelQuant([], 0, self._constant(steps.astype(np.float32)), len(steps))
        kernel = self._value(rounded.shape, kind="qcint8", constant=self._constant(rounded), scales=scales)
        if bias is None:
            return kernel, 2**32 - 1
        whole = self._constant(np.rint(bias / (steps * SCALE)).astype(np.int32))
        return kernel, self._value(bias.shape, kind="qcint32", constant=whole, scales=scales)

    def _constant(self, array: NDArray[Any]) -> int:
        data = np.ascontiguousarray(array).tobytes()
        self.written.constant_data.append(schema.ConstantDataOffset(len(self.constants), len(data), None))
        self.constants.extend(data + bytes(-len(data) % 16))
        return len(self.written.constant_data) - 1
