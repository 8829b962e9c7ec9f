"""What a network costs is counted as documented, and is that of the published network where that is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from d3d_edge.models import S3DG, count
from d3d_edge.models.layers import SeparableConv
from d3d_edge.models.views import clip_view
from d3d_edge.pipeline import models


class Branched(nn.Module):
    """A network whose activations can be counted by hand, on [2, 3, 8, 8]."""

    in_channels = 3

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.wide = nn.Conv2d(4, 16, 1)
        self.narrow = nn.Conv2d(16, 4, 1)

    def forward(self, frames: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(frames)))
        y = self.narrow(F.max_pool2d(self.wide(x), 2))
        x = clip_view(F.avg_pool2d(x, 2), 1)
        return torch.cat([x, clip_view(y, 1)], dim=1).mean((2, 3))


def test_activations_live_until_they_are_read_last() -> None:
    # The input is dead, `first` waits for its second reader, and the pool of `wide` is made: in places of 2 x 8 x 8.
    places, channels = 2 * 8 * 8, 4 + 16 + 16 / 4
    assert count.peak_activations(Branched(), 2, 8, 8) == places * channels


def test_batch_norm_and_relu_take_no_memory_of_their_own() -> None:
    net = Branched()
    expected = count.peak_activations(net, 2, 8, 8)
    net.norm = nn.Identity()
    assert count.peak_activations(net, 2, 8, 8) == expected


def test_counting_leaves_the_network_alone() -> None:
    net = S3DG(5, width=0.25)
    count.peak_activations(net, 4, 32, 32)
    assert net.training
    assert {p.device.type for p in net.parameters()} == {"cpu"}


def test_quantized_weights_are_kernels_biases_and_scales() -> None:
    kernels = 16 * 3 * 9 + 16 * 16 * 3 + 16 * 16
    biases, scales = 2 * 16, 3 * 16  # The gate has no bias, and batch norms are folded into biases.
    net = SeparableConv(3, 16, 3, temporal=True, gating=True)
    assert count.int8_weight_bytes(net) == kernels + 4 * (biases + scales)


def test_the_paper_preset_is_the_published_network() -> None:
    rows = {row.name: row for row in models.of_presets(400).rows}
    paper = rows["paper"]
    assert paper.parameters / 1e6 == pytest.approx(9.52, abs=0.005)
    assert paper.gmac == pytest.approx(64.19, abs=0.01)
    # The padded frames of the first layer, three stacked, and what it makes of them.
    values = 32 * 229 * 229 * 9 + 32 * 112 * 112 * 64
    assert (paper.activation_float32_bytes, paper.activation_int8_bytes) == (4 * values, values)
    # A byte a parameter, and little beside.
    assert 1.0 < paper.weights_int8_bytes / paper.parameters < 1.02


def test_presets_grow_from_nano_to_paper() -> None:
    rows = models.of_presets(400).rows
    assert [row.name for row in rows] == ["nano", "small", "medium", "base", "paper"]
    for cost in ("gmac", "activation_int8_bytes", "weights_int8_bytes"):
        values = [getattr(row, cost) for row in rows]
        assert values == sorted(set(values))
