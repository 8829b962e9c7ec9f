"""Each operator computes what coremltools documents: held against NumPy, PyTorch or coremltools' own folding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from d3d_edge.runtimes.mil import quiet
from d3d_edge.runtimes.mil_ops import OPERATORS
from tests.unit.runtimes.packages import Body, mb, run

with quiet():
    from coremltools.optimize import _utils as authority

RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.normal(size=(2, 4, 7, 9)).astype(np.float32)
OTHER = RANDOM.normal(size=(2, 4, 7, 9)).astype(np.float32)
WEIGHT = RANDOM.normal(size=(6, 4, 3, 2)).astype(np.float32)
SOLID = RANDOM.normal(size=(6, 2, 3, 3, 2)).astype(np.float32)
GROUPED = RANDOM.normal(size=(6, 2, 3, 2)).astype(np.float32)
BIAS = RANDOM.normal(size=6).astype(np.float32)
ROWS = RANDOM.normal(size=(3, 9)).astype(np.float32)
CHANNELS = np.float32([1, 2, 3, 4])
"""A value for each of the image's four channels."""


def t(array: np.ndarray[Any, Any]) -> torch.Tensor:
    return torch.from_numpy(array)


def below(x: Any) -> Any:
    """All values negative, so that a pad of 0 would win a maximum."""
    return mb.sub(x=x, y=np.float32(9))


def volume(x: Any) -> Any:
    """The two images as channels of one, whose channels are a third axis of space."""
    return mb.expand_dims(x=x, axes=[0])


def sigmoid(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return 1 / (1 + np.exp(-x))


def softmax(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.exp(x) / np.exp(x).sum(1, keepdims=True)


ONE_INPUT: dict[str, tuple[Body, Callable[[np.ndarray[Any, Any]], Any]]] = {
    "relu": (lambda x: mb.relu(x=x), lambda x: np.maximum(x, 0)),
    "relu6": (lambda x: mb.relu6(x=x), lambda x: np.clip(x, 0, 6)),
    "clip": (lambda x: mb.clip(x=x, alpha=-0.5, beta=0.25), lambda x: np.clip(x, -0.5, 0.25)),
    "sigmoid": (lambda x: mb.sigmoid(x=x), sigmoid),
    "softmax": (lambda x: mb.softmax(x=x, axis=1), softmax),
    "identity": (lambda x: mb.identity(x=x), lambda x: x),
    "add constant": (lambda x: mb.add(x=x, y=np.float32(1.5)), lambda x: x + 1.5),
    "sub from constant": (lambda x: mb.sub(x=np.float32(1.5), y=x), lambda x: 1.5 - x),
    "maximum": (lambda x: mb.maximum(x=x, y=np.float32(0.1)), lambda x: np.maximum(x, 0.1)),
    "minimum": (lambda x: mb.minimum(x=x, y=np.float32(0.1)), lambda x: np.minimum(x, 0.1)),
    "transpose": (lambda x: mb.transpose(x=x, perm=[0, 2, 3, 1]), lambda x: x.transpose(0, 2, 3, 1)),
    "reshape": (lambda x: mb.reshape(x=x, shape=[1, 8, 63]), lambda x: x.reshape(1, 8, 63)),
    "reshape, rest": (lambda x: mb.reshape(x=x, shape=[2, -1]), lambda x: x.reshape(2, -1)),
    "expand_dims": (
        lambda x: mb.expand_dims(x=mb.reshape(x=x, shape=[504]), axes=[0, 2]),
        lambda x: x.reshape(1, 504, 1),
    ),
    "squeeze": (lambda x: mb.squeeze(x=mb.reshape(x=x, shape=[1, 504, 1]), axes=[0]), lambda x: x.reshape(504, 1)),
    "reduce_mean": (
        lambda x: mb.reduce_mean(x=x, axes=[2, 3], keep_dims=True),
        lambda x: x.mean((2, 3), keepdims=True),
    ),
    "reduce_mean, all": (lambda x: mb.reduce_mean(x=x), lambda x: x.mean()),
    "reduce_sum": (lambda x: mb.reduce_sum(x=x, axes=[-1]), lambda x: x.sum(-1)),
    "pad": (
        lambda x: mb.pad(x=x, pad=[1, 2, 0, 3], mode="constant", constant_val=np.float32(0.5)),
        lambda x: np.pad(x, ((0, 0), (0, 0), (1, 2), (0, 3)), constant_values=0.5),
    ),
    "slice_by_index": (
        lambda x: mb.slice_by_index(
            x=x, begin=[0, 1, 2, 1], end=[2, 3, 0, 8], stride=[1, 1, 2, 3], end_mask=[False, False, True, False]
        ),
        lambda x: x[0:2, 1:3, 2::2, 1:8:3],
    ),
    "slice_by_index, squeezed": (
        lambda x: mb.slice_by_index(
            x=x,
            begin=[1, 3, 1, 0],
            end=[0, 4, 0, 0],
            begin_mask=[False, False, True, False],
            end_mask=[False, False, True, True],
            squeeze_mask=[True, False, False, False],
        ),
        lambda x: x[1, 3:4, :, :],
    ),
    "split": (lambda x: tuple(mb.split(x=x, num_splits=2, axis=1)), lambda x: np.split(x, 2, axis=1)),
    "split, sizes": (
        lambda x: tuple(mb.split(x=x, split_sizes=[2, 4, 3], axis=3)),
        lambda x: np.split(x, [2, 6], axis=3),
    ),
    "batch_norm": (
        lambda x: mb.batch_norm(x=x, mean=CHANNELS, variance=2 * CHANNELS, gamma=BIAS[:4], beta=BIAS[2:], epsilon=0.5),
        lambda x: F.batch_norm(t(x), t(CHANNELS), t(2 * CHANNELS), t(BIAS[:4]), t(BIAS[2:]), training=False, eps=0.5),
    ),
    "linear": (lambda x: mb.linear(x=x, weight=ROWS, bias=BIAS[:3]), lambda x: x @ ROWS.T + BIAS[:3]),
    "conv": (lambda x: mb.conv(x=x, weight=WEIGHT, pad_type="valid"), lambda x: F.conv2d(t(x), t(WEIGHT))),
    "conv, custom": (
        lambda x: mb.conv(x=x, weight=WEIGHT, bias=BIAS, strides=[2, 1], pad_type="custom", pad=[2, 0, 1, 3]),
        lambda x: F.conv2d(F.pad(t(x), (1, 3, 2, 0)), t(WEIGHT), t(BIAS), (2, 1)),
    ),
    "conv, groups and dilation": (
        lambda x: mb.conv(x=x, weight=GROUPED, groups=2, dilations=[2, 3], pad_type="valid"),
        lambda x: F.conv2d(t(x), t(GROUPED), groups=2, dilation=(2, 3)),
    ),
    # 7 rows at stride 2 want 2 more for 3 taps; 9 columns at stride 2 want 1 more for 2 taps, at the end or the start.
    "conv, same": (
        lambda x: mb.conv(x=x, weight=WEIGHT, strides=[2, 2], pad_type="same"),
        lambda x: F.conv2d(F.pad(t(x), (0, 1, 1, 1)), t(WEIGHT), stride=2),
    ),
    "conv, same_lower": (
        lambda x: mb.conv(x=x, weight=WEIGHT, strides=[2, 2], pad_type="same_lower"),
        lambda x: F.conv2d(F.pad(t(x), (1, 0, 1, 1)), t(WEIGHT), stride=2),
    ),
    "max_pool": (
        lambda x: mb.max_pool(x=x, kernel_sizes=[3, 2], strides=[2, 2], pad_type="valid"),
        lambda x: F.max_pool2d(t(x), (3, 2), 2),
    ),
    "max_pool, custom": (
        lambda x: mb.max_pool(x=below(x), kernel_sizes=[3, 3], strides=[1, 2], pad_type="custom", pad=[1, 1, 1, 1]),
        lambda x: F.max_pool2d(t(x) - 9, 3, (1, 2), 1),
    ),
    "max_pool, uneven": (
        lambda x: mb.max_pool(x=below(x), kernel_sizes=[3, 3], strides=[2, 2], pad_type="custom", pad=[0, 2, 1, 0]),
        lambda x: F.max_pool2d(F.pad(t(x) - 9, (1, 0, 0, 2), value=-torch.inf), 3, 2),
    ),
    "max_pool, ceil": (
        lambda x: mb.max_pool(x=x, kernel_sizes=[2, 4], strides=[2, 2], pad_type="valid", ceil_mode=True),
        lambda x: F.max_pool2d(t(x), (2, 4), 2, ceil_mode=True),
    ),
    "max_pool, ceil and pad": (
        lambda x: mb.max_pool(
            x=below(x), kernel_sizes=[2, 3], strides=[3, 3], pad_type="custom", pad=[1, 1, 1, 1], ceil_mode=True
        ),
        lambda x: F.max_pool2d(t(x) - 9, (2, 3), 3, 1, ceil_mode=True),
    ),
    "avg_pool": (
        lambda x: mb.avg_pool(x=x, kernel_sizes=[3, 3], strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1]),
        lambda x: F.avg_pool2d(t(x), 3, 2, 1),
    ),
    "avg_pool, without padding": (
        lambda x: mb.avg_pool(
            x=x, kernel_sizes=[3, 3], pad_type="custom", pad=[1, 1, 1, 1], exclude_padding_from_average=True
        ),
        lambda x: F.avg_pool2d(t(x), 3, 1, 1, count_include_pad=False),
    ),
    "conv, 3d": (
        lambda x: mb.conv(x=volume(x), weight=SOLID, strides=[1, 2, 1], pad_type="custom", pad=[0, 0, 1, 1, 0, 0]),
        lambda x: F.conv3d(t(x)[None], t(SOLID), stride=(1, 2, 1), padding=(0, 1, 0)),
    ),
    "max_pool, 3d": (
        lambda x: mb.max_pool(x=volume(x), kernel_sizes=[3, 2, 2], strides=[1, 2, 1], pad_type="valid"),
        lambda x: F.max_pool3d(t(x)[None], (3, 2, 2), (1, 2, 1)),
    ),
    "avg_pool, 3d": (
        lambda x: mb.avg_pool(x=volume(x), kernel_sizes=[1, 2, 3], strides=[1, 2, 1], pad_type="valid"),
        lambda x: F.avg_pool3d(t(x)[None], (1, 2, 3), (1, 2, 1)),
    ),
}

TWO_INPUTS: dict[str, tuple[Body, Callable[..., Any]]] = {
    "add": (lambda x, y: mb.add(x=x, y=y), np.add),
    "sub": (lambda x, y: mb.sub(x=x, y=y), np.subtract),
    "mul": (lambda x, y: mb.mul(x=x, y=y), np.multiply),
    "real_div": (lambda x, y: mb.real_div(x=x, y=y), np.divide),
    "concat": (lambda x, y: mb.concat(values=[x, y], axis=1), lambda x, y: np.concatenate([x, y], 1)),
    "matmul": (lambda x, y: mb.matmul(x=x, y=y, transpose_y=True), lambda x, y: x @ y.swapaxes(2, 3)),
    "matmul, first": (lambda x, y: mb.matmul(x=x, y=y, transpose_x=True), lambda x, y: x.swapaxes(2, 3) @ y),
}


def outputs_of(folder: Path, bodies: dict[str, Body], *arrays: np.ndarray[Any, Any]) -> dict[str, list[Any]]:
    """Outputs of each of `bodies`, all in one package, as writing one takes longer than anything else here."""
    counts: list[int] = []

    def body(*inputs: Any) -> Any:
        made = [one(*inputs) for one in bodies.values()]
        made = [one if isinstance(one, tuple) else (one,) for one in made]
        counts.extend(len(one) for one in made)
        # An input cannot be an output, and no value can be two of them.
        return tuple(mb.identity(x=value) for values in made for value in values)

    # mb.program counts the parameters of a function.
    whole = (lambda x: body(x)) if len(arrays) == 1 else (lambda x, y: body(x, y))
    flat = iter(run(folder, whole, *arrays))
    return {name: [next(flat) for _ in range(count)] for name, count in zip(bodies, counts, strict=True)}


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    one = {name: body for name, (body, _) in ONE_INPUT.items()}
    two = {name: body for name, (body, _) in TWO_INPUTS.items()}
    return {
        **outputs_of(tmp_path_factory.mktemp("one"), one, IMAGE),
        **outputs_of(tmp_path_factory.mktemp("two"), two, IMAGE, OTHER),
    }


@pytest.mark.parametrize("name", ONE_INPUT)
def test_an_operator_is_what_numpy_or_pytorch_computes(name: str, computed: dict[str, list[Any]]) -> None:
    expected = ONE_INPUT[name][1](IMAGE)
    expected = expected if isinstance(expected, list) else [expected]
    for actual, other in zip(computed[name], expected, strict=True):
        np.testing.assert_allclose(actual, np.asarray(other), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", TWO_INPUTS)
def test_an_operator_of_two_tensors_is_what_numpy_computes(name: str, computed: dict[str, list[Any]]) -> None:
    (actual,) = computed[name]
    np.testing.assert_allclose(actual, TWO_INPUTS[name][1](IMAGE, OTHER), rtol=1e-4, atol=1e-4)


def test_same_pads_as_the_declared_shape_says_where_the_kernel_is_larger_than_the_image(tmp_path: Path) -> None:
    (actual,) = run(tmp_path, lambda x: mb.max_pool(x=x, kernel_sizes=[9, 9], strides=[4, 4], pad_type="same"), IMAGE)
    assert actual.shape == (2, 4, 2, 3)


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("axis", [None, 1, -2], ids=["tensor", "channels", "rows"])
def test_quantize_and_dequantize_are_coremltools_own(half: bool, dtype: str, axis: int | None, tmp_path: Path) -> None:
    real = np.float16 if half else np.float32
    length = 1 if axis is None else IMAGE.shape[axis]
    scale = RANDOM.uniform(0.004, 0.05, size=length).astype(real)
    zero_point = RANDOM.integers(0, 9, size=length).astype(dtype)
    options: dict[str, Any] = {"scale": scale, "zero_point": zero_point, "axis": axis}
    if axis is None:
        options = {"scale": scale[0], "zero_point": zero_point[0]}
    x = IMAGE.astype(real)

    def body(x: Any) -> Any:
        quantized = mb.quantize(input=x, output_dtype=dtype, **options)
        return mb.dequantize(input=quantized, **options)

    (actual,) = run(tmp_path, body, x, half=half)
    shape = [1] * 4
    shape[axis or 0] = length
    wide_scale, wide_zero = scale.reshape(shape), zero_point.reshape(shape)
    quantized = authority.quantize_by_scale_and_zp(x, wide_scale, wide_zero, dtype)
    expected = authority.dequantize_by_scale_and_zp(quantized, wide_scale, wide_zero)
    assert actual.dtype == real
    np.testing.assert_array_equal(actual, expected.astype(real))


def test_quantize_rounds_ties_to_even_and_clips() -> None:
    x = torch.tensor([-1e4, -1.5, -0.5, 0.5, 1.5, 2.5, 1e4])
    quantized = OPERATORS["quantize"]({"input": x, "scale": 1.0, "output_dtype": "int8"})
    assert quantized.tolist() == [-128, -2, 0, 0, 2, 2, 127]


def test_a_large_quotient_does_not_swallow_the_zero_point() -> None:
    x = torch.tensor([-4095.0], dtype=torch.float16)
    arguments = {"input": x, "scale": 1.0, "zero_point": 255, "output_dtype": "uint8"}
    assert OPERATORS["quantize"](arguments).item() == 0


def test_int8_weights_are_read_from_the_weight_file(tmp_path: Path) -> None:
    weight = RANDOM.integers(-127, 128, size=WEIGHT.shape).astype(np.int8)
    scale = RANDOM.uniform(0.01, 0.1, size=6).astype(np.float32)

    def body(x: Any) -> Any:
        w = mb.constexpr_affine_dequantize(quantized_data=weight, zero_point=np.int8(0), scale=scale, axis=0)
        return mb.conv(x=x, weight=w, pad_type="valid")

    (actual,) = run(tmp_path, body, IMAGE)
    expected = F.conv2d(t(IMAGE), t(weight.astype(np.float32) * scale.reshape(-1, 1, 1, 1)))
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_blockwise_weights_have_a_scale_for_each_block(tmp_path: Path) -> None:
    weight = RANDOM.integers(-127, 128, size=(3, 8)).astype(np.int8)
    scale = RANDOM.uniform(0.01, 0.1, size=(3, 2)).astype(np.float32)
    offset = RANDOM.integers(-3, 4, size=(3, 2)).astype(np.int8)

    def body(x: Any) -> Any:
        return mb.linear(x=x, weight=mb.constexpr_blockwise_shift_scale(data=weight, scale=scale, offset=offset))

    x = RANDOM.normal(size=(5, 8)).astype(np.float32)
    (actual,) = run(tmp_path, body, x, target="iOS18")
    expected = x @ ((weight - offset.repeat(4, 1).astype(np.float32)) * scale.repeat(4, 1)).T
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_a_float16_sum_is_made_in_float32_and_rounded_once(tmp_path: Path) -> None:
    x, weight = np.full((1, 4096), 1.0, np.float16), np.full((1, 4096), 0.5, np.float16)
    weight[0, 0] = 0.125
    (actual,) = run(tmp_path, lambda x: mb.linear(x=x, weight=weight), x, half=True)
    assert actual.dtype == np.float16
    # Summed in float16 from the left, 2048 swallows every half that follows.
    assert actual.item() == np.float16(4095 * 0.5 + 0.125)


def test_a_cast_truncates_towards_zero(tmp_path: Path) -> None:
    x = np.float32([-1.7, 1.7, 250.0])
    (actual,) = run(tmp_path, lambda x: mb.cast(x=x, dtype="int32"), x)
    assert actual.dtype == np.int32
    assert actual.tolist() == [-1, 1, 250]
