"""Operators that coremltools reads otherwise than PyTorch, or not at all: the package computes what the graph does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from d3d_edge import target
from d3d_edge.quantize import pt2e
from d3d_edge.runtimes import coreml
from d3d_edge.runtimes.mil import MilProgram
from tests import networks

pytest.importorskip("coremltools")

CLIP = torch.arange(256, dtype=torch.uint8).reshape(4, 8, 8, 1)
Function = Callable[[Tensor], Tensor]


class Network(nn.Module):
    """A function of the frames, from 0 to 1, and their mean in each row."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, clip: Tensor) -> Tensor:
        return self.function(clip.float() * (1 / 255)).mean((0, 2, 3))[None]


def computed(function: Function, folder: Path) -> tuple[Any, Any]:
    """What the graph gives, and the package written from it."""
    program = networks.reopened(pt2e.export_float(Network(function), CLIP))
    written = coreml.RUNTIME.lower(program, folder, target.load("ios"), precision="float16")
    package = MilProgram.load(folder / written.model)
    (source,), (result,) = package.inputs, package.outputs
    return program.module()(CLIP).numpy(), package.run({source.name: CLIP.numpy()})[result.name]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.add(x, x * x, alpha=2),
        lambda x: torch.sub(x, x * x, alpha=3),
        lambda x: torch.sub(x, 0.5, alpha=2),
        lambda x: torch.rsub(x, x * x, alpha=2),
    ],
    ids=["add", "sub", "sub a number", "rsub"],
)
def test_a_sum_keeps_its_factor(function: Function, tmp_path: Path) -> None:
    expected, found = computed(function, tmp_path)
    assert np.asarray(found) == pytest.approx(expected, abs=2e-3)
