"""A small job for the loop, always the same, and the ways to train it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from d3d_edge.distill import loss
from d3d_edge.distill.job import Job
from d3d_edge.distill.loss import Outputs
from d3d_edge.recipe import TrainSpec
from d3d_edge.video.datasets import Batch

CUDA = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"))
SPEC = TrainSpec(epochs=6, batch_size=8, learning_rate=0.05)
VARIANTS = {
    "adamw": {},
    "sgd": {"optimizer": "sgd", "schedule": "steps", "milestones": (0.5, 0.8)},
    "cosine": {"schedule": "cosine"},
    "accumulated": {"accumulate": 2},
    "bfloat16": {"precision": "bfloat16"},
    "best": {"keep": "best"},
}


class Killed(Exception):
    """Stands for SIGKILL between two epochs."""


def batches(epoch: int, first: int = 0) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(epoch)
    for place in range(3):
        clip = torch.randint(0, 255, (8, 1, 2, 2, 3), generator=generator, dtype=torch.uint8)
        label = (clip[:, 0, 0, 0, 0] > 127).long()
        if place >= first:
            yield Batch(clip, torch.zeros(8, 1, 2, 2, 2), label)


def variant(name: str) -> TrainSpec:
    return SPEC.model_copy(update=VARIANTS[name])


def job(spec: TrainSpec = SPEC, seed: int = 0) -> Job:
    torch.manual_seed(7)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2)
    )

    def forward(batch: Batch) -> Outputs:
        return Outputs(model(batch.clip.float() / 255))

    def set_training(mode: bool) -> None:
        model.train(mode)

    return Job(
        title="test",
        model=model,
        forward=forward,
        teacher=None,
        loss=loss.cross_entropy(0.0),
        batches=batches,
        batches_per_epoch=3,
        spec=spec,
        seed=seed,
        set_training=set_training,
    )


def assert_equal(model: nn.Module, other: nn.Module) -> None:
    for (name, value), theirs in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(value, theirs), name
