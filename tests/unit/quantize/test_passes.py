"""Batch norms become part of their convolutions, which then compute the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from d3d_edge.models.layers import SpatialConv
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


class Repeated(nn.Module):
    """One layer, as often as asked."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.layer, self.times = SpatialConv(3, 3, 3), times
        self.layer.bn.running_var.fill_(0.1)  # type: ignore[operator,union-attr]

    def forward(self, clip: Tensor) -> Tensor:
        x = clip.float().permute(0, 3, 1, 2)
        for _ in range(self.times):
            x = self.layer(x)
        return x.mean((2, 3))


@pytest.mark.parametrize("times", [1, 2])
def test_a_layer_is_folded_once_however_often_it_is_used(times: int) -> None:
    model = Repeated(times).eval()
    folded = pt2e.export_float(model, networks.clip()).module()
    torch.testing.assert_close(folded(networks.clip()), model(networks.clip()), rtol=1e-5, atol=1e-5)


def test_the_network_is_left_as_it_is() -> None:
    model = networks.small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pt2e.capture(model, networks.clip())
    pt2e.export_float(model, networks.clip())
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_all_that_is_folded_goes_on_learning() -> None:
    captured = pt2e.capture(networks.small(), networks.clip())
    assert all(value.requires_grad for value in captured.parameters())
