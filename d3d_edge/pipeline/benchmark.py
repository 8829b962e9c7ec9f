"""d3d-edge benchmark: the time of bundles on this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from d3d_edge import runtimes
from d3d_edge.bundle import GOLDEN_CLIPS, Bundle
from d3d_edge.harness import latency
from d3d_edge.pipeline.environment import environment
from d3d_edge.progress import Progress
from d3d_edge.report import Environment, Latency
from d3d_edge.runner import Where
from d3d_edge.schema import Schema


class Timing(Schema):
    """One bundle on this machine."""

    bundle: str
    target: str
    precision: str
    where: Where
    runtime: str
    size_bytes: int
    load_ms: float
    """Opening the model; its files are verified and its runtime imported before."""
    first_ms: float
    """The first clip."""
    latency: Latency


class Timings(Schema):
    """All bundles, and the machine."""

    environment: Environment
    rows: tuple[Timing, ...]


def benchmark(paths: Sequence[Path], *, runs: int, threads: int, progress: Progress) -> Timings:
    """Time each bundle at `paths` on a clip stored in it: load, first run, then `runs` runs after warm-up.

    Raises:
        BundleError: a bundle is damaged.
        MissingDependency: a runtime's package is not installed.
    """
    started = datetime.now(UTC)
    bundles = [Bundle.open(path) for path in paths]
    for bundle in bundles:
        runtimes.get(bundle.manifest.runtime).check_run()
    with progress.task("benchmark", len(bundles)) as task:
        rows = []
        for bundle in bundles:
            rows.append(_time(bundle, runs, threads))
            task.advance(1, bundle.path.name)
    return Timings(environment=environment(started, {bundle.manifest.runtime for bundle in bundles}), rows=tuple(rows))


def _time(bundle: Bundle, runs: int, threads: int) -> Timing:
    clip = np.load(bundle.path / GOLDEN_CLIPS)[0]
    made = bundle.manifest
    runtime = runtimes.get(made.runtime)
    with runtime.open(bundle, threads=threads):
        pass  # Imports the runtime, which takes seconds and is not part of loading a model.
    began = time.perf_counter()
    with runtime.open(bundle, threads=threads) as runner:
        loaded = time.perf_counter()
        runner.run(clip)
        first = time.perf_counter()
        return Timing(
            bundle=bundle.path.name,
            target=made.target,
            precision=made.precision,
            where=runner.where,
            runtime=runner.runtime,
            size_bytes=bundle.model_size_bytes,
            load_ms=1e3 * (loaded - began),
            first_ms=1e3 * (first - loaded),
            latency=latency.measure(runner, clip, runs=runs, threads=threads),
        )
