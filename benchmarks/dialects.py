"""The operators of `benchmarks.graphs.Graph` in PyTorch and ONNX Runtime, so that a form of a layer is written once.

Shapes are [B, H, W, C] to whoever calls. PyTorch keeps that memory, which is its channels-last; ONNX Runtime's is
[B, C, H, W], so that what changes the batch there is a move of memory. It times nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor
from torch.nn import functional as F

from benchmarks.graphs import SCALE, Pair

Array = NDArray[Any]
Pads = tuple[Pair, Pair]
_NONE: Pads = ((0, 0), (0, 0))


class Eager:
    """PyTorch, at once. The methods are those of `Graph`; weights are made once a name, outside of what is timed."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self._dtype = dtype
        self._made: dict[int, tuple[Array, Tensor]] = {}

    def dims(self, x: Tensor) -> list[int]:
        """Shape."""
        return list(x.shape)

    def view(self, x: Tensor, *dims: int) -> Tensor:
        """The same bytes in another shape."""
        return x.reshape(dims)

    def transpose(self, x: Tensor, *order: int) -> Tensor:
        """The axes in another order, moved in memory."""
        return x.permute(order).contiguous()

    def part(self, x: Tensor, axis: int, start: int, size: int) -> Tensor:
        """Some of an axis."""
        return x.narrow(axis, start, size)

    def pad(self, x: Tensor, axis: int, before: int, after: int) -> Tensor:
        """Zeros before and after an axis."""
        return F.pad(x, (0, 0) * (x.ndim - 1 - axis) + (before, after))

    def join(self, parts: list[Tensor], axis: int = 3) -> Tensor:
        """Several along one axis."""
        return torch.cat(parts, axis)

    def convolve(
        self,
        x: Tensor,
        weight: Array,
        bias: Array | None,
        *,
        stride: Pair = (1, 1),
        dilation: Pair = (1, 1),
        pads: Pads = _NONE,
        relu: bool = True,
    ) -> Tensor:
        """A convolution by [O, I, kh, kw]."""
        (top, bottom), (left, right) = pads
        inside = (top, left) if (top, left) == (bottom, right) else (0, 0)
        if inside != (top, left):
            x = F.pad(x, (0, 0, left, right, top, bottom))
        made = [None if array is None else self._weight(array) for array in (weight, bias)]
        y = F.conv2d(x.permute(0, 3, 1, 2), made[0], made[1], stride, inside, dilation).permute(0, 2, 3, 1)  # type: ignore[arg-type]
        return y.relu_() if relu else y

    def line(self, x: Tensor, weight: Array, bias: Array, pads: Pair, stride: int) -> Tensor:
        """A convolution of [B, 1, L, C] along L, by [O, I, 1, k]."""
        row = F.pad(x[:, 0], (0, 0, *pads)).transpose(1, 2)
        y = F.conv1d(row, self._weight(weight)[:, :, 0], self._weight(bias), stride)
        return y.relu_().transpose(1, 2).unsqueeze(1)

    def pool(self, x: Tensor, kernel: Pair, pads: Pads) -> Tensor:
        """A max pool of stride 1."""
        (top, _), (left, _) = pads
        return F.max_pool2d(x.permute(0, 3, 1, 2), kernel, 1, (top, left)).permute(0, 2, 3, 1)

    def both(self, kind: str, one: Tensor, other: Tensor, *, relu: bool = False) -> Tensor:
        """`Add` or `Maximum` of two values."""
        y = one + other if kind == "Add" else torch.maximum(one, other)
        return y.relu_() if relu else y

    def _weight(self, array: Array) -> Tensor:
        if id(array) not in self._made:
            tensor = torch.from_numpy(array).to(self._dtype)
            last = torch.channels_last if array.ndim == 4 else torch.contiguous_format
            self._made[id(array)] = array, tensor.contiguous(memory_format=last)
        return self._made[id(array)][1]


_CHANNELS_SECOND = (0, 3, 1, 2)
"""Axes of [B, H, W, C], in the order of ONNX."""


class Onnx:
    """A model being written; values are names. INT8: activations are, and a convolution stands between Q and DQ."""

    def __init__(self, *, int8: bool) -> None:
        self._int8 = int8
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._dims: dict[str, list[int]] = {}
        self._kind = TensorProto.INT8 if int8 else TensorProto.FLOAT

    def input(self, *dims: int) -> str:
        """The one value that comes from outside."""
        self._dims["x"] = list(dims)
        return "x"

    def session(self, result: str, threads: int) -> Callable[[Array], Array]:
        """Runs the model: of and to [B, C, H, W]."""
        import onnxruntime

        described = [
            helper.make_tensor_value_info(name, self._kind, _ordered(self._dims[name])) for name in ("x", result)
        ]
        graph = helper.make_graph(self._nodes, "form", described[:1], described[1:], self._constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        onnx.checker.check_model(model)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.force_spinning_stop", "1")  # The others' turns are not ours.
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return lambda x: session.run(None, {"x": x})[0]

    def dims(self, x: str) -> list[int]:
        """Shape, [B, H, W, C]."""
        return self._dims[x]

    def view(self, x: str, *dims: int) -> str:
        """Another shape; where the batch is another, channels go last for it and back."""
        if dims[0] == self._dims[x][0]:
            return self._node("Reshape", [x, self._constant(np.array(_ordered(dims)))], dims)
        last = self._node("Transpose", [x], self._dims[x], perm=[0, 2, 3, 1])
        reshaped = self._node("Reshape", [last, self._constant(np.array(dims))], dims)
        return self._node("Transpose", [reshaped], dims, perm=list(_CHANNELS_SECOND))

    def transpose(self, x: str, *order: int) -> str:
        """The axes in another order."""
        perm = [_CHANNELS_SECOND.index(axis) for axis in _ordered(order)]
        return self._node("Transpose", [x], [self._dims[x][axis] for axis in order], perm=perm)

    def part(self, x: str, axis: int, start: int, size: int) -> str:
        """Some of an axis."""
        dims = list(self._dims[x])
        dims[axis] = size
        ends = [self._constant(np.array([end])) for end in (start, start + size, _CHANNELS_SECOND.index(axis))]
        return self._node("Slice", [x, *ends], dims)

    def pad(self, x: str, axis: int, before: int, after: int) -> str:
        """Zeros before and after an axis."""
        dims = list(self._dims[x])
        dims[axis] += before + after
        pads = np.zeros((2, 4), np.int64)
        pads[:, _CHANNELS_SECOND.index(axis)] = before, after
        return self._node("Pad", [x, self._constant(pads.ravel())], dims)

    def join(self, parts: list[str], axis: int = 3) -> str:
        """Several along one axis."""
        dims = list(self._dims[parts[0]])
        dims[axis] = sum(self._dims[part][axis] for part in parts)
        return self._node("Concat", parts, dims, axis=_CHANNELS_SECOND.index(axis))

    def convolve(
        self,
        x: str,
        weight: Array,
        bias: Array | None,
        *,
        stride: Pair = (1, 1),
        dilation: Pair = (1, 1),
        pads: Pads = _NONE,
        relu: bool = True,
    ) -> str:
        """A convolution by [O, I, kh, kw]."""
        batch, *area, _ = self._dims[x]
        sizes = [
            (size + sum(around) - spread * (k - 1) - 1) // step + 1
            for size, around, spread, k, step in zip(area, pads, dilation, weight.shape[2:], stride, strict=True)
        ]
        dims = [batch, *sizes, len(weight)]
        around = [pads[0][0], pads[1][0], pads[0][1], pads[1][1]]
        given = [self._dequantized(x), *self._weights(weight, bias)]
        y = self._node("Conv", given, dims, pads=around, strides=list(stride), dilations=list(dilation))
        return self._quantized(self._node("Relu", [y], dims) if relu else y)

    def line(self, x: str, weight: Array, bias: Array, pads: Pair, stride: int) -> str:
        """A convolution of [B, 1, L, C] along L, by [O, I, 1, k]."""
        batch, _, length, channels = self._dims[x]
        shape = self._constant(np.array([batch, channels, length]))
        row = self._dequantized(self._node("Reshape", [x, shape], self._dims[x]))
        size = (length + sum(pads) - weight.shape[3]) // stride + 1
        dims = [batch, 1, size, len(weight)]
        given = [row, *self._weights(np.ascontiguousarray(weight[:, :, 0]), bias)]
        y = self._quantized(
            self._node("Relu", [self._node("Conv", given, dims, pads=list(pads), strides=[stride])], dims)
        )
        return self._node("Reshape", [y, self._constant(np.array(_ordered(dims)))], dims)

    def pool(self, x: str, kernel: Pair, pads: Pads) -> str:
        """A max pool of stride 1, of as many values as before."""
        around = [pads[0][0], pads[1][0], pads[0][1], pads[1][1]]
        return self._node("MaxPool", [x], self._dims[x], kernel_shape=list(kernel), pads=around, strides=[1, 1])

    def both(self, kind: str, one: str, other: str, *, relu: bool = False) -> str:
        """`Add` of floats, or `Maximum`, of two values."""
        dims = self._dims[one]
        y = self._node("Add" if kind == "Add" else "Max", [one, other], dims)
        return self._node("Relu", [y], dims) if relu else y

    def _node(self, kind: str, given: list[str], dims: Any, **settings: Any) -> str:
        name = f"v{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, given, [name], **settings))
        self._dims[name] = list(dims)
        return name

    def _constant(self, array: Array) -> str:
        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(array, name))
        return name

    def _weights(self, weight: Array, bias: Array | None) -> list[str]:
        if not self._int8:
            return [self._constant(array) for array in (weight, bias) if array is not None]
        steps = (np.abs(weight).reshape(len(weight), -1).max(1).clip(2.0**-20) / 127).astype(np.float32)
        rounded = np.rint(weight / steps.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.int8)
        given = [(rounded, steps)]
        if bias is not None:
            sums = (steps * np.float32(SCALE)).astype(np.float32)
            given.append((np.rint(bias / sums).astype(np.int32), sums))
        return [
            self._node("DequantizeLinear", [self._constant(numbers), self._constant(scales)], [], axis=0)
            for numbers, scales in given
        ]

    def _dequantized(self, x: str) -> str:
        return self._node("DequantizeLinear", [x, *self._scale()], self._dims[x]) if self._int8 else x

    def _quantized(self, x: str) -> str:
        return self._node("QuantizeLinear", [x, *self._scale()], self._dims[x]) if self._int8 else x

    def _scale(self) -> list[str]:
        return [self._constant(np.array(SCALE, np.float32)), self._constant(np.array(0, np.int8))]


def _ordered(dims: Any) -> list[int]:
    """[B, H, W, C] as [B, C, H, W]."""
    return [int(dims[axis]) for axis in _CHANNELS_SECOND]
