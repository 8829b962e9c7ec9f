"""What a large data set takes with a recipe, worked out from rates measured on this machine: disk, processors, device.

python -m benchmarks.scale DATA --recipe compact --clips 260000

DATA is a sample of the set, read as --data is. Prints JSON; nothing is kept. Decoding, flow and compression are timed
one clip at a time in one thread, in processor time. Training is timed as `d3d-edge distill` trains, on the device that
it would use, from a cache of the sample, which the system has in memory: with raw and with compressed entries, and with
the share of its time that the device waits for them. What is worked out is marked as such: the sample's mean times the
number of clips, and nothing for what several workers lose to each other.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from itertools import cycle, islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple, get_args

import click
import cv2
import numpy as np
import torch

from benchmarks.sampling import spread
from d3d_edge import manifest, recipe
from d3d_edge.distill import distributed, loop, loss
from d3d_edge.distill.job import Job
from d3d_edge.distill.loss import Loss
from d3d_edge.errors import DataError
from d3d_edge.manifest import Clip
from d3d_edge.models.build import network
from d3d_edge.models.count import mac_count
from d3d_edge.models.s3dg import S3DG
from d3d_edge.pipeline.data import epochs
from d3d_edge.pipeline.environment import environment
from d3d_edge.pipeline.streams import Stream, channels_last, flow_stream, rgb_stream
from d3d_edge.progress import Silent
from d3d_edge.recipe import Recipe, TrainSpec
from d3d_edge.video import arrays, cache
from d3d_edge.video.arrays import Form
from d3d_edge.video.datasets import Batch, ClipDataset
from d3d_edge.video.flow import flow_of_frames
from d3d_edge.video.preprocess import read_clip

HOUR_S = 3600
EPOCHS = 2
"""The last one is timed; the others allocate memory and choose kernels."""


def clip_costs(clips: list[Clip], spec: Recipe) -> dict[str, float]:
    """Means of a clip: processor seconds of each part, bytes of each form, and frames decoded."""
    rows = []
    for clip in clips:
        times = [time.process_time()]

        def lap(times: list[float] = times) -> None:
            times.append(time.process_time())

        try:
            frames, decoded = read_clip(Path(clip.path), spec.clip, start_s=clip.start_s, end_s=clip.end_s)
        except DataError:
            continue
        lap()
        flow = flow_of_frames(frames, spec.flow).astype(np.float16)  # as the cache keeps it
        lap()
        compressed_bytes = sum(len(arrays.png_of(array)) for array in (frames, flow))
        lap()
        parts_s = [after - before for before, after in pairwise(times)]
        rows.append((*parts_s, decoded, frames.nbytes + flow.nbytes, compressed_bytes))
    if not rows:
        raise click.ClickException("no clip of the sample can be read")
    keys = ("decode_cpu_s", "flow_cpu_s", "compress_cpu_s", "decoded_frames", "raw_bytes", "compressed_bytes")
    means = dict(zip(keys, map(statistics.fmean, zip(*rows, strict=True)), strict=True))
    return {"clips": float(len(rows)), **means}


class Way(NamedTuple):
    """A network to train, and how."""

    net: S3DG
    stream: Stream
    teacher: Stream | None
    minimised: Loss
    train: TrainSpec


def teacher_way(spec: Recipe, classes: int) -> Way:
    """The flow teacher of a recipe."""
    net, train = channels_last(network(spec.teacher.network, classes, in_channels=2)), spec.teacher.train
    return Way(net, flow_stream(net), None, loss.cross_entropy(train.label_smoothing), train)


def student_way(spec: Recipe, classes: int) -> Way:
    """The student of a recipe, which asks a flow teacher."""
    net = channels_last(network(spec.student.network, classes, in_channels=3))
    teacher = channels_last(network(spec.teacher.network, classes, in_channels=2)).eval().requires_grad_(False)
    minimised = loss.distillation(spec.distill.model_copy(update={"features_weight": 0.0}), 0.0)
    return Way(net, rgb_stream(net), flow_stream(teacher), minimised, spec.student.train)


def timed(
    way: Way, batches: Callable[[int, int], Iterable[Batch]], size: int, steps: int, *, capture: bool = True
) -> dict[str, float]:
    """What the training loop says of the last epoch of `steps` batches of `size` clips."""
    job = Job(
        title="timed",
        model=way.net,
        forward=way.stream,
        teacher=way.teacher,
        loss=way.minimised,
        batches=batches,
        batches_per_epoch=steps,
        spec=way.train.model_copy(update={"epochs": EPOCHS, "batch_size": size, "keep": "last"}),
        seed=0,
        set_training=way.net.train,
        capture=capture,
    )
    with tempfile.TemporaryDirectory() as folder:
        return loop.run(job, Path(folder), "", Silent())[-1]


def training_rates(spec: Recipe, clips: list[Clip], classes: int, batch_size: int | None, steps: int) -> dict[str, Any]:
    """Clips in a second of training from the cache: the teacher, and the student while it asks the teacher."""
    ways = {"teacher": teacher_way(spec, classes), "student": student_way(spec, classes)}
    frames, height, width, _ = spec.clip.shape
    rates: dict[str, Any] = {
        "device": device_name(),
        "threads": torch.get_num_threads(),
        "loaders": distributed.loaders(),
        "student_gmac_per_clip": mac_count(ways["student"].net.eval(), frames, height, width) / 1e9,
    }
    with tempfile.TemporaryDirectory() as scratch:
        cached = {
            form: cache.prepare(
                clips, spec.clip, spec.flow, Path(scratch) / form, workers=0, form=form, progress=Silent()
            ).clips
            for form in get_args(Form)
        }
        for name, way in ways.items():
            size = batch_size or way.train.batch_size
            rates[name] = {"batch_size": size, "precision": way.train.precision, "compile": way.train.compile}
            for form in cached:
                entries = tuple(islice(cycle(cached[form]), size * steps))
                dataset = ClipDataset(entries, labels_of(clips, classes), spec.clip, spec.augment)
                row = timed(way, epochs(dataset, size), size, steps)
                rates[name][form] = {key: row[key] for key in ("clips_per_s", "waiting_for_data")}
    return rates


def labels_of(clips: list[Clip], classes: int) -> list[str]:
    """As many class names as the whole set has, those of the sample among them."""
    named = sorted({clip.label for clip in clips})
    return named + [f"class {place}" for place in range(len(named), classes)]


def device_name() -> str:
    """What trains, in words."""
    device = distributed.device()
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def worked_out(clips: int, costs: dict[str, float], rates: dict[str, Any], spec: Recipe) -> dict[str, float]:
    """What `clips` clips take, by the sample's means."""

    def training_h(name: str, epochs: int) -> float:
        return clips * epochs / float(rates[name]["raw"]["clips_per_s"]) / HOUR_S

    def cpu_h(key: str) -> float:
        return clips * costs[key] / HOUR_S

    return {
        "clips": clips,
        "cache_raw_gb": clips * costs["raw_bytes"] / 1e9,
        "cache_compressed_gb": clips * costs["compressed_bytes"] / 1e9,
        "decode_cpu_h": cpu_h("decode_cpu_s"),
        "flow_cpu_h": cpu_h("flow_cpu_s"),
        "compress_cpu_h": cpu_h("compress_cpu_s"),
        "teacher_device_h": training_h("teacher", spec.teacher.train.epochs),
        "student_device_h": training_h("student", spec.student.train.epochs),
    }


def rounded(value: Any) -> Any:
    """Four digits of every number."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


@click.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True))
@click.option("--recipe", "recipe_name", default="compact", show_default=True)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a setting of the recipe.")
@click.option("--clips", default=260_000, show_default=True, help="Of the whole set; Kinetics-400 lists about so many.")
@click.option("--classes", default=400, show_default=True)
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="Clips to time, evenly spread.")
@click.option("--batch-size", type=click.IntRange(2), help="Instead of the recipe's.")
@click.option(
    "--steps",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Training steps to time, after as many others.",
)
def main(
    data: Path,
    recipe_name: str,
    settings: tuple[str, ...],
    clips: int,
    classes: int,
    limit: int,
    batch_size: int | None,
    steps: int,
) -> None:
    """Measure one clip's share of everything on a sample, and work out what a whole set takes."""
    started = datetime.now(UTC)
    cv2.setNumThreads(1)
    spec = recipe.load(recipe_name, settings)
    sample = spread(manifest.load(data).clips, limit)
    costs = clip_costs(sample, spec)
    rates = training_rates(spec, sample, classes, batch_size, steps)
    result = {
        "recipe": spec.name,
        "clip": "x".join(map(str, spec.clip.shape)),
        "flow": f"{spec.flow.method} {spec.flow.preset}",
        "mean_of_a_clip": costs,
        "training": rates,
        "worked_out": worked_out(clips, costs, rates, spec),
        "environment": environment(started, ()).model_dump(mode="json"),
    }
    click.echo(json.dumps(rounded(result), indent=2))


if __name__ == "__main__":
    main()
