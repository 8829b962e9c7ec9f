"""d3d-edge benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from d3d_edge.cli import options
from d3d_edge.cli.console import TerminalProgress
from d3d_edge.cli.tables import columns

if TYPE_CHECKING:
    from d3d_edge.pipeline.devices import Runtime


@click.command("benchmark")
@click.argument("bundles", nargs=-1, required=True, type=options.PATH)
@click.option("--runs", type=click.IntRange(1), default=50, show_default=True, help="Timed runs after warm-up.")
@options.devices
@options.threads
@options.as_json
def command(
    bundles: tuple[Path, ...],
    runs: int,
    device_names: tuple[str, ...],
    device_runtime: Runtime,
    threads: int,
    as_json: bool,
) -> None:
    """Time BUNDLES on this machine, or on devices: the network alone, one clip at a time.

    The clip is one stored in the bundle. Load is opening the model; first is the first clip after that.

    \b
    d3d-edge benchmark bundles/android bundles/jetson --threads 2
    d3d-edge benchmark bundles/jetson --device ssh:nano@10.0.0.5
    """
    from d3d_edge.pipeline.benchmark import benchmark
    from d3d_edge.pipeline.devices import Devices

    devices = Devices(device_names, device_runtime)
    report = benchmark(bundles, runs=runs, threads=threads, progress=TerminalProgress(), devices=devices)
    if as_json:
        click.echo(report.model_dump_json(indent=2))
        return
    # As narrow as the report's table; mean and number of runs are in the JSON.
    table = columns(("bundle", "measured by"), ("load ms", "first ms", "p50 ms", "p90 ms", "min ms", "MB"))
    for row in report.rows:
        latency = row.latency
        if latency is None:
            continue
        times = (
            latency.load_ms,
            latency.first_ms,
            latency.latency_ms_p50,
            latency.latency_ms_p90,
            latency.latency_ms_min,
        )
        cells = (f"{time:.1f}" for time in times)
        table.add_row(row.name, str(row.where), *cells, f"{(row.size_bytes or 0) / 1e6:.2f}")
    console = Console(soft_wrap=True)
    console.print(table)
    for row in report.rows:
        console.print(f"{row.name} by {row.runtime}", markup=False, highlight=False)
    machine = f"this machine: {report.environment.processor}, {report.environment.cpus} CPUs; not a device"
    console.print(machine, markup=False, highlight=False)
