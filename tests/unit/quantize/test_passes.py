"""Batch norms become part of their convolutions, which then compute the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from d3d_edge.errors import LoweringError
from d3d_edge.quantize import pt2e
from tests import networks


def test_folding_batch_norms_is_exact() -> None:
    # Small variances: an epsilon other than the network's own would show.
    torch.testing.assert_close(
        networks.float_program().module()(networks.clip()),
        networks.small()(networks.clip()),
        rtol=1e-4,
        atol=1e-5,
    )
    assert not [node for node in networks.float_program().graph.nodes if "batch_norm" in str(node.target)]


class Normed(nn.Module):
    """A convolution with a batch norm behind it, as often as asked."""

    def __init__(self, times: int, affine: bool) -> None:
        super().__init__()
        self.conv, self.bn, self.times = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3, affine=affine), times
        self.bn.running_var.fill_(0.1)

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        x = clip.float().permute(0, 3, 1, 2)
        for _ in range(self.times):
            x = self.bn(self.conv(x))
        return x.mean((2, 3))


def test_a_batch_norm_without_scale_and_offset_is_folded_too() -> None:
    model = Normed(1, affine=False).eval()
    folded = pt2e.export_float(model, networks.clip()).module()
    torch.testing.assert_close(folded(networks.clip()), model(networks.clip()), rtol=1e-5, atol=1e-5)


def test_a_convolution_that_is_used_twice_is_not_folded_twice() -> None:
    with pytest.raises(LoweringError, match=r"2 convolutions read conv.weight, and a batch norm follows"):
        pt2e.export_float(Normed(2, affine=True).eval(), networks.clip())
