"""INT8 networks of other layers than this project's: the file runs, and computes what the graph does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor, nn
from torch.nn import functional as F

from d3d_edge import target
from d3d_edge.models.recogniser import OFFSET, SCALE
from d3d_edge.quantize import pt2e
from d3d_edge.quantize.scheme import Scheme
from d3d_edge.runtimes import executorch
from tests import networks

pytest.importorskip("executorch")
pytestmark = pytest.mark.slow

Function = Callable[[Tensor], Tensor]


class Network(nn.Module):
    """A first layer, another behind it, and a classifier of the mean."""

    def __init__(self, normalise: Function, layer: nn.Module, pads: int = 0) -> None:
        super().__init__()
        self.normalise = normalise
        self.first = nn.Conv2d(3, 8, 3, 2, 1)
        self.layer = layer
        self.logits = nn.Conv2d(8, networks.CLASSES, 1, padding=pads)

    def forward(self, clip: Tensor) -> Tensor:
        x = self.first(self.normalise(clip).permute(0, 3, 1, 2)).relu()
        return self.logits(self.layer(x).relu().mean((0, 2, 3), keepdim=True)).mean((2, 3))


def deployed(clip: Tensor) -> Tensor:
    return clip.float() * SCALE + OFFSET


def raw(clip: Tensor) -> Tensor:
    return clip.float()


@pytest.mark.parametrize("scheme", ["symmetric", "affine"])
@pytest.mark.parametrize(
    ("normalise", "layer"),
    [
        (deployed, nn.Conv2d(8, 8, 3, padding=1, groups=8)),
        (deployed, nn.Conv2d(8, 8, 3, padding=1, groups=4)),
        (raw, nn.Conv2d(8, 8, 1)),
    ],
    ids=["depthwise", "grouped", "bytes as they are"],
)
def test_the_file_computes_what_the_graph_does(
    normalise: Function, layer: nn.Module, scheme: Scheme, tmp_path: Path
) -> None:
    assert steps_apart(Network(normalise, layer), scheme, tmp_path) <= 1.001


def test_a_classifier_that_pads_is_an_ordinary_convolution(tmp_path: Path) -> None:
    assert steps_apart(Network(deployed, nn.Conv2d(8, 8, 1), pads=1), "symmetric", tmp_path) <= 1.001


class Halved(nn.Module):
    """A pool that does not say its stride."""

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 2)


@pytest.mark.parametrize("layer", [nn.PReLU(8, 0.1), Halved()], ids=["slopes", "pool"])
def test_a_float_file_computes_what_the_graph_does(layer: nn.Module, tmp_path: Path) -> None:
    program = networks.reopened(pt2e.export_float(Network(deployed, layer).eval(), networks.clip()))
    executorch.RUNTIME.lower(program, tmp_path, target.load("android"), precision="float32")
    module = program.module()
    with executorch.ExecuTorchRunner(tmp_path / executorch.MODEL, 1) as runner:
        for seed in range(3):
            clip = networks.clip(seed)
            np.testing.assert_allclose(runner.run(clip.numpy()), module(clip)[0].numpy(), rtol=0, atol=1e-5)


def steps_apart(network: nn.Module, scheme: Scheme, folder: Path) -> float:
    """How far the file's logits are from its INT8 graph's, in steps of a logit."""
    clips = [networks.clip(seed) for seed in range(4)]
    graph = pt2e.prepare(pt2e.capture(network.eval(), clips[0]), scheme=scheme, observer="minmax", qat=False)
    pt2e.calibrate(graph, clips)
    program = networks.reopened(pt2e.convert(graph, clips[0]))
    executorch.RUNTIME.lower(program, folder, target.load("android"), precision="int8")
    module = program.module()
    with executorch.ExecuTorchRunner(folder / executorch.MODEL, 1) as runner:
        apart = [np.abs(runner.run(clip.numpy()) - module(clip)[0].numpy()).max() for clip in clips]
    return float(max(apart)) / (pt2e.logit_step(program) or 0.0)
