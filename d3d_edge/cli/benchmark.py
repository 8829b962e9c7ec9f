"""d3d-edge benchmark."""

from __future__ import annotations

from pathlib import Path

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from d3d_edge.cli import options
from d3d_edge.cli.console import TerminalProgress


@click.command("benchmark")
@click.argument("bundles", nargs=-1, required=True, type=options.PATH)
@click.option("--runs", type=click.IntRange(1), default=50, show_default=True, help="Timed runs after warm-up.")
@options.threads
@options.as_json
def command(bundles: tuple[Path, ...], runs: int, threads: int, as_json: bool) -> None:
    """Time BUNDLES on this machine: the network alone, one clip at a time.

    The clip is one stored in the bundle. Load is opening the model; first is the first clip after that.

    \b
    d3d-edge benchmark bundles/android bundles/jetson --threads 2
    """
    from d3d_edge.pipeline.benchmark import benchmark

    timings = benchmark(bundles, runs=runs, threads=threads, progress=TerminalProgress())
    if as_json:
        click.echo(timings.model_dump_json(indent=2))
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("bundle", "type", "measured by"):
        table.add_column(name)
    for name in ("load ms", "first ms", "p50 ms", "p90 ms", "mean ms", "min ms", "runs", "size MB"):
        table.add_column(name, justify="right")
    for row in timings.rows:
        latency = row.latency
        figures = (row.load_ms, row.first_ms, latency.latency_ms_p50, latency.latency_ms_p90)
        table.add_row(
            row.bundle,
            row.precision,
            f"{row.where}: {row.runtime}",
            *(f"{value:.1f}" for value in (*figures, latency.latency_ms_mean, latency.latency_ms_min)),
            str(latency.runs),
            f"{row.size_bytes / 1e6:.2f}",
        )
    console = Console()
    console.print(table)
    console.print(f"this machine: {timings.environment.processor}, {timings.environment.cpus} CPUs; not a device")
