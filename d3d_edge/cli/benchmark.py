"""d3d-edge benchmark."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from d3d_edge.bundle import check_output
from d3d_edge.cli import options
from d3d_edge.cli.console import TerminalProgress, json_of, plain
from d3d_edge.cli.tables import columns, measured_by, threads_of
from d3d_edge.errors import DataError, RecipeError
from d3d_edge.report import Report, Row
from d3d_edge.timing import Latency, Samples

if TYPE_CHECKING:
    from d3d_edge.pipeline.devices import Runtime


@click.command("benchmark")
@click.argument("bundles", nargs=-1, required=True, type=options.PATH)
@click.option("--runs", type=click.IntRange(1), default=100, show_default=True, help="Timed runs after warm-up.")
@click.option(
    "--rounds",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="Rounds of as many runs each, a few more than --runs if need be: all bundles in turn, each loaded again.",
)
@click.option("--warm-up", type=click.IntRange(0), default=10, show_default=True, help="Runs before those.")
@click.option("--video", type=options.PATH, help="Also time whole runs from this file: decode, resize, network.")
@click.option(
    "--sustained",
    "minutes",
    type=options.Number(0),
    default=0.0,
    metavar="MINUTES",
    help="Also run each bundle for so long without a pause, and say whether it slows down.",
)
@click.option("--memory", is_flag=True, help="Also measure what each bundle adds to a process's memory, apart.")
@click.option("--out", type=options.PATH, metavar="FILE", help="Also write the JSON here, for `report compare`.")
@options.devices
@options.threads
@options.as_json
def command(
    bundles: tuple[Path, ...],
    runs: int,
    rounds: int,
    warm_up: int,
    video: Path | None,
    minutes: float,
    memory: bool,
    out: Path | None,
    device_names: tuple[str, ...],
    device_runtime: Runtime,
    threads: int,
    as_json: bool,
) -> None:
    """Time BUNDLES on this machine, or on devices: the network alone, one clip at a time.

    The clip is one stored in the bundle. Load is opening the model, read from the disk; first is the first clip after
    that. Times of a machine that others kept busy are marked. docs/measuring.md has the protocol.

    \b
    d3d-edge benchmark bundles/android bundles/jetson --threads 2
    d3d-edge benchmark bundles/android --video clip.mp4 --memory --sustained 10
    d3d-edge benchmark bundles/jetson --device ssh:nano@10.0.0.5
    """
    from d3d_edge.harness.stopwatch import Plan
    from d3d_edge.pipeline.benchmark import benchmark
    from d3d_edge.pipeline.devices import Devices

    if out and os.path.isdir(out):  # which does not mind a name that is too long
        raise click.BadParameter(f"{out} is a folder.", param_hint="--out")
    if out:
        _check_out(out)
    report, failed = benchmark(
        bundles,
        plan=Plan(runs=runs, rounds=rounds, warmup_runs=warm_up),
        threads=threads,
        video=video,
        sustained_minutes=minutes,
        with_memory=memory,
        progress=TerminalProgress(),
        devices=Devices(device_names, device_runtime),
    )
    if out:
        report.write(out)
    if as_json:
        click.echo(json_of(report))
    else:
        _print(report, out)
    if failed:
        raise failed[0]


def _check_out(out: Path) -> None:
    """Refuse what the times may not replace, before they are taken: anything but older ones."""
    check_output(out, "--out")
    if out.is_file() and out.stat().st_size and not _holds_times(out):
        raise RecipeError(f"{out} exists and is no report of benchmark", hint="choose another --out")


def _holds_times(path: Path) -> bool:
    try:
        return not Report.read(path).split  # `validate` and training measure on a split of clips
    except DataError:
        return False


def _print(report: Report, out: Path | None) -> None:
    timed = [(row, row.latency) for row in report.rows if row.latency]
    console = plain(soft_wrap=True)
    # As narrow as the report's table; mean, standard deviation and every time are in the JSON.
    table = columns(("bundle", "measured by"), ("load", "first", "p50", "p90", "p95", "p99", "min", "MB"), tight=True)
    for row, found in timed:
        times = (
            *(found.load_ms, found.first_ms, found.latency_ms_p50, found.latency_ms_p90),
            *(found.latency_ms_p95, found.latency_ms_p99, found.latency_ms_min),
        )
        table.add_row(row.name, measured_by(row), *map(_ms, times), f"{(row.size_bytes or 0) / 1e6:.2f}")
    console.print(table, crop=False)
    for line in (line for row, found in timed for line in _lines(row, found)):
        console.print(line)
    for row in report.rows:
        if not row.latency:
            console.print(f"{row.name} was not timed: {row.note}")
    for note in report.notes:
        console.print(f"note: {note}")
    machine = report.environment
    console.print(f"milliseconds, {_conditions(report)}; p95 needs 20 runs, p99 100; MB: the model file")
    if any(row.samples and not row.device for row in report.rows):
        console.print(f"this machine, not a device: {machine.kind}, {machine.cpus} CPUs")
    if out:
        console.print(f"wrote {out}")


def _lines(row: Row, found: Latency) -> list[str]:
    """What does not fit into the table."""
    lines = [f"{row.name} by {row.runtime}, {found.runs} runs"]
    if found.end_to_end:
        parts = (
            found.decode_ms_p50,
            found.resize_ms_p50,
            found.end_to_end.latency_ms_p50,
            found.end_to_end.latency_ms_p90,
        )
        decode, resize, whole, slow = map(_ms, parts)
        lines.append(f"  from the video file: {whole} (p90 {slow}), of it decoding {decode}, resizing {resize}")
    if found.drift:
        change = "" if found.drift.change is None else f": {found.drift.change:+.1%}, p {found.drift.p_value:.2g}"
        lines.append(f"  {found.drift.minutes:.1f} minutes without a pause: {found.drift.verdict}{change}")
    if found.memory_peak_bytes is not None:
        lines.append(f"  memory that the model adds: {found.memory_peak_bytes / 1e6:.1f} MB")
    if row.note:
        lines.append(f"  {row.note}")
    if found.busy:
        lines.append(f"  not to be trusted: {found.busy}")
    if row.samples and row.samples.hot:
        lines.append(f"  {row.samples.heat_note}")
    return lines


def _conditions(report: Report) -> str:
    """Threads, and what is known of each machine when its first row was timed."""
    places: dict[str, list[Samples]] = {}
    for row in report.rows:
        if row.samples:
            places.setdefault(row.device or "this machine", []).append(row.samples)
    told = [(f"{place}: " if len(places) > 1 else "") + _condition(samples) for place, samples in places.items()]
    return "; ".join(told)


def _condition(samples: Sequence[Samples]) -> str:
    before = samples[0].environment_before
    known = [threads_of(each.threads for each in samples)]
    if before.governor:
        known.append(f"governor {before.governor}")
    if before.clock_mhz:
        known.append(f"{max(before.clock_mhz):.0f} MHz")
    if before.temperature_c:
        known.append(f"{max(before.temperature_c.values()):.0f} degrees C")
    if before.power_mode:
        known.append(f"power mode {before.power_mode}")
    return ", ".join(known)


def _ms(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2g}" if value < 0.1 else f"{value:.1f}" if value < 1000 else f"{value:.0f}"
