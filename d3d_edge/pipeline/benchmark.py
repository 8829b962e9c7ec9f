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
from d3d_edge.pipeline.environment import environment
from d3d_edge.pipeline.validate import role_of
from d3d_edge.progress import Progress
from d3d_edge.report import Report, Row


def benchmark(paths: Sequence[Path], *, runs: int, threads: int, progress: Progress) -> Report:
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
    made = bundle.manifest
    runtime = runtimes.get(made.runtime)
    with runtime.open(bundle, threads=threads):
        pass  # Imports the runtime, which takes seconds and is not part of loading a model.
    began = perf_counter()
    with runtime.open(bundle, threads=threads) as runner:
        load_ms = 1e3 * (perf_counter() - began)
        samples = latency.measure(runner, clip, runs=runs, threads=threads).model_copy(update={"load_ms": load_ms})
        return Row(
            name=bundle.path.name,
            role=role_of(bundle),
            bundle=bundle.path.name,
            target=made.target,
            precision=made.precision,
            where=runner.where,
            runtime=runner.runtime,
            size_bytes=bundle.model_size_bytes,
            samples=samples,
            latency=latency.figures(samples),
        )
