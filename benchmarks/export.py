"""Time `d3d-edge export` of an untrained student of rendered clips, all targets at once and each alone, end to end.

The run is made before the clock starts. A target's own time is that of the command for it less that of a command which
finds everything exported before; both write the two references, which the table has apart.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.network import Clip, clip_from_text
from d3d_edge import manifest, recipe
from d3d_edge.cli.tables import columns
from d3d_edge.files import write_json
from d3d_edge.models.build import network
from d3d_edge.models.recogniser import Recogniser
from d3d_edge.pipeline.environment import environment
from d3d_edge.pipeline.marks import GRAPH_NAME
from d3d_edge.progress import Silent
from d3d_edge.quantize import graph_files, pt2e
from d3d_edge.report import Environment
from d3d_edge.runs import Run, fingerprint
from d3d_edge.schema import Schema
from d3d_edge.video import rendered

TARGETS = ("android", "ios", "jetson")
RECIPE = """
extends: compact
name: untrained
description: for the time of an export
clip: {{frames: {clip.frames}, short_side: {clip.height}, height: {clip.height}, width: {clip.width}}}
teacher: {{network: {{width: {multiplier}}}}}
student: {{network: {{width: {multiplier}}}}}
"""


class Figures(Schema):
    """Elapsed seconds of commands, and the machine."""

    environment: Environment
    multiplier: float
    clip: str
    workers: int
    seconds: dict[str, float]
    """`all`; a target's name, references included; and `nothing left to do`."""


def untrained(folder: Path, multiplier: float, clip: Clip) -> Run:
    """A run at `folder`/run whose student is random and was quantized by one random clip."""
    folder.mkdir()
    rendered.render_set(
        folder / "clips", clips_per_class=5, seed=0, size_px=clip.height, frames=clip.frames, workers=2,
        progress=Silent(),
    )  # fmt: skip
    (folder / "recipe.yaml").write_text(RECIPE.format(clip=clip, multiplier=multiplier), encoding="utf-8")
    wanted = recipe.load(str(folder / "recipe.yaml"))
    split = wanted.split
    data = manifest.with_split(
        manifest.load(folder / "clips"), val_share=split.val_share, test_share=split.test_share, seed=split.seed
    )
    run = Run.start(folder / "run", wanted, data)
    torch.manual_seed(0)
    model = Recogniser(network(wanted.student.network, len(data.labels), in_channels=3).eval())
    sample = torch.randint(0, 256, wanted.clip.shape, dtype=torch.uint8)
    graph = pt2e.prepare(pt2e.capture(model, sample), scheme=wanted.quantize.scheme, observer="minmax", qat=False)
    pt2e.calibrate(graph, [sample])
    programs = {"student": pt2e.export_float(model, sample), "quantized": pt2e.convert(graph, sample)}
    for stage, program in programs.items():
        run.folder(stage).mkdir()
        graph_files.save(program, run.folder(stage) / GRAPH_NAME)
        run.finish(stage, fingerprint(stage), calibration_hash=fingerprint("one clip"))
    return run


def _export_s(run: Run, targets: tuple[str, ...], out: Path, workers: int) -> float:
    """Elapsed seconds of the command. Ends the program where it fails."""
    chosen = [word for name in targets for word in ("--target", name)]
    words = ["export", str(run.path), *chosen, "--out", str(out), "--workers", str(workers)]
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "d3d_edge", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr.strip())
    return time.perf_counter() - began


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table, and write JSON where asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export", description=__doc__)
    parser.add_argument("width", type=float, nargs="?", default=1.0, help="channel multiplier")
    parser.add_argument("--clip", type=clip_from_text, default=Clip(16, 112, 112), metavar="TxHxW")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--at", type=Path, help="make the run in this folder and keep it, or take the one there")
    parser.add_argument("--make-only", action="store_true", help="with --at: make the run, and time nothing")
    parser.add_argument("--only-all", action="store_true", help="leave out the commands for one target")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    wanted = parser.parse_args(arguments)
    started = datetime.now(UTC)
    with tempfile.TemporaryDirectory() as scratch:
        folder, at = Path(scratch), wanted.at or Path(scratch) / "made"
        run = Run.open(at / "run") if at.exists() else untrained(at, wanted.width, wanted.clip)
        if wanted.make_only:
            return
        seconds = {"all": _export_s(run, ("all",), folder / "all", wanted.workers)}
        seconds["nothing left to do"] = _export_s(run, ("all",), folder / "all", wanted.workers)
        if not wanted.only_all:
            for name in TARGETS:
                seconds[name] = _export_s(run, (name,), folder / name, 1)
    figures = Figures(
        environment=environment(started, ["executorch", "coreml", "tensorrt"]),
        multiplier=wanted.width,
        clip="x".join(map(str, wanted.clip)),
        workers=wanted.workers,
        seconds=seconds,
    )
    table = columns(("d3d-edge export",), ("s",))
    for name, value in seconds.items():
        table.add_row(f"--target {name}, 1 worker" if name in TARGETS else name, f"{value:.1f}")
    console = Console(soft_wrap=True)
    console.print(f"\nwidth {figures.multiplier:g}, {figures.clip}, {figures.workers} workers; elapsed seconds")
    console.print(table)
    if wanted.out:
        write_json(wanted.out, figures.model_dump(mode="json"))


if __name__ == "__main__":
    main()
