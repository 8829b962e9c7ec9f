"""How fast the training loop goes with batches at hand, and how fast the cache gives them: whichever is less rules.

python -m benchmarks.training --recipe compact --batch-size 64 --set student.train.precision=bfloat16
python -m benchmarks.training clips/ --threads 1 --threads 4 --threads 15

The student is trained, and asks its teacher. On a GPU the steps are also launched kernel by kernel, as they are where
they cannot be captured as a graph. With DATA its clips are read from a cache of raw entries and from one of compressed
ones, by so many threads, and nothing is trained meanwhile; the system has all files in memory. Prints JSON.
"""

from __future__ import annotations

import json
import tempfile
import time
from datetime import UTC, datetime
from itertools import repeat
from pathlib import Path
from typing import Any, get_args

import click
import torch

from benchmarks.sampling import spread
from benchmarks.scale import device_name, rounded, student_way, timed
from d3d_edge import manifest, recipe
from d3d_edge.distill import distributed
from d3d_edge.manifest import Clip
from d3d_edge.pipeline.environment import environment
from d3d_edge.processors import cpus
from d3d_edge.progress import Silent
from d3d_edge.recipe import Recipe
from d3d_edge.video import cache
from d3d_edge.video.arrays import Form
from d3d_edge.video.datasets import Batch, ClipDataset


def batch_of(spec: Recipe, size: int, classes: int) -> Batch:
    """Random bytes and flow, which take as long as clips."""
    shape = (size, *spec.clip.shape)
    flow = (torch.rand((*shape[:-1], 2)) * 2 - 1).half()
    batch = Batch(torch.randint(0, 256, shape, dtype=torch.uint8), flow, torch.arange(size) % classes)
    return Batch(*(part.pin_memory() for part in batch)) if distributed.device().type == "cuda" else batch


def reading_rates(clips: list[Clip], spec: Recipe, size: int, threads: tuple[int, ...]) -> dict[str, dict[str, float]]:
    """Clips a second from each form of cache, by the number of threads that read them."""
    pinned = distributed.device().type == "cuda"
    rates: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for form in get_args(Form):
            made = cache.prepare(
                clips, spec.clip, spec.flow, Path(folder) / form, workers=cpus(), form=form, progress=Silent()
            )
            if not made.clips:
                raise click.ClickException("no clip can be read")
            labels = sorted({cached.clip.label for cached in made.clips})
            dataset = ClipDataset(made.clips, labels, spec.clip, spec.augment)

            def rate(count: int, dataset: ClipDataset = dataset) -> float:
                began = time.perf_counter()
                clips = sum(len(b.label) for b in dataset.batches(size, shuffle=True, workers=count, pinned=pinned))
                return clips / (time.perf_counter() - began)

            rates[form] = {str(count): max(rate(count) for _ in range(2)) for count in threads}
    return rates


@click.command()
@click.argument("data", required=False, type=click.Path(path_type=Path, exists=True))
@click.option("--recipe", "recipe_name", default="compact", show_default=True)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a setting of the recipe.")
@click.option("--classes", default=400, show_default=True)
@click.option("--batch-size", type=click.IntRange(2), help="Instead of the recipe's.")
@click.option("--steps", type=click.IntRange(1), default=20, show_default=True, help="Timed, after as many others.")
@click.option("--threads", type=click.IntRange(1), multiple=True, default=(1, 2), show_default=True, help="That read.")
@click.option("--limit", type=click.IntRange(1), default=200, show_default=True, help="Clips of DATA, evenly spread.")
def main(
    data: Path | None,
    recipe_name: str,
    settings: tuple[str, ...],
    classes: int,
    batch_size: int | None,
    steps: int,
    threads: tuple[int, ...],
    limit: int,
) -> None:
    """Time the training loop without reading, and reading without training."""
    started = datetime.now(UTC)
    spec = recipe.load(recipe_name, settings)
    size = batch_size or spec.student.train.batch_size
    batch = batch_of(spec, size, classes)
    on_gpu = distributed.device().type == "cuda"
    forms = {"captured": True, "kernel_by_kernel": False} if on_gpu else {"loop": False}
    result: dict[str, Any] = {
        "recipe": spec.name,
        "clip": "x".join(map(str, spec.clip.shape)),
        "batch_size": size,
        "precision": spec.student.train.precision,
        "device": device_name(),
        "clips_per_s": {
            name: timed(student_way(spec, classes), lambda *_: repeat(batch, steps), size, steps, capture=capture)[
                "clips_per_s"
            ]
            for name, capture in forms.items()
        },
    }
    if data:
        result["read_per_s"] = reading_rates(spread(manifest.load(data).clips, limit), spec, size, threads)
    result["environment"] = environment(started, ()).model_dump(mode="json")
    click.echo(json.dumps(rounded(result), indent=2))


if __name__ == "__main__":
    main()
