"""What test_distributed starts under torchrun: the loop on a small job of which every process has its share."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from torch import nn

from d3d_edge.distill import distributed, loop, loss
from d3d_edge.distill.job import Job
from d3d_edge.distill.loss import Outputs
from d3d_edge.errors import D3DEdgeError, DataError
from d3d_edge.progress import Silent
from d3d_edge.recipe import DistillSpec, TrainSpec
from d3d_edge.video.datasets import Batch

GLOBAL_BATCH = 8
SPECS = {
    "adamw": TrainSpec(epochs=3, batch_size=4, learning_rate=0.01),
    "sgd": TrainSpec(epochs=3, batch_size=4, learning_rate=0.05, optimizer="sgd", schedule="cosine", accumulate=2),
}
"""Three batches an epoch, so the second step of an epoch of `sgd` has one batch only."""


class Killed(Exception):
    """Stands for SIGKILL between two epochs."""


def job(spec: TrainSpec) -> Job:
    """A network with a batch norm, and a teacher. On a CPU, where nothing synchronises them, statistics are frozen."""
    torch.manual_seed(7)
    device = distributed.device()
    norm = nn.BatchNorm2d(4)
    norm.running_mean, norm.running_var = torch.rand(4), 1 + torch.rand(4)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), norm, nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(48, 2)).requires_grad_(False).to(device)

    def batches(epoch: int, first: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(epoch)
        share = slice(distributed.rank(), None, distributed.processes())
        for place in range(3):
            clip = torch.randint(0, 255, (GLOBAL_BATCH, 1, 4, 4, 3), generator=generator, dtype=torch.uint8)
            label = (clip[:, 0, 0, 0, 0] > 127).long()
            if place >= first:
                yield Batch(clip[share], torch.zeros(len(label), 1, 4, 4, 2)[share], label[share])

    def frames(batch: Batch) -> torch.Tensor:
        return batch.clip.flatten(0, 1).permute(0, 3, 1, 2).float() / 255

    def set_training(mode: bool) -> None:
        model.train(mode)
        if device.type == "cpu":
            norm.eval()

    return Job(
        title="test",
        model=model,
        forward=lambda batch: Outputs(model(frames(batch))),
        teacher=lambda batch: Outputs(teacher(frames(batch))),
        loss=loss.distillation(DistillSpec(weight=1.0, reduction="mean"), 0.0),
        batches=batches,
        batches_per_epoch=3,
        spec=spec,
        seed=0,
        set_training=set_training,
        evaluate=lambda: model[0].weight[0, 0, 0, 0].item(),
    )


def killed_and_resumed(spec: TrainSpec, folder: Path, place: int) -> list[dict[str, float]]:
    """Killed before a batch of the third epoch."""
    started = job(spec)

    def stopped(epoch: int, first: int) -> Iterator[Batch]:
        yield from islice(started.batches(epoch, first), place if epoch == 2 else None)
        if epoch == 2:
            raise Killed

    try:
        loop.run(dataclasses.replace(started, batches=stopped), folder, "mark", Silent())
    except Killed:
        return loop.run(job(spec), folder, "mark", Silent())
    raise AssertionError("the run was not killed")


def refused() -> str:
    """An error of the main process, as this one sees it."""

    def make() -> None:
        raise DataError("no such clips", hint="give others")

    try:
        distributed.from_main(make)
    except D3DEdgeError as error:
        return str(error)
    return ""


def main(out: Path) -> None:
    loop._PART_STEPS, loop._SAVE_S = 1, -1.0
    with distributed.group():
        found = {
            "processes": distributed.processes(),
            "histories": {name: loop.run(job(spec), out / name, "mark", Silent()) for name, spec in SPECS.items()},
            "killed": killed_and_resumed(SPECS["adamw"], out / "killed", 0),
            "killed within": killed_and_resumed(SPECS["adamw"], out / "killed within", 2),
            "refused": refused(),
            "from_main": distributed.from_main(distributed.rank),
        }
        (out / f"process-{distributed.rank()}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
