"""Time exact forms of S3D-G's temporal convolutions and of its 3x3x3 max pools, each alone, in three runtimes.

The first form of each is the one that the network has. Every layer is timed with the shapes that it has in the network;
a form's time is the sum over all of them. That all forms of a runtime give the same is checked first.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import nn

from benchmarks.dialects import Eager, Onnx
from benchmarks.forms import CONVOLUTIONS, POOLS, STRIDED, Form, Layer, Weights, exact
from benchmarks.graphs import Graph
from benchmarks.network import CLASSES, Clip, arguments_of, of_widths
from benchmarks.turns import take_turns
from benchmarks.xnnpack import Part, use_threads
from d3d_edge.cli.tables import columns
from d3d_edge.models.layers import SeparableConv
from d3d_edge.models.s3dg import S3DG, Mixed, Stem
from d3d_edge.schema import Schema

Array = NDArray[Any]
RELATIVE_TOLERANCE = 1e-5
"""Of float32 forms, in parts of the largest value."""
STEPS = {"XNNPACK INT8": 0.0, "ONNX Runtime INT8": 1.0}
"""By which INT8 forms may differ. ONNX Runtime computes some of them in floats, and rounds those."""
RUNTIMES = ("XNNPACK INT8", "XNNPACK FP32", "ONNX Runtime INT8", "ONNX Runtime FP32", "PyTorch FP32")


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
    of_widths(wanted, measure, _print, ["executorch", "tensorrt"])


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
