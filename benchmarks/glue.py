"""Time the INT8 `.pte` of S3D-G against the sum of its own convolutions, and say what the rest of the time is.

Each convolution is run alone, by the kernel, the shapes, the weights and the scales that it has in the network. All
take turns within each repetition, once so that each runs after the others, as an app runs a network between other work,
and once so that each runs after itself, as in a loop. The parts of the network's time are XNNPACK's own, operator by
operator, after the others.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from rich.console import Console

from benchmarks.network import Clip, arguments_of, networks, of_widths, pte
from benchmarks.turns import take_turns
from benchmarks.xnnpack import Part
from d3d_edge.cli.tables import columns
from d3d_edge.runtimes.executorch import ExecuTorchRunner
from d3d_edge.schema import Schema

NETWORK, XNNPACK, PROFILED, CONVOLUTIONS = "the .pte", "its graph in XNNPACK", "profiled", "convolutions alone"
GOAL = 1.15
"""Times the sum of its convolutions that the network may take."""

CONVOLUTIONS_OF = ("Conv2d", "FullyConnected")
"""What XNNPACK calls a network's convolutions, of which the last gives the logits."""
_BEFORE = {"Convert": "bytes to INT8", "Multiply": "bytes to INT8", "Add": "bytes to INT8"}
_AFTER = {
    **dict.fromkeys(CONVOLUTIONS_OF, "convolutions"),
    "GlobalAvgPooling2d": "gates, without their convolutions",
    "Sigmoid": "gates, without their convolutions",
    "Multiply": "gates, without their convolutions",
    "MaxPooling2d": "max pools",
    "Concatenate4": "joining branches",
    "StaticReshape": "changes of view",
}
"""What an operator is for, before and after the first convolution, by its name in XNNPACK."""


class Kind(Schema):
    """What operators of one purpose take in the network."""

    operators: int
    ms: float


class Sums(Schema):
    """What is compared. Times are the middle of the repetitions, ratios the middle of those within a repetition."""

    network_ms: float
    """Of the `.pte` file, from bytes to logits."""
    xnnpack_ms: float
    """Of its graph without ExecuTorch around it."""
    convolutions_ms: float
    """The sum of the network's convolutions, each run alone."""
    ratio: float
    """Network over convolutions."""
    xnnpack_ratio: float
    """The graph without ExecuTorch over convolutions."""

    @classmethod
    def of(cls, times: dict[str, list[float]]) -> Sums:
        """From the times of all turns."""
        middle = {name: float(np.median(row)) for name, row in times.items()}
        return cls(
            network_ms=middle[NETWORK],
            xnnpack_ms=middle[XNNPACK],
            convolutions_ms=middle[CONVOLUTIONS],
            ratio=np.median(np.divide(times[NETWORK], times[CONVOLUTIONS])),
            xnnpack_ratio=np.median(np.divide(times[XNNPACK], times[CONVOLUTIONS])),
        )


class Result(Schema):
    """One width."""

    multiplier: float
    clip: str
    threads: int
    convolutions: int
    after_others: Sums
    """Each ran after the others, whose code and data had taken the caches."""
    after_itself: Sums
    """Each ran twice at its turn, and the second run counts."""
    kinds: dict[str, Kind]
    """After the others."""


class Lowered(NamedTuple):
    """A file, and the graph of its delegate."""

    path: Path
    graph: Any
    constants: bytes


@contextmanager
def graphs_kept() -> Iterator[list[tuple[Any, bytes]]]:
    """The graphs and constants of the delegates that are written within."""
    from executorch.backends.xnnpack import xnnpack_preprocess

    serialize, kept = xnnpack_preprocess.serialize_xnnpack_binary, []

    def keep(graph: Any, constants: bytearray) -> Any:
        kept.append((graph, bytes(constants)))
        return serialize(graph, constants)

    with mock.patch.object(xnnpack_preprocess, "serialize_xnnpack_binary", keep):
        yield kept


def lowered(multiplier: float, clip: Clip, folder: Path) -> Lowered:
    """The INT8 network. Ends the program where it is more than one delegate."""
    net, _ = networks(multiplier)
    sample = torch.randint(0, 256, (*clip, 3), dtype=torch.uint8)
    with graphs_kept() as kept:
        path = pte(net, sample, "int8", folder / "int8")
    if len(kept) != 1:
        sys.exit(f"error: the network is {len(kept)} delegates")
    return Lowered(path, *kept[0])


def measure(multiplier: float, clip: Clip, threads: int, repetitions: int) -> Result:
    """Build the network and its convolutions, and time them."""
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        found = lowered(multiplier, clip, Path(scratch))
        nodes = found.graph.xnodes
        runner = stack.enter_context(ExecuTorchRunner(found.path, threads))
        sample = np.random.default_rng(0).integers(0, 256, (*clip, 3), np.uint8)

        def part(chosen: list[Any], *, profiled: bool = False) -> Part:
            return stack.enter_context(Part(found.graph, found.constants, chosen, profiled=profiled))

        whole, observed = part(nodes), part(nodes, profiled=True)
        alone = [part([node]) for node in nodes if name_of(node) in CONVOLUTIONS_OF]
        profiles: list[list[int]] = []

        def convolutions() -> None:
            for convolution in alone:
                convolution.run()

        def profile() -> None:
            observed.run()
            profiles.append(observed.times_us())

        compared = {NETWORK: lambda: runner.run(sample), XNNPACK: whole.run, CONVOLUTIONS: convolutions}
        after_others = take_turns({PROFILED: profile, **compared}, repetitions)
        after_itself = take_turns(compared, repetitions, twice=True)
        return Result(
            multiplier=multiplier,
            clip="x".join(map(str, clip)),
            threads=threads,
            convolutions=len(alone),
            after_others=Sums.of(after_others),
            after_itself=Sums.of(after_itself),
            kinds=kinds([name_of(node) for node in nodes], np.median(profiles[-repetitions:], axis=0)),
        )


def kinds(names: list[str], times_us: Any) -> dict[str, Kind]:
    """Sums by purpose, largest first, of the times of a graph's nodes. Ends the program if they are not one to one."""
    if len(names) != len(times_us):
        sys.exit(f"error: XNNPACK timed {len(times_us)} operators of {len(names)}, so it cannot be said which is which")
    first, last = (place(range(len(names)), names) for place in (_first, _last))
    found: dict[str, list[float]] = {}
    for place, (name, time_us) in enumerate(zip(names, times_us, strict=True)):
        before = _BEFORE.get(name, "stacking frames and pairing pixels")
        purpose = before if place < first else _AFTER.get(name, "head")
        # The last mean is the network's own, not a gate's.
        if name == "GlobalAvgPooling2d" and "Sigmoid" not in names[place:last]:
            purpose = "head"
        found.setdefault(purpose, []).append(time_us / 1e3)
    ordered = sorted(found.items(), key=lambda item: -sum(item[1]))
    return {purpose: Kind(operators=len(times), ms=sum(times)) for purpose, times in ordered}


def _first(places: range, names: list[str]) -> int:
    return next((place for place in places if names[place] == "Conv2d"), len(names))


def _last(places: range, names: list[str]) -> int:
    return next((place for place in reversed(places) if names[place] == "Conv2d"), 0)


def name_of(node: Any) -> str:
    """What XNNPACK calls a node's operator."""
    return type(node.xnode_union).__name__.removeprefix("XNN")


def main(arguments: list[str] | None = None) -> None:
    """Measure, print tables, and write JSON where asked to."""
    wanted = arguments_of("glue", __doc__, 50, arguments)
    of_widths(wanted, measure, _print, ["executorch"])


def _print(result: Result) -> None:
    console = Console(soft_wrap=True)
    console.print(f"\nwidth {result.multiplier:g}, {result.clip}, {result.threads} threads; milliseconds of one clip")
    table = columns(("each runs",), ("after the others", "after itself"))
    for name, field in (
        (f"{CONVOLUTIONS}, the sum of {result.convolutions}", "convolutions_ms"),
        (XNNPACK, "xnnpack_ms"),
        (NETWORK, "network_ms"),
        ("graph / convolutions", "xnnpack_ratio"),
        (f".pte / convolutions (goal {GOAL})", "ratio"),
    ):
        table.add_row(name, *(f"{getattr(sums, field):.2f}" for sums in (result.after_others, result.after_itself)))
    console.print(table)
    table = columns(("in XNNPACK's graph, by its own clock",), ("operators", "ms"))
    for purpose, kind in result.kinds.items():
        table.add_row(purpose, str(kind.operators), f"{kind.ms:.3f}")
    sums = result.after_others
    rest = sums.xnnpack_ms - sum(kind.ms for kind in result.kinds.values())
    table.add_row("fractions of a microsecond, which that clock drops", "", f"{rest:.3f}")
    table.add_row("ExecuTorch around it", "", f"{sums.network_ms - sums.xnnpack_ms:.3f}")
    console.print(table)


if __name__ == "__main__":
    main()
