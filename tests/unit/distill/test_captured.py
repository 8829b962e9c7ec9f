"""A step that is launched as one graph trains as one whose kernels are launched one by one."""

from __future__ import annotations

import dataclasses
from itertools import count
from pathlib import Path

import pytest
import torch
from torch import nn

from d3d_edge.distill import loop
from d3d_edge.distill.captured import Captured
from d3d_edge.distill.job import Job
from d3d_edge.progress import Silent
from d3d_edge.video.datasets import Batch
from tests.unit.distill.jobs import CUDA, SPEC, VARIANTS, batches, job, variant

pytestmark = [*CUDA, pytest.mark.usefixtures("on_gpu")]


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("D3D_EDGE_DEVICE", "cuda")


def without_dropout(name: str) -> Job:
    made = job(SPEC.model_copy(update={"compile": True}) if name == "compiled" else variant(name))
    for module in made.model:
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return dataclasses.replace(made, evaluate=count().__next__)  # the last weights are the best


@pytest.mark.parametrize("name", [*VARIANTS, "compiled"])
def test_captured_steps_train_as_others_do(name: str, tmp_path: Path) -> None:
    tolerance = 1e-2 if name == "bfloat16" else 1e-4
    captured, plain = without_dropout(name), dataclasses.replace(without_dropout(name), capture=False)
    curves = [loop.run(made, tmp_path / str(made.capture), "mark", Silent()) for made in (captured, plain)]
    for ours, theirs in zip(*curves, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=tolerance)
    for (key, value), theirs in zip(
        captured.model.state_dict().items(), plain.model.state_dict().values(), strict=True
    ):
        assert torch.allclose(value, theirs, atol=tolerance), key
    assert captured.model[2].num_batches_tracked == 18


@pytest.mark.parametrize("compiled", [False, True])
def test_dropout_differs_from_step_to_step_and_follows_the_seed(compiled: bool) -> None:
    dropout = nn.Dropout(0.5).cuda().train()
    if compiled:
        dropout.compile()
    weight = nn.Parameter(torch.ones(64, device="cuda"))
    model = nn.ParameterList([weight])

    def backward(batch: Batch, divisor: torch.Tensor) -> torch.Tensor:
        loss = dropout(weight).sum() / divisor
        loss.backward()
        return loss.detach()

    def gradients(steps: int) -> list[list[float]]:
        torch.manual_seed(5)
        found = []
        for _ in range(steps):
            if weight.grad is not None:
                weight.grad.zero_()
            step(batch, 1)
            assert weight.grad is not None
            found.append(weight.grad.tolist())
        return found

    step, batch = Captured(backward, model), next(iter(batches(0)))
    first, again = gradients(3), gradients(3)
    assert first == again
    assert first[0] != first[1] != first[2]
