"""Operators that this project's networks have not, and the parser reads: the file computes what the graph does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from d3d_edge import target
from d3d_edge.errors import LoweringError
from d3d_edge.quantize import pt2e
from d3d_edge.runtimes import tensorrt
from tests import networks

pytest.importorskip("onnxscript")
ort = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.slow


class Network(nn.Module):
    """`function` of normalised frames [T, C, H, W], and its mean."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first = nn.BatchNorm2d(3)
        self.first.running_mean.fill_(99.0)
        self.first.running_var.fill_(2500.0)
        self.function = function

    def forward(self, clip: Tensor) -> Tensor:
        return self.function(self.first(clip.float().permute(0, 3, 1, 2))).mean((0, 2, 3), keepdim=True).flatten(1)


def lower(function: Callable[[Tensor], Tensor], folder: Path) -> tuple[Tensor, Tensor]:
    """The answers of the graph and of the file."""
    program = pt2e.export_float(Network(function).eval(), networks.clip())
    tensorrt.RUNTIME.lower(program, folder, target.load("jetson"), precision="float32")
    session = ort.InferenceSession(folder / tensorrt.MODEL)
    (answer,) = session.run([tensorrt.OUTPUT], {tensorrt.INPUT: networks.clip().numpy()})
    return program.module()(networks.clip()), torch.from_numpy(np.asarray(answer))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x,
        lambda x: F.leaky_relu(x, 0.1),
        F.elu,
        F.softplus,
        lambda x: torch.maximum(x, 0.5 - x),
        lambda x: torch.where(x > 0, x.abs().exp() - 1.0, x),
        lambda x: F.adaptive_max_pool2d(x, 1),
    ],
    ids=["batch norm", "leaky relu", "elu", "softplus", "max", "where", "global max"],
)
def test_the_file_computes_what_the_graph_does(function: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    graph, file = lower(function, tmp_path)
    torch.testing.assert_close(file, graph, rtol=1e-4, atol=1e-5)


def test_an_operator_whose_restrictions_no_rule_looks_at_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoweringError, match="not known to read Resize"):
        lower(lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"), tmp_path)
