"""Size, memory and time of every preset as an INT8 and a float32 `.pte`, with random weights and ten classes.

Memory is what loading and running the file adds to a process of its own, as `d3d-edge benchmark --memory` finds it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from benchmarks.network import CLASSES, pte
from benchmarks.turns import take_turns
from d3d_edge.cli.tables import columns
from d3d_edge.files import write_json
from d3d_edge.models.build import network, randomise
from d3d_edge.pipeline.environment import environment
from d3d_edge.pipeline.memory import added_bytes
from d3d_edge.presets import PRESETS, Preset
from d3d_edge.recipe import NetworkSpec
from d3d_edge.report import Environment
from d3d_edge.runtimes.executorch import ExecuTorchRunner
from d3d_edge.schema import Schema
from d3d_edge.target import Precision

NAMES = ("nano", "small", "base")
PRECISIONS: tuple[Precision, ...] = ("int8", "float32")


class Form(Schema):
    """One file."""

    size_bytes: int
    memory_bytes: int
    """Most resident memory that loading and running it adds."""
    ms_p50: float


class Result(Schema):
    """One preset."""

    preset: str
    clip: str
    threads: int
    forms: dict[Precision, Form]
    size_ratio: float
    """INT8 in parts of float32."""


class Figures(Schema):
    """All presets, and the machine."""

    environment: Environment
    results: tuple[Result, ...]


def measure(name: str, preset: Preset, threads: int, repetitions: int) -> Result:
    """Write both files, and measure them in turns."""
    torch.manual_seed(0)
    net = network(NetworkSpec(**preset.network, bn_scale=True), CLASSES, in_channels=3).eval()
    randomise(net)
    shape = (preset.frames, preset.side, preset.side, 3)
    sample = torch.randint(0, 256, shape, dtype=torch.uint8)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        files = {kind: pte(net, sample, kind, Path(scratch) / kind) for kind in PRECISIONS}
        memory = {kind: _memory_bytes(path, threads, sample.numpy()) for kind, path in files.items()}
        runs = {}
        for kind, path in files.items():
            runner = stack.enter_context(ExecuTorchRunner(path, threads))
            runs[str(kind)] = partial(runner.run, sample.numpy())
        times = take_turns(runs, repetitions)
        sizes = {kind: path.stat().st_size for kind, path in files.items()}
    return Result(
        preset=name,
        clip="x".join(map(str, shape[:3])),
        threads=threads,
        forms={
            kind: Form(size_bytes=sizes[kind], memory_bytes=memory[kind], ms_p50=float(np.median(times[kind])))
            for kind in PRECISIONS
        },
        size_ratio=sizes["int8"] / sizes["float32"],
    )


def _memory_bytes(path: Path, threads: int, clip: np.ndarray) -> int:
    # spawn: a forked copy would start with the memory of this process.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(added_bytes, partial(ExecuTorchRunner, path, threads), clip).result()


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table, and write JSON where asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.presets", description=__doc__)
    parser.add_argument("presets", nargs="*", default=NAMES, choices=(*PRESETS, NAMES), metavar="PRESET")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=30)
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    wanted = parser.parse_args(arguments)
    started = datetime.now(UTC)
    results = [measure(name, PRESETS[name], wanted.threads, wanted.repetitions) for name in wanted.presets]
    figures = Figures(environment=environment(started, ["executorch"]), results=tuple(results))
    table = columns(("preset", "clip", "precision"), ("MB", "of float32", "memory MB", "p50 ms"))
    for result in results:
        for kind, form in result.forms.items():
            share = f"{result.size_ratio:.3f}" if kind == "int8" else "-"
            values = (f"{form.size_bytes / 1e6:.3f}", share, f"{form.memory_bytes / 1e6:.1f}", f"{form.ms_p50:.2f}")
            table.add_row(result.preset, result.clip, kind, *values)
    console = Console(soft_wrap=True)
    console.print(f"\n{wanted.threads} threads; size of the file, memory that it adds to a process, time of one clip")
    console.print(table)
    if wanted.out:
        write_json(wanted.out, figures.model_dump(mode="json"))


if __name__ == "__main__":
    main()
