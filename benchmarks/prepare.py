"""How fast clips get into the cache, beside plain OpenCV decoding of the same files, in one run.

python -m benchmarks.prepare                      on rendered clips
python -m benchmarks.prepare DATA --limit 100     on a data set, read as --data is

Prints JSON, and one line on standard error. A rate is in decoded frames a second. Every measurement is taken `--rounds`
times, the ways taking turns, and the best counts: what else the machine does can only slow one down. The rates per
core are of processor time, which other programs disturb less; those of workers are of elapsed time.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import click
import cv2

from benchmarks.sampling import spread
from d3d_edge import manifest, recipe
from d3d_edge.clip import ClipSpec, FlowSpec
from d3d_edge.errors import DataError
from d3d_edge.manifest import Clip
from d3d_edge.progress import Silent
from d3d_edge.video import arrays, cache, rendered
from d3d_edge.video.arrays import Form
from d3d_edge.video.preprocess import read_clip


@dataclass(frozen=True)
class Way:
    """One way to go through the clips, and how fast it was at best."""

    go: Callable[[Path], int]
    """Given an empty folder, decodes all clips and gives the number of frames."""
    cpu_rate: float = 0.0
    rate: float = 0.0

    def again(self) -> Way:
        with tempfile.TemporaryDirectory() as folder:
            began, began_cpu = time.perf_counter(), time.process_time()
            frames = self.go(Path(folder))
            elapsed, cpu = time.perf_counter() - began, time.process_time() - began_cpu
        return Way(self.go, max(self.cpu_rate, frames / cpu), max(self.rate, frames / elapsed))


def plain(clip: Clip) -> int:
    """Decode a video as the shortest program does: every frame to BGR, one after another."""
    capture = cv2.VideoCapture(clip.path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    frames = 0
    while capture.read()[0]:
        frames += 1
    capture.release()
    return frames


def without_flow(clip: Clip, folder: Path, clip_spec: ClipSpec, flow_spec: FlowSpec, form: Form) -> int:
    """All that `cache.prepare` does for a clip, but its flow."""
    entry = cache.find(clip, clip_spec, flow_spec, folder, form).entry
    frames, decoded = read_clip(Path(clip.path), clip_spec, start_s=clip.start_s, end_s=clip.end_s)
    arrays.write(entry.frames_path, frames)
    return decoded


def with_flow(clips: list[Clip], clip_spec: ClipSpec, flow_spec: FlowSpec, folder: Path, form: Form) -> int:
    made = cache.prepare(clips, clip_spec, flow_spec, folder, workers=1, strict=True, form=form, progress=Silent())
    return made.decoded


def one_thread() -> None:
    cv2.setNumThreads(1)


def usable(clips: list[Clip], spec: ClipSpec) -> list[Clip]:
    """The clips that can be read; this also brings the files into memory, for all ways alike."""
    good = []
    for clip in clips:
        try:
            read_clip(Path(clip.path), spec, start_s=clip.start_s, end_s=clip.end_s)
        except DataError:
            continue
        good.append(clip)
    return good


@click.command()
@click.argument("data", required=False, type=click.Path(path_type=Path))
@click.option("--recipe", "recipe_name", default="compact", show_default=True)
@click.option("--limit", type=click.IntRange(1), default=60, show_default=True, help="Clips, evenly spread.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--workers", type=click.IntRange(1), multiple=True, default=(1, 2), show_default=True, help="To compare.")
@click.option("--size-px", default=240, show_default=True, help="Side of the rendered clips.")
@click.option("--frames", default=180, show_default=True, help="Frames of a rendered clip.")
def main(
    data: Path | None,
    recipe_name: str,
    limit: int,
    rounds: int,
    workers: tuple[int, ...],
    size_px: int,
    frames: int,
) -> None:
    """Compare the rate of `d3d-edge prepare` with that of plain decoding."""
    spec = recipe.load(recipe_name)
    one_thread()
    with tempfile.TemporaryDirectory() as scratch:
        if data is None:
            data = Path(scratch)
            per_class = max(1, limit // len(rendered.CLASSES))
            rendered.render_set(
                data, clips_per_class=per_class, seed=0, size_px=size_px, frames=frames, workers=2, progress=Silent()
            )
            name = f"{per_class * len(rendered.CLASSES)} rendered clips, {frames} frames of {size_px}x{size_px}"
        else:
            name = str(data)
        clips = usable(spread(manifest.load(data).clips, limit), spec.clip)
        if not clips:
            raise click.ClickException("no clip can be read")
        print_result(name, spec, clips, rounds, workers)


def print_result(name: str, spec: recipe.Recipe, clips: list[Clip], rounds: int, counts: Sequence[int]) -> None:
    def frames_only(folder: Path, form: Form) -> int:
        return sum(without_flow(clip, folder, spec.clip, spec.flow, form) for clip in clips)

    ways = {
        "plain": Way(lambda folder: sum(map(plain, clips))),
        "without_flow_raw": Way(partial(frames_only, form="raw")),
        "without_flow_compressed": Way(partial(frames_only, form="compressed")),
        "with_flow_raw": Way(lambda folder: with_flow(clips, spec.clip, spec.flow, folder, "raw")),
        "with_flow_compressed": Way(lambda folder: with_flow(clips, spec.clip, spec.flow, folder, "compressed")),
    }
    shared: dict[str, Way] = {}
    pools = {n: ProcessPoolExecutor(n, mp_context=get_context("spawn"), initializer=one_thread) for n in counts}
    for workers, pool in pools.items():
        list(pool.map(plain, clips[:workers]))  # the processes start now, not while they are timed

        def pooled(folder: Path, work: Callable[..., int], pool: ProcessPoolExecutor = pool) -> int:
            return sum(pool.map(work, clips))

        def pooled_cache(folder: Path, pool: ProcessPoolExecutor = pool) -> int:
            work = partial(without_flow, folder=folder, clip_spec=spec.clip, flow_spec=spec.flow, form="raw")
            return sum(pool.map(work, clips))

        shared[f"plain_{workers}"] = Way(partial(pooled, work=plain))
        shared[f"without_flow_raw_{workers}"] = Way(pooled_cache)
    for _ in range(rounds):
        ways = {key: way.again() for key, way in ways.items()}
        shared = {key: way.again() for key, way in shared.items()}
    for pool in pools.values():
        pool.shutdown()
    per_core = {key: way.cpu_rate for key, way in ways.items()}
    result = {
        "clips": name,
        "measured": len(clips),
        "recipe": spec.name,
        "opencv": cv2.__version__,
        "frames_per_cpu_s": {key: round(rate) for key, rate in per_core.items()},
        "share_of_plain_per_core": {key: round(rate / per_core["plain"], 3) for key, rate in per_core.items()},
        "frames_per_s_of_workers": {key: round(way.rate) for key, way in shared.items()},
    }
    click.echo(json.dumps(result, indent=2))
    without, full = (per_core[key] / per_core["plain"] for key in ("without_flow_raw", "with_flow_raw"))
    fewest, most = min(counts), max(counts)
    gain = shared[f"without_flow_raw_{most}"].rate / shared[f"without_flow_raw_{fewest}"].rate
    click.echo(
        f"per core, of plain decoding: {without:.2f} without flow, {full:.2f} with flow; "
        f"{most} workers decode {gain:.2f} times as fast as {fewest}",
        err=True,
    )


if __name__ == "__main__":
    main()
