"""The operators of an ML Program that the reference interpreter knows, over PyTorch. Knows no file and no program.

Semantics are those of coremltools' operator documentation (`coremltools.converters.mil.mil.ops.defs`), and of its own
constant folding where the documentation leaves a choice. Sums of float16 values are float32 sums; the interpreter
decides whether a float16 result is rounded or held in float32. A device may sum in float16; this does not.

An operator takes its arguments by their MIL names. A constant scalar is a Python value, all else is a tensor of the
declared type. Its result is cast to the declared type by the interpreter, which is all there is to `cast`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Arguments = Mapping[str, Any]
Operator = Callable[[Arguments], Any]
"""From arguments to a tensor, or to one tensor for each output."""


def _wide(value: Any) -> Any:
    """Float32 of a float16 tensor, to sum in; anything else as it is."""
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.float16 else value


def _ints(value: Any) -> list[int]:
    return [int(v) for v in value]


def _along(value: Any, axis: int | None, rank: int) -> Any:
    """A vector of scales or zero points, shaped to broadcast along `axis`; a scalar as it is."""
    if not isinstance(value, Tensor) or axis is None:
        return value
    shape = [1] * rank
    shape[axis] = -1
    return value.reshape(shape)


# Quantization -------------------------------------------------------------------------------------------------------


def _quantize(a: Arguments) -> Tensor:
    """clip(round(x / scale) + zero point), ties to even; the quotient has the type of x, as in coremltools."""
    x, axis = a["input"], a.get("axis")
    scale, zero_point = (_along(value, axis, x.dim()) for value in (a["scale"], a.get("zero_point", 0)))
    low, high = (0, 255) if a["output_dtype"] == "uint8" else (-128, 127)
    # Float32 holds round + zero point exactly; in float16 a large quotient would swallow the zero point.
    result: Tensor = (torch.round(x / scale).float() + zero_point).clamp(low, high)
    return result


def _dequantize(a: Arguments, data: str = "input") -> Tensor:
    """(q - zero point) * scale."""
    q, axis = a[data], a.get("axis")
    scale, zero_point = (_along(value, axis, q.dim()) for value in (a["scale"], a.get("zero_point", 0)))
    result: Tensor = (q.float() - zero_point) * _wide(scale)
    return result


def _blockwise(a: Arguments) -> Tensor:
    """(data - offset) * scale, each scale serving one block of the data on every axis."""
    data = a["data"]

    def spread(value: Tensor) -> Tensor:
        for axis, size in enumerate(data.shape):
            value = value.repeat_interleave(size // value.shape[axis], dim=axis)
        return value.float()

    offset = spread(a["offset"]) if "offset" in a else 0.0
    result: Tensor = (data.float() - offset) * spread(a["scale"])
    return result


# Windows ------------------------------------------------------------------------------------------------------------


def _window_pads(a: Arguments, sizes: list[int], kernel: list[int], strides: list[int]) -> list[tuple[int, int]]:
    """Elements to add before and after each spatial axis so that the windows end exactly where the input does.

    `kernel` holds the extents, dilation included. The end is negative where the last elements are not looked at.
    """
    kind, pads = a["pad_type"], []
    given = _ints(a.get("pad", [0] * (2 * len(sizes)))) if kind == "custom" else [0] * (2 * len(sizes))
    for axis, (size, extent, stride) in enumerate(zip(sizes, kernel, strides, strict=True)):
        before, after = given[2 * axis : 2 * axis + 2]
        if kind in ("same", "same_lower"):
            steps = -(-size // stride)
            total = max((steps - 1) * stride + extent - size, 0)
            before = total // 2 if kind == "same" else total - total // 2
        else:
            free = size + before + after - extent
            steps = free // stride + 1
            if a.get("ceil_mode", False):
                steps = -(-free // stride) + 1
                # A window may not begin in the padding at the end, as in PyTorch.
                steps -= before + after > 0 and (steps - 1) * stride >= size + before
        pads.append((before, (steps - 1) * stride + extent - size - before))
    return pads


def _pad_spatial(x: Tensor, pads: list[tuple[int, int]], value: float) -> Tensor:
    flat = [amount for pair in reversed(pads) for amount in pair]
    return F.pad(x, flat, value=value) if any(flat) else x


_CONVOLUTIONS: tuple[Callable[..., Tensor], ...] = (F.conv1d, F.conv2d, F.conv3d)
_MAX_POOLS: tuple[Callable[..., Tensor], ...] = (F.max_pool1d, F.max_pool2d, F.max_pool3d)
_AVERAGE_POOLS: tuple[Callable[..., Tensor], ...] = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)


def _conv(a: Arguments) -> Tensor:
    x, weight, bias = _wide(a["x"]), _wide(a["weight"]), _wide(a.get("bias"))
    rank = x.dim() - 2
    strides, dilations = (_ints(a.get(name, [1] * rank)) for name in ("strides", "dilations"))
    extents = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations, strict=True)]
    # `valid` is also the default of pad_type.
    pads = _window_pads({"pad_type": "valid", **a}, list(x.shape[2:]), extents, strides)
    convolve = _CONVOLUTIONS[len(strides) - 1]
    return convolve(_pad_spatial(x, pads, 0.0), weight, bias, strides, 0, dilations, a.get("groups", 1))


def _pool(a: Arguments) -> tuple[Tensor, list[int], list[int], list[tuple[int, int]]]:
    """Input [n, c, and one to three axes more], kernel, strides and padding of a pool."""
    x, kernel = a["x"], _ints(a["kernel_sizes"])
    strides = _ints(a.get("strides", [1] * len(kernel)))
    return x, kernel, strides, _window_pads(a, list(x.shape[2:]), kernel, strides)


def _max_pool(a: Arguments) -> Tensor:
    x, kernel, strides, pads = _pool(a)
    return _MAX_POOLS[len(kernel) - 1](_pad_spatial(x, pads, -math.inf), kernel, strides)


def _avg_pool(a: Arguments) -> Tensor:
    x, kernel, strides, pads = _pool(a)
    pool = _AVERAGE_POOLS[len(kernel) - 1]
    mean = pool(_pad_spatial(_wide(x), pads, 0.0), kernel, strides)
    if not a.get("exclude_padding_from_average", False):
        return mean
    return mean / pool(_pad_spatial(torch.ones_like(_wide(x)), pads, 0.0), kernel, strides)


# Sums ---------------------------------------------------------------------------------------------------------------


def _matmul(a: Arguments) -> Tensor:
    x, y = _wide(a["x"]), _wide(a["y"])
    x = x.transpose(-1, -2) if a.get("transpose_x", False) else x
    y = y.transpose(-1, -2) if a.get("transpose_y", False) else y
    return torch.matmul(x, y)


def _reduce(function: Callable[..., Tensor]) -> Operator:
    def reduce(a: Arguments) -> Tensor:
        x = _wide(a["x"])
        axes = _ints(a["axes"]) if "axes" in a else list(range(x.dim()))
        return function(x, axes, keepdim=a.get("keep_dims", False))

    return reduce


def _batch_norm(a: Arguments) -> Tensor:
    x, mean, variance, gamma, beta = (_wide(a.get(name)) for name in ("x", "mean", "variance", "gamma", "beta"))
    return F.batch_norm(x, mean, variance, gamma, beta, training=False, eps=a.get("epsilon", 1e-5))


# Shapes -------------------------------------------------------------------------------------------------------------


def _reshape(a: Arguments) -> Tensor:
    x, shape = a["x"], _ints(a["shape"])
    result: Tensor = x.reshape([x.shape[axis] if size == 0 else size for axis, size in enumerate(shape)])
    return result


def _pad(a: Arguments) -> Tensor:
    """Constant padding of the last len(pad) / 2 axes; `pad` begins with the first of them, PyTorch with the last."""
    pads = _ints(a["pad"])
    pairs = [(pads[i], pads[i + 1]) for i in range(0, len(pads), 2)]
    return _pad_spatial(a["x"], pairs, a.get("constant_val", 0.0))


def _split(a: Arguments) -> tuple[Tensor, ...]:
    x, axis = a["x"], a["axis"]
    sizes = _ints(a["split_sizes"]) if "split_sizes" in a else x.shape[axis] // a["num_splits"]
    parts: tuple[Tensor, ...] = torch.split(x, sizes, dim=axis)
    return parts


def _slice_by_index(a: Arguments) -> Tensor:
    x, begin, end = a["x"], _ints(a["begin"]), _ints(a["end"])
    stride = _ints(a.get("stride", [1] * x.dim()))
    from_start, to_end, squeeze = (
        [bool(v) for v in a.get(name, [False] * x.dim())] for name in ("begin_mask", "end_mask", "squeeze_mask")
    )
    index = tuple(
        begin[i] if squeeze[i] else slice(None if from_start[i] else begin[i], None if to_end[i] else end[i], stride[i])
        for i in range(x.dim())
    )
    result: Tensor = x[index]
    return result


def _expand_dims(a: Arguments) -> Tensor:
    x: Tensor = a["x"]
    rank = x.dim() + len(a["axes"])
    for axis in sorted(axis % rank for axis in _ints(a["axes"])):
        x = x.unsqueeze(axis)
    return x


def _squeeze(a: Arguments) -> Tensor:
    x: Tensor = a["x"]
    return x.squeeze(tuple(_ints(a["axes"]))) if "axes" in a else x.squeeze()


def _two(function: Callable[[Any, Any], Any]) -> Operator:
    # A constant fills the place of either argument, so both may be plain numbers.
    return lambda a: function(torch.as_tensor(a["x"]), a["y"])


OPERATORS: Mapping[str, Operator] = {
    "add": _two(torch.add),
    "avg_pool": _avg_pool,
    "batch_norm": _batch_norm,
    "cast": lambda a: a["x"],
    "clip": lambda a: a["x"].clamp(a["alpha"], a["beta"]),
    "concat": lambda a: torch.cat(list(a["values"]), dim=a["axis"]),
    "constexpr_affine_dequantize": lambda a: _dequantize(a, "quantized_data"),
    "constexpr_blockwise_shift_scale": _blockwise,
    "conv": _conv,
    "dequantize": _dequantize,
    "expand_dims": _expand_dims,
    "identity": lambda a: a["x"],
    "linear": lambda a: F.linear(_wide(a["x"]), _wide(a["weight"]), _wide(a.get("bias"))),
    "matmul": _matmul,
    "max_pool": _max_pool,
    "maximum": _two(lambda x, y: torch.maximum(x, torch.as_tensor(y, dtype=x.dtype))),
    "minimum": _two(lambda x, y: torch.minimum(x, torch.as_tensor(y, dtype=x.dtype))),
    "mul": _two(torch.mul),
    "pad": _pad,
    "quantize": _quantize,
    "real_div": _two(torch.div),
    "reduce_mean": _reduce(torch.mean),
    "reduce_sum": _reduce(torch.sum),
    "relu": lambda a: F.relu(a["x"]),
    "relu6": lambda a: F.relu6(a["x"]),
    "reshape": _reshape,
    "sigmoid": lambda a: torch.sigmoid(a["x"]),
    "slice_by_index": _slice_by_index,
    "softmax": lambda a: torch.softmax(_wide(a["x"]), a.get("axis", -1)),
    "split": _split,
    "squeeze": _squeeze,
    "sub": _two(torch.sub),
    "transpose": lambda a: a["x"].permute(_ints(a["perm"])),
}

ONLY: Mapping[tuple[str, str], tuple[object, ...]] = {
    ("avg_pool", "ceil_mode"): (False,),
    ("concat", "interleave"): (False,),
    ("pad", "mode"): ("constant",),
}
"""Constant arguments that must have one of these values here."""
