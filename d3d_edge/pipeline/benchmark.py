"""d3d-edge benchmark: the time of bundles on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

import numpy as np

from d3d_edge import runtimes
from d3d_edge.bundle import GOLDEN_CLIPS, Bundle
from d3d_edge.harness import latency
from d3d_edge.pipeline.devices import HERE, THIS_MACHINE, Devices, Fleet, check, fits
from d3d_edge.pipeline.environment import environment
from d3d_edge.pipeline.validate import role_of
from d3d_edge.progress import Progress
from d3d_edge.report import Report, Row
from d3d_edge.runner import Where


def benchmark(
    paths: Sequence[Path], *, runs: int, threads: int, progress: Progress, devices: Devices = THIS_MACHINE
) -> Report:
    """Time each bundle at `paths` on a clip stored in it: load, first run, then `runs` runs after warm-up.

    Each is timed on every one of `devices` that can run it.

    Raises:
        BundleError: a bundle is damaged.
        MissingDependency: a runtime's package is not installed.
        RecipeError: a device is none, or can run none of the bundles.
        DeviceError: a device failed.
    """
    started = datetime.now(UTC)
    bundles = [Bundle.open(path) for path in paths]
    check(bundles, devices)
    pairs = [(bundle, name) for bundle in bundles for name in dict.fromkeys(devices.names) if fits(bundle, name)]
    for bundle, name in pairs:
        if name == HERE:
            runtimes.get(bundle.manifest.runtime).check_run()
    rows = []
    with Fleet(devices, threads) as fleet, progress.task("benchmark", len(pairs)) as task:
        for bundle, name in pairs:
            if name == HERE:
                rows.append(_time(bundle, runs, threads))
            else:
                row = _row(bundle, bundle.path.name + devices.suffix(name))
                rows.append(row.model_copy(update=fleet.run(name, bundle, runs, progress)[0]))
            task.advance(1, rows[-1].name)
    first = bundles[0].manifest
    return Report(
        title=f"benchmark of {first.name}",
        classes=len(first.labels),
        labels=first.labels,
        environment=environment(started, {bundle.manifest.runtime for bundle in bundles}),
        rows=tuple(rows),
    )


def _time(bundle: Bundle, runs: int, threads: int) -> Row:
    clip = np.load(bundle.path / GOLDEN_CLIPS)[0]
    runtime = runtimes.get(bundle.manifest.runtime)
    with runtime.open(bundle, threads=threads):
        pass  # Imports the runtime, which takes seconds and is not part of loading a model.
    began = perf_counter()
    with runtime.open(bundle, threads=threads) as runner:
        load_ms = 1e3 * (perf_counter() - began)
        samples = latency.measure(runner, clip, runs=runs, threads=threads).model_copy(update={"load_ms": load_ms})
        figures = {"where": runner.where, "runtime": runner.runtime, "samples": samples}
        return _row(bundle, bundle.path.name).model_copy(update={**figures, "latency": latency.figures(samples)})


def _row(bundle: Bundle, name: str) -> Row:
    """What is known of a bundle before it is timed."""
    made = bundle.manifest
    return Row(
        name=name,
        role=role_of(bundle),
        bundle=bundle.path.name,
        target=made.target,
        precision=made.precision,
        where=Where.NOT_RUN,
        size_bytes=bundle.model_size_bytes,
    )
