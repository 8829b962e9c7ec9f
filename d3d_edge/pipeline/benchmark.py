"""d3d-edge benchmark: the time of bundles on this machine, and on devices."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from d3d_edge import runtimes
from d3d_edge.bundle import Bundle, by_place
from d3d_edge.errors import BundleError, DeviceError, RecipeError, StorageError
from d3d_edge.files import files_below
from d3d_edge.harness import latency, stopwatch
from d3d_edge.harness.stopwatch import Opener, Plan
from d3d_edge.pipeline import memory
from d3d_edge.pipeline.devices import HERE, NO_DEVICE, THIS_MACHINE, Devices, Fleet, check, fits
from d3d_edge.pipeline.environment import environment
from d3d_edge.pipeline.golden import golden_of
from d3d_edge.pipeline.rows import fallback_notes, row_of
from d3d_edge.progress import Progress
from d3d_edge.report import Report, Row
from d3d_edge.runner import Where
from d3d_edge.video.preprocess import load_clip

END_TO_END_RUNS = 20
UNTIMED = "an interpreter reads these files on this machine, and its time says nothing"


def benchmark(
    paths: Sequence[Path],
    *,
    plan: Plan,
    threads: int,
    video: Path | None = None,
    sustained_minutes: float = 0.0,
    with_memory: bool = False,
    progress: Progress,
    devices: Devices = THIS_MACHINE,
) -> tuple[Report, list[DeviceError]]:
    """Time each bundle at `paths` on a clip stored in it, on every one of `devices` that can run it.

    A device that fails in the middle costs its own rows alone: what failed is given beside the report of the others.
    On this machine all in turn (`stopwatch.take`); with `video`, whole runs from that file too; and `with_memory`, the
    memory that each takes, after all times. With `sustained_minutes`, everywhere, each without a pause for so long.

    Raises:
        BundleError: a bundle is damaged.
        MissingDependency: a runtime's package is not installed.
        RecipeError: a device is none, or can run none of the bundles; a `video` is for a device; or nothing runs any
            of the bundles but an interpreter.
        DeviceError: a device failed before anything was timed, or nothing could be timed anywhere for that.
        DataError: `video` cannot be read, or is too short for a bundle.
        StorageError: no process can be started to measure memory in.
    """
    started = datetime.now(UTC)
    bundles = by_place(map(Bundle.open, paths))
    check(list(bundles.values()), devices)
    if video:
        if HERE not in devices.names:
            raise RecipeError("--video is timed on this machine only", hint="leave out --video, or --device")
        for bundle in bundles.values():  # Before minutes of timing, not after.
            load_clip(video, bundle.manifest.clip)
    if with_memory:
        memory.check()
    rows: dict[str, Row] = {}
    failed: list[DeviceError] = []
    with Fleet(devices, threads) as fleet:
        fleet.try_out(bundles.values(), progress)
        if HERE in devices.names:
            rows = _here(bundles, plan, threads, video, sustained_minutes, with_memory, progress)
        for device in devices.remote:
            for name, bundle in bundles.items():
                if fits(bundle, device):
                    row = row_of(name + devices.suffix(device), bundle)
                    try:
                        fields = fleet.run(device, bundle, plan, progress, sustained_s=60 * sustained_minutes)[0]
                    except DeviceError as error:
                        failed.append(error)
                        fields = {"device": device, "note": str(error)}
                    rows[row.name] = row.model_copy(update=fields)
    for name, bundle in bundles.items():
        if not any(fits(bundle, device) for device in devices.names):
            rows[name] = row_of(name, bundle).model_copy(update={"note": NO_DEVICE})
    if not any(row.samples for row in rows.values()):
        if failed:
            raise failed[0]
        raise RecipeError(
            f"nothing to time: {next(iter(rows.values())).note}",
            hint="--device names a device that runs them; d3d-edge validate checks their answers here",
        )
    first = next(iter(bundles.values())).manifest
    report = Report(
        title=f"benchmark of {first.name}",
        classes=len(first.labels),
        labels=first.labels,
        environment=environment(started, {bundle.manifest.runtime for bundle in bundles.values()}),
        rows=tuple(rows.values()),
        notes=tuple(fallback_notes(bundles.items())),
    )
    return report, failed


def _here(
    bundles: Mapping[str, Bundle],
    plan: Plan,
    threads: int,
    video: Path | None,
    sustained_minutes: float,
    with_memory: bool,
    progress: Progress,
) -> dict[str, Row]:
    """The rows of this machine. Those of files that an interpreter reads here have no times."""
    openers = {name: _opener(bundle, threads) for name, bundle in bundles.items()}
    rows = {name: _loaded(row_of(name, bundle), bundle, openers[name]) for name, bundle in bundles.items()}
    untimed = {name for name, row in rows.items() if row.where in (Where.NOT_RUN, Where.REFERENCE_INTERPRETER)}
    bundles = {name: bundle for name, bundle in bundles.items() if name not in untimed}
    openers = {name: openers[name] for name in bundles}
    clips = {name: golden_of(bundle).clips[0] for name, bundle in bundles.items()}
    with progress.task("benchmark", len(bundles) * plan.rounds_made) as task:
        samples = stopwatch.take(openers, clips, plan, threads=threads, on_round=task.advance)
    for name, bundle in bundles.items():
        more: dict[str, object] = {}
        if video:
            with openers[name]() as runner:
                more["end_to_end"] = stopwatch.end_to_end(runner, video, bundle.manifest.clip, END_TO_END_RUNS)
        if sustained_minutes:
            title, seconds = f"{name}, sustained", round(60 * sustained_minutes)
            with openers[name]() as runner, progress.task(title, seconds) as task:
                more["sustained"] = stopwatch.sustained(runner, clips[name], sustained_minutes, task.advance)
        samples[name] = samples[name].model_copy(update=more)
    if with_memory:
        for name, bundle in bundles.items():
            try:
                peak = memory.peak_bytes(bundle.path, threads)
            except (BundleError, StorageError) as error:  # the times are there
                rows[name] = rows[name].model_copy(update={"note": f"memory was not measured: {error}"})
            else:
                samples[name] = samples[name].model_copy(update={"memory_peak_bytes": peak})
    return {
        name: row.model_copy(update={"note": row.note or UNTIMED})
        if name in untimed
        else latency.timed(row, samples[name])
        for name, row in rows.items()
    }


def _opener(bundle: Bundle, threads: int) -> Opener:
    runtime = runtimes.get(bundle.manifest.runtime)
    runtime.check_run()
    return functools.partial(runtime.open, bundle, threads=threads)


def _loaded(row: Row, bundle: Bundle, opener: Opener) -> Row:
    """`row` with what runs the bundle; with why it does not run, if it was exported with --allow-fallback.

    Its runtime is loaded then, which takes seconds and is no part of loading a model; and its files are dropped from
    the page cache, so that they are read from the disk as on a first start.
    """
    allowed = bundle.manifest.fallbacks
    try:
        with opener() as runner:
            where, runtime = runner.where, runner.runtime
            if allowed:
                runner.run(golden_of(bundle).clips[0])
    except BundleError as error:
        if not allowed:
            raise
        return row.model_copy(update={"note": str(error)})
    for file in files_below(bundle.path):
        _drop_from_cache(file)
    return row.model_copy(update={"where": where, "runtime": runtime})


def _drop_from_cache(file: Path) -> None:
    if hasattr(os, "posix_fadvise"):  # not on macOS
        with suppress(OSError), file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
