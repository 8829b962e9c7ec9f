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

import numpy as np
from rich.console import Console

from benchmarks.chain import CHANNELS, LINKS, chain, file_of
from benchmarks.glue import CONVOLUTIONS, CONVOLUTIONS_OF, GOAL, Lowered, lowered, name_of
from benchmarks.graphs import Graph
from benchmarks.network import Clip, arguments_of
from benchmarks.turns import take_turns
from benchmarks.xnnpack import Part, described, reads, use_threads
from d3d_edge.cli.tables import columns
from d3d_edge.files import write_json
from d3d_edge.pipeline.environment import environment
from d3d_edge.report import Environment
from d3d_edge.runtimes.executorch import ExecuTorchRunner
from d3d_edge.schema import Schema

LENGTHS = (1, 10, 100, 300)
RUN, PREPARE, FILE = "run", "find shapes", ".pte"
PRODUCT = 8 * 28 * 28 * 48
"""Numbers of the first gated layer of width 0.25 at 16x112x112."""
GATES = (16, 48, 3072)
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
    products_us: dict[int, float]
    """Of `PRODUCT` numbers with a gate, by its channels; 0 is a copy of as many bytes."""
    call_us: float
    """What a run of XNNPACK costs beyond its operators."""
    chains: dict[str, Operator]
    results: tuple[Result, ...]


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


def products(repetitions: int) -> dict[int, float]:
    """Time the same product with gates of few and of many channels, and a copy."""
    with ExitStack() as stack:
        runs: dict[int, Callable[[], Any]] = {}
        for channels in GATES:
            graph = Graph(int8=True)
            x = graph.input(1, 1, PRODUCT // channels, channels)
            graph.output(graph.both("Multiply", x, graph.input(1, 1, 1, channels)))
            runs[channels] = stack.enter_context(Part(graph.written, b"", graph.written.xnodes)).run
        copied = _copy(PRODUCT).written
        runs[0] = stack.enter_context(Part(copied, b"", copied.xnodes)).run
        times = take_turns(runs, repetitions, twice=True)
    return {channels: 1e3 * float(np.median(row)) for channels, row in times.items()}


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
            chosen = [node for node in nodes if name_of(node) in kinds]
            return _each([stack.enter_context(Part(found.graph, found.constants, [node])) for node in chosen])

        def copied(sizes: list[int]) -> Callable[[], None]:
            graphs = [_copy(size) for size in sizes]
            return _each([stack.enter_context(Part(g.written, b"", g.written.xnodes)) for g in graphs])

        runs = {"network": lambda: runner.run(sample), PREPARE: whole.prepare, CONVOLUTIONS: alone(*CONVOLUTIONS_OF)}
        runs |= {name: alone(*kinds) for name, kinds in PASSES.items()}
        runs |= {f"copy {name}": copied(_sizes(found, kinds)) for name, kinds in PASSES.items()}
        runs["input"] = copied([sample.size])
        times = {name: float(np.median(row)) for name, row in take_turns(runs, repetitions, twice=True).items()}
    counts = Counter(map(name_of, nodes))
    passes = {}
    for name, kinds in PASSES.items():
        operators = sum(counts[kind] for kind in kinds)
        calls_ms = operators * call_us / 1e3
        passes[name] = Pass(
            operators=operators, ms=times[name] - calls_ms, copy_ms=max(times[f"copy {name}"] - calls_ms, 0)
        )
    convolutions = sum(counts[kind] for kind in CONVOLUTIONS_OF)
    fixed = (len(nodes) - convolutions) * max(cost.run_us for cost in costs.values()) / 1e3
    copies = sum(entry.copy_ms for entry in passes.values()) + times["input"]
    least = times[CONVOLUTIONS] + copies + times[PREPARE]
    return Result(
        multiplier=multiplier,
        clip="x".join(map(str, clip)),
        threads=threads,
        operators=len(nodes),
        convolutions=convolutions,
        network_ms=times["network"],
        convolutions_ms=times[CONVOLUTIONS],
        prepare_ms=times[PREPARE],
        input_ms=times["input"],
        passes=passes,
        fixed_ms=fixed,
        least_ms=least,
        least_ratio=least / times[CONVOLUTIONS],
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
    calls = [node.xnode_union for node in found.graph.xnodes if name_of(node) in kinds]
    return [max(sizes.get(value, 0) for value in (*reads(call), call.output_id)) for call in calls]


def main(arguments: list[str] | None = None) -> None:
    """Measure, print tables, and write JSON where asked to."""
    wanted = arguments_of("wall", __doc__, 50, arguments)
    started = datetime.now(UTC)
    use_threads(wanted.threads)
    costs, call_us = chains(wanted.repetitions)
    gates = products(wanted.repetitions)
    _print_chains(costs, call_us, gates)
    results = []
    for width in wanted.widths:
        results.append(measure(width, wanted.clip, wanted.threads, wanted.repetitions, costs, call_us))
        _print(results[-1])
    figures = Figures(
        environment=environment(started, ["executorch"]),
        products_us=gates,
        call_us=call_us,
        chains=costs,
        results=tuple(results),
    )
    if wanted.out:
        write_json(wanted.out, figures.model_dump(mode="json"))


def _print_chains(costs: dict[str, Operator], call_us: float, gates: dict[int, float]) -> None:
    table = columns(("microseconds of one tiny operator more",), ("XNNPACK", "its shapes", ".pte"))
    for name, cost in costs.items():
        table.add_row(name, f"{cost.run_us:.2f}", f"{cost.prepare_us:.2f}", f"{cost.file_us:.2f}")
    console = Console(soft_wrap=True)
    console.print(table)
    console.print(f"a run of none: {call_us:.2f}")
    named = ", ".join(f"of {channels} channels {time_us:.1f}" for channels, time_us in gates.items() if channels)
    console.print(f"a product of {PRODUCT} bytes with a gate {named}; a copy of them {gates[0]:.1f}")


def _print(result: Result) -> None:
    console = Console(soft_wrap=True)
    console.print(f"\nwidth {result.multiplier:g}, {result.clip}, {result.threads} threads; milliseconds of one clip")
    table = columns(("part",), ("operators", "ms", "copy of its bytes"))
    table.add_row("the .pte", str(result.operators), f"{result.network_ms:.2f}", "")
    table.add_row("its convolutions alone", str(result.convolutions), f"{result.convolutions_ms:.2f}", "")
    for name, entry in result.passes.items():
        table.add_row(f"{name}, alone", str(entry.operators), f"{entry.ms:.2f}", f"{entry.copy_ms:.2f}")
    table.add_row("finding all shapes", str(result.operators), f"{result.prepare_ms:.2f}", "")
    table.add_row("copying the clip", "1", f"{result.input_ms:.2f}", "")
    others = str(result.operators - result.convolutions)
    table.add_row("all but convolutions, beyond their work", others, f"{result.fixed_ms:.2f}", "")
    console.print(table)
    console.print(
        f"convolutions, shapes and copies: {result.least_ms:.2f}, {result.least_ratio:.2f} times the convolutions "
        f"(goal {GOAL})"
    )


if __name__ == "__main__":
    main()
