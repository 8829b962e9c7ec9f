"""Which shape of student is the most accurate for its time: trains and times a list of them, and names the best.

python -m benchmarks.shapes --data manifest.csv --out shapes/
python -m benchmarks.shapes --data manifest.csv --out shapes/ --seeds 3 --int8 --shape "16x72x72 0.25 Conv2d_2c_3x3 conv3d_k3"
python -m benchmarks.shapes --out shapes/ --times

A shape is frames, pixels, width, first temporal layer, stem, widths of single stages, and whether there are gates.
Each is trained as recipe `gestures` says, the teacher for 60 epochs and the student for --epochs, and with --int8
quantized as that says. With --times each is timed as an INT8 `.pte` with random weights, all in turns, with 2 threads
and then 1. What is finished is kept: runs in OUT/runs, files in OUT/students. Leaves OUT/shapes.json, and prints all
that is finished so far as a table.
"""  # noqa: E501

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.turns import take_turns
from d3d_edge import runtimes, target
from d3d_edge.bundle import GOLDEN_CLIPS
from d3d_edge.cli import options
from d3d_edge.cli.console import TerminalProgress
from d3d_edge.files import write_json
from d3d_edge.harness import latency
from d3d_edge.pipeline import models, students
from d3d_edge.pipeline.environment import environment
from d3d_edge.pipeline.students import CLASSES
from d3d_edge.presets import Shape
from d3d_edge.runs import Run

SHAPES = (
    Shape.of(16, 56, 0.25),
    Shape.of(8, 112, 0.25, "Mixed_4b"),
    Shape.of(16, 72, 0.25),
    Shape.of(24, 56, 0.25),
    Shape.of(16, 56, 0.25, "Mixed_4b"),
    Shape.of(16, 56, 0.25, stem="conv3d_k1"),
    Shape.of(16, 56, 0.35),
    Shape.of(8, 56, 0.25),
    Shape.of(16, 112, 0.25),
    Shape.of(16, 112, 0.25, stem="conv3d_k3_3x3"),
    Shape.of(16, 48, 0.25),
    Shape.of(8, 80, 0.25),
    Shape.of(32, 56, 0.25),
    Shape.of(16, 56, 0.25, stem="separable"),
    Shape.of(16, 56, 0.25, stem="conv3d_k3_5x5"),
    Shape.of(16, 56, 0.25, stem="conv3d_k3_3x3"),
    Shape.of(16, 56, 0.25, stem="conv3d_k3_3x3", gating=False),
    Shape.of(16, 56, 0.25, stem="conv3d_k3_3x3", Mixed_5=0.5),
    Shape.of(32, 56, 0.25, stem="conv3d_k3_3x3"),
    Shape.of(32, 56, 0.25, stem="conv3d_k3_3x3", gating=False),
    Shape.of(16, 56, 0.25, stem="conv3d_k3_3x3", Conv2d_1=0.5, Conv2d_2=0.5),
    Shape.of(16, 56, 0.5),
    Shape.of(16, 80, 0.35, "Mixed_3b"),
    Shape.of(16, 96, 0.25, "Mixed_3b"),
    Shape.of(16, 56, 0.25, Mixed_5=0.125),
    Shape.of(16, 56, 0.25, Mixed_5=0.5),
    Shape.of(16, 56, 0.25, Mixed_3=0.5),
    Shape.of(16, 56, 0.25, Mixed_4=0.5),
    Shape.of(16, 56, 0.25, Conv2d_1=0.5, Conv2d_2=0.5),
)
"""Tried: around the network of `gestures`, one or two sizes changed at a time."""
THREADS = (2, 1)
REPETITIONS = 100
STAGES = {"teacher": "teacher", "top1": "student", "int8": "quantized"}
"""Whose top-1 is in a row, by its name there."""


def settings(shape: Shape, seed: int, epochs: int = 30) -> list[str]:
    """What `d3d-edge distill gestures` is told for one run."""
    words = [f"seed={seed}", f"clip.frames={shape.frames}", f"clip.short_side={shape.short_side}"]
    words += [f"clip.{axis}={shape.side}" for axis in ("height", "width")]
    for part in ("teacher", "student"):
        words += [f"{part}.network.{key}={json.dumps(value)}" for key, value in shape.network.items()]
    return [*words, f"student.train.epochs={epochs}", "baselines.spatial=null"]


def run_of(out: Path, shape: Shape, seed: int) -> Path:
    """The run folder of a shape and a seed."""
    return out / "runs" / f"{str(shape).replace(' ', '-')}-seed{seed}"


def train(shape: Shape, seed: int, data: Path, out: Path, cache_dir: Path, *, epochs: int, int8: bool) -> None:
    """Train, and with `int8` quantize, what is not finished."""
    run = run_of(out, shape, seed)
    common = ("--workers", "1", "--cache", str(cache_dir))
    if not (run / "student" / "done.json").is_file():
        changes = [word for setting in settings(shape, seed, epochs) for word in ("--set", setting)]
        _d3d_edge("distill", "gestures", "--data", str(data), "--out", str(run), *common, *changes)
    if int8 and not (run / "quantized" / "done.json").is_file():
        _d3d_edge("quantize", str(run), *common)


def _d3d_edge(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "d3d_edge", *words], check=True)


def top1(out: Path, shape: Shape, stage: str) -> dict[int, float]:
    """Top-1 of a stage, by seed, of the runs that are finished.

    It is the share of all test clips: a video with fewer frames than the shape takes is one that it gets wrong.
    """
    found = {}
    for done in sorted(run_of(out, shape, 0).parent.glob(f"{run_of(out, shape, 0).name[:-1]}*/{stage}/done.json")):
        run = Run.open(done.parents[1])
        figures = json.loads(done.read_text(encoding="utf-8"))
        right = round(figures["top1"] * figures["clips"])
        found[int(run.path.name.rpartition("seed")[2])] = right / len(run.data.of("test"))
    return found


def times(shapes: Sequence[Shape], out: Path, workers: int) -> dict[Shape, dict[str, Any]]:
    """Milliseconds of each shape by the number of threads; measured now. A clip comes right after one like it."""
    android = target.load("android")
    made = students.bundles(shapes, android, out / "students", workers=workers, progress=TerminalProgress())
    found: dict[Shape, dict[str, Any]] = {shape: {} for shape in shapes}
    for threads in THREADS:
        with ExitStack() as opened:
            runs = {}
            for shape, bundle in made.items():
                runner = opened.enter_context(runtimes.get(android.runtime).open(bundle, threads=threads))
                runs[shape] = partial(runner.run, np.load(bundle.path / GOLDEN_CLIPS)[0])
            for shape, row in take_turns(runs, REPETITIONS, twice=True).items():
                found[shape][f"threads_{threads}"] = latency.spread(row).model_dump()
    return found


def front(rows: Sequence[dict[str, Any]]) -> set[str]:
    """Shapes that none of those timed and trained beats: as fast and more accurate, or as accurate and faster."""
    known = [row for row in rows if row["top1"] and row["times"]]
    places = {row["shape"]: (_ms(row, THREADS[0]), -statistics.mean(row["top1"].values())) for row in known}

    def beaten(ms: float, error: float) -> bool:
        return any(a <= ms and b <= error and (a, b) != (ms, error) for a, b in places.values())

    return {name for name, place in places.items() if not beaten(*place)}


def _ms(row: dict[str, Any], threads: int) -> float:
    return float(row["times"][f"threads_{threads}"]["latency_ms_p50"])


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The rows in Markdown, the fastest first: top-1 by seed, and the mean of the students.

    Bold where no other is as fast and more accurate.
    """
    best = front(rows)
    lines = [
        "| clip, width, temporal from, stem, stages | ms, 2 threads | 1 | M | GMAC | teacher | student | INT8 | mean |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: _ms(row, THREADS[0]) if row["times"] else row["gmac"]):
        name = f"**{row['shape']}**" if row["shape"] in best else row["shape"]
        both = [f"{_ms(row, threads):.2f}" if row["times"] else "-" for threads in THREADS]
        shares = [" ".join(f"{share:.3f}" for share in row[stage].values()) or "-" for stage in STAGES]
        shares.append(f"{statistics.mean(row['top1'].values()):.3f}" if row["top1"] else "-")
        cells = (name, *both, f"{row['parameters'] / 1e6:.2f}", f"{row['gmac']:.2f}", *shares)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


@click.command()
@click.option("--data", type=options.PATH, help="The clips; without it nothing is trained.")
@click.option("--out", required=True, type=options.PATH)
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="Runs with the seeds 0, 1, ...")
@click.option(
    "--shape", "names", multiple=True, help="Only this one, as the table writes it; may be given several times."
)
@click.option("--epochs", default=30, show_default=True, help="Of the student; another number wants another OUT.")
@click.option("--int8", is_flag=True, help="Also quantize each run.")
@click.option("--times", "timed", is_flag=True, help="Time the shapes, on a machine that does nothing else.")
@options.cache
@options.workers
def main(
    data: Path | None,
    out: Path,
    seeds: int,
    names: tuple[str, ...],
    epochs: int,
    int8: bool,
    timed: bool,
    cache_dir: Path,
    workers: int,
) -> None:
    """Train, quantize and time shapes of students, and say which are the most accurate for their time."""
    started = datetime.now(UTC)
    known = {str(shape): shape for shape in SHAPES}
    if unknown := set(names) - known.keys():
        raise click.UsageError(f"no shape {sorted(unknown)[0]!r}; there are: {', '.join(known)}")
    chosen = [shape for name, shape in known.items() if not names or name in names]
    if data:
        for seed in range(seeds):
            for shape in chosen:
                train(shape, seed, data, out, cache_dir, epochs=epochs, int8=int8)
    path = out / "shapes.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"rows": [], "environment": None}
    kept = {row["shape"]: row["times"] for row in before["rows"]}
    taken = kept | ({str(shape): row for shape, row in times(chosen, out, workers).items()} if timed else {})
    rows = []
    for shape in SHAPES:
        size = models.of_shape(shape, CLASSES)
        row = {"shape": str(shape), "parameters": size.parameters, "gmac": size.gmac}
        row |= {name: top1(out, shape, stage) for name, stage in STAGES.items()}
        rows.append(row | {"times": taken.get(str(shape), {})})
    where = environment(started, ["executorch"]).model_dump() if timed else before["environment"]
    write_json(path, {"environment": where, "rows": rows})
    click.echo("\n".join(table(rows)))


if __name__ == "__main__":
    main()
