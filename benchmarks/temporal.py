"""Time exact forms of S3D-G's temporal convolutions and of its 3x3x3 max pools, each alone, in three runtimes.

The first form of each is the one that the network has. Every layer is timed with the shapes that it has in the network;
a form's time is the sum over all of them. That all forms of a runtime give the same is checked first.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import nn

from benchmarks.dialects import Eager, Onnx
from benchmarks.graphs import Graph
from benchmarks.network import CLASSES, Clip, arguments_of, take_turns
from benchmarks.xnnpack import Part, use_threads
from d3d_edge.cli.tables import columns
from d3d_edge.files import write_json
from d3d_edge.models.layers import SeparableConv, pads
from d3d_edge.models.s3dg import S3DG, Mixed, Stem
from d3d_edge.pipeline.environment import environment
from d3d_edge.report import Environment
from d3d_edge.schema import Schema

Array = NDArray[Any]
RELATIVE_TOLERANCE = 1e-5
"""Of float32 forms, in parts of the largest value."""
STEPS = {"XNNPACK INT8": 0.0, "ONNX Runtime INT8": 1.0}
"""By which INT8 forms may differ. ONNX Runtime computes some of them in floats, and rounds those."""
RUNTIMES = ("XNNPACK INT8", "XNNPACK FP32", "ONNX Runtime INT8", "ONNX Runtime FP32", "PyTorch FP32")


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


class Family(NamedTuple):
    """Layers of one kind, how often each is in the network, and their forms."""

    name: str
    layers: dict[Layer, int]
    forms: tuple[Form, ...]


def families(multiplier: float, clip: Clip) -> tuple[Family, ...]:
    """What is timed of one network. The last is of the network with a separable stem."""
    temporal, pools = _seen(multiplier, clip, "conv3d_k3")
    stem = {layer: count for layer, count in _seen(multiplier, clip, "separable")[0].items() if layer.stride > 1}
    return (
        Family("3x1x1 convolutions", temporal, CONVOLUTIONS),
        Family("3x3x3 max pools of stride 1", pools, POOLS),
        Family("7x1x1 stem of stride 2", stem, STRIDED),
    )


def _seen(multiplier: float, clip: Clip, stem: Stem) -> tuple[dict[Layer, int], dict[Layer, int]]:
    """The temporal convolutions, and the pools of the Inception blocks, by the shapes that reach them."""
    convolutions, pools = Counter[Layer](), Counter[Layer]()
    with torch.device("meta"):
        net = S3DG(CLASSES, width=multiplier, stem=stem).eval()
        frames = torch.zeros(clip.frames, 3, clip.height, clip.width)

    def note_convolution(conv: nn.Conv2d) -> Callable[..., None]:
        def note(_: nn.Module, __: Any, frames: torch.Tensor) -> None:
            time, channels, height, width = frames.shape
            kernel = (conv.out_channels, conv.kernel_size[0], conv.stride[0])
            convolutions[Layer(time, height, width, channels, *kernel)] += 1

        return note

    def note_pool(_: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        time, channels, height, width = given[0].shape
        pools[Layer(time, height, width, channels, channels, 3, 1)] += 1

    for module in net.modules():
        if isinstance(module, SeparableConv) and module.temporal is not None:
            module.spatial.register_forward_hook(note_convolution(module.temporal.conv))
        if isinstance(module, Mixed):
            module.register_forward_pre_hook(note_pool)
    net(frames)
    return dict(convolutions), dict(pools)


class Times(Schema):
    """All layers of a family in one form."""

    ms: float
    """The sum over the layers, of the middle of each one's repetitions."""
    ratio: float
    """In parts of the first form's: the middle of the ratios within a repetition."""


class Result(Schema):
    """One width."""

    multiplier: float
    clip: str
    threads: int
    layers: dict[str, int]
    """Of each family."""
    times: dict[str, dict[str, dict[str, Times]]]
    """By family, runtime and form."""


class Figures(Schema):
    """All widths, and the machine."""

    environment: Environment
    results: tuple[Result, ...]


def prepared(runtime: str, form: Form, layer: Layer, x: Array, weights: Weights, threads: int, stack: ExitStack) -> Any:
    """A form of one layer that runs, and what it gives. `x` is float32, [B, H, W, C]."""
    int8 = "INT8" in runtime
    given = np.rint(x * 100).astype(np.int8) if int8 else x
    if "XNNPACK" in runtime:
        graph = Graph(int8=int8)
        graph.output(form(graph, graph.input(*x.shape), layer, weights))
        part = stack.enter_context(Part(graph.written, bytes(graph.constants), graph.written.xnodes))
        part.arrays[part.inputs[0]].view(given.dtype)[: given.size] = given.ravel()
        part.run()
        (result,) = part.outputs
        return part.run, part.arrays[result].view(given.dtype)[: math.prod(graph.dims(result))].astype(np.float32)
    if "ONNX" in runtime:
        model = Onnx(int8=int8)
        session = model.session(form(model, model.input(*x.shape), layer, weights), threads)
        moved = np.ascontiguousarray(given.transpose(0, 3, 1, 2))
        return partial(session, moved), session(moved).transpose(0, 2, 3, 1).ravel().astype(np.float32)
    eager, tensor = Eager(), torch.from_numpy(given)

    @torch.no_grad()
    def run() -> torch.Tensor:
        return form(eager, tensor, layer, weights)  # type: ignore[no-any-return]

    return run, run().contiguous().numpy().ravel()


def measure(
    multiplier: float, clip: Clip, threads: int, repetitions: int, runtimes: Sequence[str] = RUNTIMES
) -> Result:
    """Check that all forms give the same, and time them in turns; ends the program where they do not."""
    torch.set_num_threads(threads)
    use_threads(threads)
    found = families(multiplier, clip)
    with ExitStack() as stack:
        runs = {}
        for family, runtime in itertools.product(found, runtimes):
            for place, layer in enumerate(family.layers):
                shape = (1, layer.time, layer.area) if family.forms is not POOLS else layer[:3]
                x = np.random.default_rng(place).random((*shape, layer.channels), np.float32)
                weights, expected = Weights(layer), None
                for form in (form for form in family.forms if exact(form, runtime)):
                    run, result = prepared(runtime, form, layer, x, weights, threads, stack)
                    expected = result if expected is None else expected
                    _check(runtime, form, result, expected)
                    runs[family.name, runtime, form.__name__, place] = run
        taken = {key: np.array(row) for key, row in take_turns(runs, repetitions).items()}
    times: dict[str, dict[str, dict[str, Times]]] = {}
    for family, runtime in itertools.product(found, runtimes):
        sums = {
            form.__name__: np.sum(
                [n * taken[family.name, runtime, form.__name__, at] for at, n in enumerate(family.layers.values())], 0
            )
            for form in family.forms
            if exact(form, runtime)
        }
        first = sums[family.forms[0].__name__]
        times.setdefault(family.name, {})[runtime] = {
            name: Times(ms=float(np.median(row)), ratio=float(np.median(row / first))) for name, row in sums.items()
        }
    return Result(
        multiplier=multiplier,
        clip="x".join(map(str, clip)),
        threads=threads,
        layers={family.name: sum(family.layers.values()) for family in found},
        times=times,
    )


def _check(runtime: str, form: Form, result: Array, expected: Array) -> None:
    allowed = STEPS.get(runtime, RELATIVE_TOLERANCE * float(abs(expected).max()))
    worst = float(abs(result - expected).max()) if result.shape == expected.shape else float("inf")
    if not worst <= allowed:
        sys.exit(f"error: {form.__name__} differs by {worst:.2g} in {runtime}, so it is not the same layer")


def main(arguments: list[str] | None = None) -> None:
    """Measure, print tables, and write JSON where asked to."""
    wanted = arguments_of("temporal", __doc__, 20, arguments)
    started = datetime.now(UTC)
    results = []
    for width in wanted.widths:
        results.append(measure(width, wanted.clip, wanted.threads, wanted.repetitions))
        _print(results[-1])
    figures = Figures(environment=environment(started, ["executorch", "tensorrt"]), results=tuple(results))
    if wanted.out:
        write_json(wanted.out, figures.model_dump(mode="json"))


def _print(result: Result) -> None:
    console = Console(soft_wrap=True, width=140)
    console.print(f"\nwidth {result.multiplier:g}, {result.clip}, {result.threads} threads; milliseconds of all")
    console.print("layers, in parentheses in parts of the first form, which is the network's")
    for family, of_runtimes in result.times.items():
        table = columns((f"{result.layers[family]} {family}",), tuple(of_runtimes))
        forms = max(of_runtimes.values(), key=len)
        for form in forms:
            cells = [of_runtime.get(form) for of_runtime in of_runtimes.values()]
            table.add_row(form, *(f"{cell.ms:.2f} ({cell.ratio:.2f})" if cell else "-" for cell in cells))
        console.print(table)


if __name__ == "__main__":
    main()
