"""Decoded flow is compared with the right field, in pixels, and is learnt where the features hold it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from d3d_edge.distill import loop
from d3d_edge.distill.job import Job
from d3d_edge.distill.loss import end_point_error, mean_end_point_error
from d3d_edge.manifest import Manifest
from d3d_edge.models.decoder import FlowDecoder
from d3d_edge.models.s3dg import S3DG
from d3d_edge.pipeline.decoding import Fields, Network, train_spec
from d3d_edge.progress import Silent
from d3d_edge.recipe import Recipe
from d3d_edge.runs import Run
from d3d_edge.video.datasets import Batch

BOUND_PX = 20.0


def run_of(recipe_data: dict[str, Any], frames: int, height: int, width: int) -> Run:
    clip = recipe_data["clip"] | {"frames": frames, "height": height, "width": width, "short_side": max(height, width)}
    return Run(Path(), Recipe.model_validate(recipe_data | {"clip": clip}), Manifest(clips=()))


def moving(clips: int, frames: int, height: int, width: int, seed: int = 0) -> Batch:
    """Smooth flow of up to some pixels, its own in each frame, and pictures that say nothing of it."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(clips * frames, 2, 3, 3, generator=generator) * 4 / BOUND_PX
    flow = F.interpolate(coarse, (height, width), mode="bilinear").permute(0, 2, 3, 1).unflatten(0, (clips, frames))
    clip = torch.zeros(clips, frames, height, width, 3, dtype=torch.uint8)
    return Batch(clip, flow.contiguous(), torch.zeros(clips, dtype=torch.int64))


SMALLEST = [(2, 8, 8), (3, 9, 33), (4, 32, 32), (5, 40, 24)]
USUAL = [(8, 56, 56), (9, 57, 57), (16, 112, 112), (64, 224, 224)]
EVEN = {"stem": "separable", "padding": "symmetric"}
"""PyTorch's padding, with which the network itself refuses the smallest clips."""


@pytest.mark.parametrize(
    ("options", "frames", "height", "width"),
    [
        ({"stem": "conv3d_k1"}, *SMALLEST[1]),
        *(({}, *shape) for shape in SMALLEST + USUAL),
        *((EVEN, *shape) for shape in USUAL),
    ],
    ids=str,
)
def test_decoded_flow_and_its_reference_have_one_shape(
    options: dict[str, Any], frames: int, height: int, width: int, recipe_data: dict[str, Any]
) -> None:
    with torch.device("meta"):
        network = Network("student", "mark", S3DG(3, width=0.25, **options).eval())
    run = run_of(recipe_data, frames, height, width)
    fields = Fields.of(run, network)
    reference = fields.reference(Batch(*(torch.zeros(2, frames, height, width, c) for c in (3, 2)), torch.zeros(2)))
    shapes = network.shapes(run.recipe.clip)
    # Two clips have the features of one, twice.
    features = [torch.empty(2 * steps, *rest, device="meta") for steps, *rest in shapes]
    decoder = FlowDecoder([shape[1] for shape in shapes]).to("meta").eval()
    quarter = [math.ceil(math.ceil(side / 2) / 2) for side in (height, width)]
    assert fields.stride == 2
    assert decoder(features, 2).shape == reference.shape == (2 * math.ceil(frames / 2), 2, *quarter)


@pytest.mark.parametrize("frames", [2, 3, 8, 9])
def test_a_step_is_compared_with_the_flow_of_its_own_frame(frames: int) -> None:
    batch = moving(2, frames, 12, 16)
    reference = Fields(2, (3, 4), BOUND_PX).reference(batch).unflatten(0, (2, -1))
    for clip in range(2):
        for step in range(math.ceil(frames / 2)):
            field = batch.flow[clip, 2 * step]
            for row in range(3):
                for column in range(4):
                    place = field[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
                    expected = BOUND_PX * place.mean((0, 1))
                    assert torch.allclose(reference[clip, step, :, row, column], expected, atol=1e-5)


def test_the_error_is_in_pixels_of_the_frame() -> None:
    """A quarter of the bound of 20 pixels to the right is 5 pixels, on fields of any size."""
    flow = torch.zeros(1, 4, 16, 16, 2)
    flow[..., 0] = 0.25
    batch = Batch(torch.zeros(1, 4, 16, 16, 3, dtype=torch.uint8), flow, torch.zeros(1, dtype=torch.int64))
    for size in ((16, 16), (4, 4), (1, 1)):
        reference = Fields(2, size, BOUND_PX).reference(batch)
        assert end_point_error(torch.zeros(1, 2, 1, 1), reference).unique().tolist() == [5.0]


def test_motion_that_is_in_the_features_is_decoded(tmp_path: Path) -> None:
    """Features of two layers: one holds the flow, mixed up and among noise, and the other noise alone."""
    fields = Fields(2, (8, 8), BOUND_PX)
    mixing = torch.randn(6, 2, 1, 1, generator=torch.Generator().manual_seed(5))

    def features(batch: Batch, holding: bool) -> list[Tensor]:
        fine = fields.reference(batch)
        noise = torch.randn(len(fine), 6, 8, 8, generator=torch.Generator().manual_seed(int(fine.sum() * 100)))
        mixed = F.conv2d(fine, mixing) + 0.1 * noise if holding else noise
        return [mixed, noise[: len(batch.label) * math.ceil(len(fine) / len(batch.label) / 2), :, ::2, ::2]]

    def batches(epoch: int, first: int) -> Iterator[Batch]:
        yield from (moving(4, 8, 32, 32, seed=10 * epoch + number) for number in range(5))

    def error(holding: bool) -> float:
        torch.manual_seed(0)
        decoder = FlowDecoder([6, 6], width=16)
        job = Job(
            title="test",
            model=decoder,
            forward=lambda batch: decoder(features(batch, holding), 4),
            teacher=fields.reference,
            loss=mean_end_point_error,
            batches=batches,
            batches_per_epoch=5,
            spec=train_spec(16),
            seed=0,
            set_training=decoder.train,
        )
        loop.run(job, tmp_path / str(holding), "mark", Silent())
        unseen = moving(4, 8, 32, 32, seed=999)
        with torch.no_grad():
            return end_point_error(job.forward(unseen), fields.reference(unseen)).mean().item()

    zero = fields.reference(moving(4, 8, 32, 32, seed=999)).norm(dim=1).mean().item()
    assert error(holding=True) < 0.4 * zero
    assert error(holding=False) > 0.9 * zero
