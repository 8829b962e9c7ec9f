"""d3d-edge demo: every verb in turn, on a data set that is rendered first."""

from __future__ import annotations

import os
from pathlib import Path

from d3d_edge import recipe, target
from d3d_edge.errors import DataError
from d3d_edge.pipeline.distill import distill
from d3d_edge.pipeline.export import export
from d3d_edge.pipeline.quantize import quantize
from d3d_edge.pipeline.validate import validate
from d3d_edge.progress import Progress
from d3d_edge.report import FILE_NAME, Report
from d3d_edge.runs import Run
from d3d_edge.video import rendered

RECIPE = "demo"
CLIPS_PER_CLASS = 72
SIZE_PX = 96
FRAMES = 24
SEED = 0


def demo(out: Path, *, workers: int, progress: Progress) -> Report:
    """Render `out`/clips, train in `out`/run, write `out`/bundles and `out`/report.json; finished stages are kept.

    The report has the rows of training (teacher, baselines) before those of the bundles.

    Raises:
        DataError: something lies in one of these places, and no demo's clips are there.
        MissingDependency: a runtime's package is not installed.
        StorageError: something cannot be written.
    """
    clips, run, bundles, cache = (out / name for name in ("clips", "run", "bundles", "cache"))
    if not rendered.is_set(clips):  # Clips of others would be trained on, and their report replaced.
        for place in (clips, run, bundles, cache, out / FILE_NAME):
            if place.is_file() or (place.is_dir() and any(not name.startswith(".") for name in os.listdir(place))):
                raise DataError(f"{place} is there, and {clips} holds no rendered clips", hint="choose another --out")
    rendered.render_set(
        clips,
        clips_per_class=CLIPS_PER_CLASS,
        seed=SEED,
        size_px=SIZE_PX,
        frames=FRAMES,
        workers=workers,
        progress=progress,
    )
    progress.note(f"clips -> {clips}")
    trained = distill(
        recipe.load(RECIPE),
        clips,
        run,
        cache_dir=cache,
        workers=workers,
        strict=True,
        resume=False,
        progress=progress,
    )
    opened = Run.open(run)
    quantize(opened, cache_dir=cache, workers=workers, strict=True, progress=progress)
    targets = [target.load(name) for name in opened.recipe.export.targets]
    made = export(opened, targets, bundles, precision="int8", workers=workers, progress=progress)
    report = validate(
        [bundle.path for bundle in made],
        clips,
        split="test",
        strict=True,
        threads=0,
        report_path=out / FILE_NAME,
        progress=progress,
    )
    before = tuple(row for row in trained.rows if row.role in ("teacher", "baseline"))
    whole = report.model_copy(update={"rows": before + report.rows})
    whole.write(out / FILE_NAME)
    return whole
