"""X3D-XS trained on the same clips as a student: what a network of that kind reaches, and what it costs.

python -m benchmarks.x3d --data manifest.csv --out x3d/ --epochs 30 --epochs 120 --beside students/small
python -m benchmarks.x3d --teacher runs/medium --out x3d/ --epochs 60

The network is that of `benchmarks.x3d_network`, which ONNX Runtime runs as it is. It is trained on RGB from scratch by
the project's own loop, batches and augmentation, by the schedule of the student in recipe `gestures`, once for each
--epochs and --learning-rate; or, given a run, distilled from its flow teacher by its loss, on its clips, of which it
sees every so many frames, resized. It is timed in float32 by ONNX Runtime, one after the other with the bundles
--beside. What is finished is kept. Leaves OUT/x3d.json.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.turns import WARM_UP
from benchmarks.x3d_network import X3D
from d3d_edge import manifest, recipe, runtimes
from d3d_edge.bundle import GOLDEN_CLIPS, Bundle
from d3d_edge.cli import options
from d3d_edge.cli.console import TerminalProgress
from d3d_edge.distill import loop, loss
from d3d_edge.distill.job import Job
from d3d_edge.distill.loss import Outputs
from d3d_edge.files import write_json
from d3d_edge.harness import accuracy, cores, latency
from d3d_edge.models.recogniser import OFFSET, SCALE
from d3d_edge.pipeline import marks
from d3d_edge.pipeline.data import RunData, prepare
from d3d_edge.pipeline.data import epochs as epochs_of
from d3d_edge.pipeline.environment import environment
from d3d_edge.pipeline.streams import evaluate, teacher_of
from d3d_edge.progress import Progress
from d3d_edge.recipe import TrainSpec
from d3d_edge.runs import Run, fingerprint
from d3d_edge.video.datasets import Batch

FRAMES, SIDE, TESTED_SIDE = 4, 160, 182
"""Of a clip of XS: as it is trained, and as its published weights are tested. Here accuracy is that of the first, and
both are timed."""
PAUSE_S = 0.5
"""Until the threads of one runtime sleep."""
LABEL_SMOOTHING = 0.1
"""As every network of the recipe that has no teacher."""


def stream(net: nn.Module) -> Callable[[Batch], Outputs]:
    """The network as a function of a batch, which it sees normalised as a student does, at its own size."""
    return lambda batch: Outputs(net(seen(batch.clip)))


def seen(clip: Tensor) -> Tensor:
    """Clips uint8 [N, T, H, W, 3] as float [N, 3, FRAMES, SIDE, SIDE]: of equal parts in time the middle, resized."""
    time = clip.shape[1]
    chosen = [(2 * part + 1) * time // (2 * FRAMES) for part in range(FRAMES)]
    volume = (clip[:, chosen].float() * SCALE + OFFSET).permute(0, 4, 1, 2, 3)
    if volume.shape[3:] != (SIDE, SIDE):
        volume = F.interpolate(volume, (FRAMES, SIDE, SIDE), mode="trilinear")
    return volume.contiguous()


def settings(seed: int) -> list[str]:
    """What makes the clips of recipe `gestures` those of X3D-XS."""
    sizes = {"frames": FRAMES, "short_side": round(SIDE * 8 / 7), "height": SIDE, "width": SIDE}
    return [f"seed={seed}", "baselines.spatial=null", *(f"clip.{name}={value}" for name, value in sizes.items())]


def train(
    run: Run, data: RunData, epochs: int, rate: float, folder: Path, progress: Progress, *, taught: bool
) -> dict[str, Any]:
    """Top-1 on the test clips after `epochs` at most at the learning rate `rate`, and the seconds it took; trained now
    or before. Where `taught`, it learns from the teacher of `run` too."""
    folder = folder / f"x3d-{epochs}-{rate:g}"
    done = folder / "done.json"
    if done.is_file():
        found: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
        return found
    base = run.recipe.student.train.model_dump()
    changes = {"epochs": epochs, "learning_rate": rate} | ({} if taught else {"label_smoothing": LABEL_SMOOTHING})
    spec = TrainSpec.model_validate(base | changes)
    minimised = loss.cross_entropy(spec.label_smoothing)
    if taught:
        minimised = loss.distillation(run.recipe.distill, spec.label_smoothing)
    torch.manual_seed(run.recipe.seed)
    net = X3D(len(data.labels))
    training = data.dataset("train", training=True)
    job = Job(
        title=f"X3D-XS, {epochs} epochs at {rate:g}",
        model=net,
        forward=stream(net),
        teacher=teacher_of(run) if taught else None,
        loss=minimised,
        batches=epochs_of(training, spec.batch_size),
        batches_per_epoch=len(training) // spec.batch_size,
        spec=spec,
        seed=run.recipe.seed,
        set_training=net.train,
    )
    began = time.monotonic()
    teacher = run.results("teacher") if taught else None
    mark = fingerprint("x3d", data.content(), spec.model_dump(mode="json"), run.recipe.seed, teacher)
    history = loop.run(job, folder, mark, progress)
    logits, labels = evaluate(job.forward, data.dataset("test"), job.title)
    found = {
        "epochs": epochs,
        "learning_rate": rate,
        "taught": taught,
        "seed": run.recipe.seed,
        "top1": accuracy.topk(logits, labels, 1),
        "clips": len(labels),
        "last_loss": history[-1]["loss"],
        "seconds": round(time.monotonic() - began, 1),
    }
    write_json(done, found)
    return found


def _onnx(classes: int, side: int, folder: Path, threads: int) -> Callable[[], Any]:
    import onnxruntime

    path = folder / f"x3d-xs-{side}.onnx"
    volume = torch.randn(1, 3, FRAMES, side, side)
    if not path.is_file():
        torch.manual_seed(0)
        net = X3D(classes).eval()
        torch.onnx.export(net, (volume,), path, input_names=["clip"], dynamo=True, external_data=False, verbose=False)
    chosen = onnxruntime.SessionOptions()
    chosen.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, chosen, providers=["CPUExecutionProvider"])
    return partial(session.run, None, {"clip": volume.numpy()})


def times(
    beside: Sequence[Path], classes: int, folder: Path, *, threads: int, repetitions: int
) -> list[dict[str, Any]]:
    """Milliseconds of one clip through X3D-XS by ONNX Runtime in float32, and through each bundle, one by one."""
    runs = {
        f"X3D-XS {FRAMES}x{side}x{side}, ONNX Runtime float32": _onnx(classes, side, folder, threads)
        for side in (SIDE, TESTED_SIDE)
    }
    for bundle in map(Bundle.open, beside):
        runner = runtimes.get(bundle.manifest.runtime).open(bundle, threads=threads)
        clip = np.load(bundle.path / GOLDEN_CLIPS)[0]
        runs[f"{bundle.manifest.name}, {bundle.manifest.runtime} {bundle.manifest.precision}"] = partial(
            runner.run, clip
        )
    taken: dict[str, list[float]] = {}
    # Not in turns: ONNX Runtime's threads wait for work by spinning, on processors that the next turn would need.
    for name, run in runs.items():
        for _ in range(WARM_UP):
            run()
        with cores.apart():
            taken[name] = [_ms(run) for _ in range(repetitions)]
        time.sleep(PAUSE_S)
    return [{"name": name, "threads": threads, **latency.spread(row).model_dump()} for name, row in taken.items()]


def _ms(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - began)


@click.command()
@click.option("--data", type=options.PATH, help="The clips; without it nothing is trained.")
@click.option("--teacher", type=options.PATH, help="A finished run, whose flow teacher it learns from, on its clips.")
@click.option("--out", required=True, type=options.PATH)
@click.option("--epochs", "schedules", type=int, multiple=True, default=(30,), show_default=True)
@click.option("--learning-rate", "rates", type=float, multiple=True, default=(0.004,), show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--beside", type=options.PATH, multiple=True, help="A bundle to time beside it; none: nothing is timed.")
@click.option("--threads", type=int, multiple=True, default=(2, 1), show_default=True)
@click.option("--repetitions", default=50, show_default=True)
@options.cache
def main(
    data: Path | None,
    teacher: Path | None,
    out: Path,
    schedules: tuple[int, ...],
    rates: tuple[float, ...],
    seed: int,
    beside: tuple[Path, ...],
    threads: tuple[int, ...],
    repetitions: int,
    cache_dir: Path,
) -> None:
    """Train X3D-XS on DATA, and time it."""
    started = datetime.now(UTC)
    progress = TerminalProgress()
    path = out / "x3d.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"times": []}
    out.mkdir(parents=True, exist_ok=True)
    if data:
        run = Run.start(out / f"seed{seed}", recipe.load("gestures", settings(seed)), manifest.load(data))
        decoded = prepare(run, cache_dir, workers=1, strict=True, progress=progress)
        for epochs, rate in product(schedules, rates):
            train(run, decoded, epochs, rate, run.path, progress, taught=False)
    if teacher:
        run = Run.open(teacher)
        run.need("teacher")
        decoded = prepare(run, cache_dir, workers=1, strict=True, progress=progress)
        taught = out / f"taught-{run.path.name}-{marks.trained(run, 'teacher')[:8]}"  # runs may have one name
        for epochs, rate in product(schedules, rates):
            train(run, decoded, epochs, rate, taught, progress, taught=True)
    if beside:
        known["times"] = [
            row for number in threads for row in times(beside, 10, out, threads=number, repetitions=repetitions)
        ]
    known["trained"] = [json.loads(done.read_text(encoding="utf-8")) for done in sorted(out.glob("*/x3d-*/done.json"))]
    known["parameters"] = sum(parameter.numel() for parameter in X3D(10).parameters())
    known["environment"] = environment(started, ["executorch", "tensorrt"]).model_dump()
    write_json(path, known)
    for row in known["trained"]:
        click.echo(
            f"X3D-XS, {'distilled' if row.get('taught') else 'from scratch'}, {row['epochs']} epochs at "
            f"{row['learning_rate']:g}, seed {row['seed']}: "
            f"top-1 {row['top1']:.3f} of {row['clips']} clips"
        )
    for row in known["times"]:
        click.echo(f"{row['name']}, {row['threads']} threads: {row['latency_ms_p50']:.2f} ms")


if __name__ == "__main__":
    main()
