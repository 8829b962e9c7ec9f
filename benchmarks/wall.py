"""What XNNPACK and ExecuTorch take of S3D-G beside its convolutions, shown by the smallest graphs that take it.

Chains of tiny operators give what one operator costs beyond its work, as the slope of a straight line. The network's
own products, means, pools and joins, each alone, are set beside a copy of the same bytes by XNNPACK itself, which is
what the memory allows. Everything runs twice at its turn, and the second run counts: caches are as good as they get.
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from benchmarks.glue import GOAL, Lowered, lowered
from benchmarks.graphs import Graph
from benchmarks.network import Clip, arguments_of, take_turns
from benchmarks.xnnpack import Part, described, reads, use_threads
from d3d_edge import target
from d3d_edge.cli.tables import columns
from d3d_edge.files import write_json
from d3d_edge.pipeline.environment import environment
from d3d_edge.quantize import pt2e
from d3d_edge.report import Environment
from d3d_edge.runtimes.executorch import RUNTIME, ExecuTorchRunner
from d3d_edge.schema import Schema

LENGTHS = (1, 10, 100, 300)
CHANNELS = 16
"""Of a tiny operator's one position: the fewest that a layer of S3D-G has."""
RUN, PREPARE, FILE = "run", "find shapes", ".pte"
PASSES = {
    "gates: product": ("Multiply",),
    "gates: mean": ("GlobalAvgPooling2d",),
    "max pools": ("MaxPooling2d",),
    "joining branches": ("Concatenate4",),
    "bytes to INT8": ("Convert", "Add"),
    "stacking frames and pairing pixels": ("StaticConstantPad", "StaticSlice", "Concatenate3", "StaticTranspose"),
}
"""Operators that do little more than read and write, by their names in XNNPACK."""


class Operator(Schema):
    """What one tiny operator more in a chain costs, in microseconds."""

    run_us: float
    """XNNPACK's run."""
    prepare_us: float
    """Finding its shapes and its memory anew, which ExecuTorch has XNNPACK do before each run."""
    file_us: float
    """Both, in a `.pte`."""


class Pass(Schema):
    """Operators of one purpose in the network, each alone, without the cost of calling XNNPACK for each."""

    operators: int
    ms: float
    copy_ms: float
    """Copies of the same bytes, by XNNPACK, on the same threads."""


class Result(Schema):
    """One width. Times are the middle of the repetitions."""

    multiplier: float
    clip: str
    threads: int
    operators: int
    convolutions: int
    network_ms: float
    convolutions_ms: float
    prepare_ms: float
    """What finding the whole graph's shapes takes."""
    input_ms: float
    """A copy of the clip, which ExecuTorch makes."""
    passes: dict[str, Pass]
    fixed_ms: float
    """What the operators that are no convolutions cost beyond their work, at the price of the dearest chain."""
    least_ms: float
    """Convolutions, shapes, and for every pass over memory a copy of its bytes."""
    least_ratio: float
    """In parts of the convolutions."""


class Figures(Schema):
    """The chains, all widths, and the machine."""

    environment: Environment
    call_us: float
    """What a run of XNNPACK costs beyond its operators."""
    chains: dict[str, Operator]
    results: tuple[Result, ...]


class Stub(nn.Module):
    """Takes and gives what a chain does."""

    def forward(self, x: Tensor) -> Tensor:
        """Float [1, 1, 1, C] to the same shape."""
        return torch.sigmoid(x)


def _convolution(graph: Graph, x: int) -> int:
    return graph.convolve(x, np.eye(CHANNELS, dtype=np.float32)[..., None, None], None)


LINKS: dict[str, Callable[[Graph, int], int]] = {
    "StaticReshape": lambda graph, x: graph.view(x, 1, 1, 1, CHANNELS),
    "GlobalAvgPooling2d": lambda graph, x: graph.mean(x),
    "Multiply": lambda graph, x: graph.both("Multiply", x, x),
    "MaxPooling2d": lambda graph, x: graph.pool(x, (3, 1), ((1, 1), (0, 0))),
    "Conv2d": _convolution,
}
"""Tiny operators, by their names in XNNPACK. Not sigmoids: a chain of forty INT8 ones damages its memory."""


def chain(link: Callable[[Graph, int], int], length: int) -> Graph:
    """Floats to INT8, `length` operators, and back."""
    graph = Graph(int8=True)
    x = graph.convert(graph.input(1, 1, 1, CHANNELS, kind="fp32"), to_float=False)
    for _ in range(length):
        x = link(graph, x)
    graph.output(graph.convert(x, to_float=True))
    return graph


def file_of(graph: Graph, folder: Path) -> Path:
    """A `.pte` of a graph that was written by hand, with the input and the output of `Stub`."""
    from executorch.backends.xnnpack import xnnpack_preprocess

    serialize = xnnpack_preprocess.serialize_xnnpack_binary

    def serialize_by_hand(_: Any, __: Any) -> bytes:
        written: bytes = serialize(graph.written, graph.constants)
        return written

    program = pt2e.export_float(Stub(), torch.zeros(1, 1, 1, CHANNELS))
    folder.mkdir()
    with mock.patch.object(xnnpack_preprocess, "serialize_xnnpack_binary", serialize_by_hand):
        return folder / RUNTIME.lower(program, folder, target.load("android"), precision="float32").model


def chains(repetitions: int) -> tuple[dict[str, Operator], float]:
    """Time chains of each tiny operator, and fit a straight line to each; and what a run of none would take, in us."""
    sample = np.zeros((1, 1, 1, CHANNELS), np.float32)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        runs: dict[tuple[str, str, int], Callable[[], Any]] = {}
        for name, link in LINKS.items():
            for length in LENGTHS:
                graph = chain(link, length)
                path = file_of(graph, Path(scratch) / f"{name}{length}")
                runner = stack.enter_context(ExecuTorchRunner(path, 0))
                part = stack.enter_context(Part(graph.written, bytes(graph.constants), graph.written.xnodes))
                runs[name, RUN, length], runs[name, PREPARE, length] = part.run, part.prepare
                runs[name, FILE, length] = lambda runner=runner: runner.run(sample)  # type: ignore[misc]
        times = take_turns(runs, repetitions, twice=True)

    def line_us(name: str, form: str) -> tuple[float, float]:
        middles = [1e3 * np.median(times[name, form, length]) for length in LENGTHS]
        slope, start = np.polyfit(LENGTHS, middles, 1)
        return float(slope), float(start)

    costs = {
        name: Operator(
            run_us=line_us(name, RUN)[0], prepare_us=line_us(name, PREPARE)[0], file_us=line_us(name, FILE)[0]
        )
        for name in LINKS
    }
    return costs, min(line_us(name, RUN)[1] for name in LINKS)


def measure(
    multiplier: float, clip: Clip, threads: int, repetitions: int, costs: dict[str, Operator], call_us: float
) -> Result:
    """Time the network, its convolutions, and its passes over memory, beside copies."""
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        found = lowered(multiplier, clip, Path(scratch))
        nodes = found.graph.xnodes
        runner = stack.enter_context(ExecuTorchRunner(found.path, 0))
        sample = np.random.default_rng(0).integers(0, 256, (*clip, 3), np.uint8)
        whole = stack.enter_context(Part(found.graph, found.constants, nodes))

        def alone(*kinds: str) -> Callable[[], None]:
            chosen = [node for node in nodes if _name(node) in kinds]
            return _each([stack.enter_context(Part(found.graph, found.constants, [node])) for node in chosen])

        def copied(sizes: list[int]) -> Callable[[], None]:
            graphs = [_copy(size) for size in sizes]
            return _each([stack.enter_context(Part(g.written, b"", g.written.xnodes)) for g in graphs])

        runs = {"network": lambda: runner.run(sample), PREPARE: whole.prepare, "Conv2d": alone("Conv2d")}
        runs |= {name: alone(*kinds) for name, kinds in PASSES.items()}
        runs |= {f"copy {name}": copied(_sizes(found, kinds)) for name, kinds in PASSES.items()}
        runs["input"] = copied([sample.size])
        times = {name: float(np.median(row)) for name, row in take_turns(runs, repetitions, twice=True).items()}
    counts = Counter(map(_name, nodes))
    passes = {}
    for name, kinds in PASSES.items():
        operators = sum(counts[kind] for kind in kinds)
        calls_ms = operators * call_us / 1e3
        passes[name] = Pass(
            operators=operators, ms=times[name] - calls_ms, copy_ms=max(times[f"copy {name}"] - calls_ms, 0)
        )
    fixed = (len(nodes) - counts["Conv2d"]) * max(cost.run_us for cost in costs.values()) / 1e3
    copies = sum(entry.copy_ms for entry in passes.values()) + times["input"]
    least = times["Conv2d"] + copies + times[PREPARE]
    return Result(
        multiplier=multiplier,
        clip="x".join(map(str, clip)),
        threads=threads,
        operators=len(nodes),
        convolutions=counts["Conv2d"],
        network_ms=times["network"],
        convolutions_ms=times["Conv2d"],
        prepare_ms=times[PREPARE],
        input_ms=times["input"],
        passes=passes,
        fixed_ms=fixed,
        least_ms=least,
        least_ratio=least / times["Conv2d"],
    )


def _copy(size: int) -> Graph:
    graph = Graph(int8=True)
    graph.output(graph.each("Copy", graph.input(1, 1, 1, size)))
    return graph


def _each(parts: list[Part]) -> Callable[[], None]:
    def run() -> None:
        for part in parts:
            part.run()

    return run


def _sizes(found: Lowered, kinds: tuple[str, ...]) -> list[int]:
    """Of each operator of some kinds, the largest value that it reads or writes, in numbers."""
    sizes = {described(value).id_out: math.prod(described(value).dims) for value in found.graph.xvalues}
    calls = [node.xnode_union for node in found.graph.xnodes if _name(node) in kinds]
    return [max(sizes.get(value, 0) for value in (*reads(call), call.output_id)) for call in calls]


def _name(node: Any) -> str:
    return type(node.xnode_union).__name__.removeprefix("XNN")


def main(arguments: list[str] | None = None) -> None:
    """Measure, print tables, and write JSON where asked to."""
    wanted = arguments_of("wall", __doc__, 50, arguments)
    started = datetime.now(UTC)
    use_threads(wanted.threads)
    costs, call_us = chains(wanted.repetitions)
    _print_chains(costs, call_us)
    results = []
    for width in wanted.widths:
        results.append(measure(width, wanted.clip, wanted.threads, wanted.repetitions, costs, call_us))
        _print(results[-1])
    figures = Figures(
        environment=environment(started, ["executorch"]), call_us=call_us, chains=costs, results=tuple(results)
    )
    if wanted.out:
        write_json(wanted.out, figures.model_dump(mode="json"))


def _print_chains(costs: dict[str, Operator], call_us: float) -> None:
    table = columns(("microseconds of one tiny operator more",), ("XNNPACK", "its shapes", ".pte"))
    for name, cost in costs.items():
        table.add_row(name, f"{cost.run_us:.2f}", f"{cost.prepare_us:.2f}", f"{cost.file_us:.2f}")
    console = Console(soft_wrap=True)
    console.print(table)
    console.print(f"a run of none: {call_us:.2f}")


def _print(result: Result) -> None:
    console = Console(soft_wrap=True)
    console.print(f"\nwidth {result.multiplier:g}, {result.clip}, {result.threads} threads; milliseconds of one clip")
    table = columns(("part",), ("operators", "ms", "copy of its bytes"))
    table.add_row("the .pte", str(result.operators), f"{result.network_ms:.2f}", "")
    table.add_row("its convolutions alone", str(result.convolutions), f"{result.convolutions_ms:.2f}", "")
    for name, entry in result.passes.items():
        table.add_row(f"{name}, alone", str(entry.operators), f"{entry.ms:.2f}", f"{entry.copy_ms:.2f}")
    table.add_row("finding all shapes", str(result.operators), f"{result.prepare_ms:.2f}", "")
    table.add_row("copying the clip", "1", f"{result.input_ms:.2f}", f"{result.input_ms:.2f}")
    others = str(result.operators - result.convolutions)
    table.add_row("all but convolutions, beyond their work", others, f"{result.fixed_ms:.2f}", "")
    console.print(table)
    console.print(
        f"convolutions, shapes and copies: {result.least_ms:.2f}, {result.least_ratio:.2f} times the convolutions "
        f"(goal {GOAL})"
    )


if __name__ == "__main__":
    main()
