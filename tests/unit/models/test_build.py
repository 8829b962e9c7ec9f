"""Networks that are lowered untrained: always the same, and as large a file as when they are trained."""

from __future__ import annotations

import torch
from torch import nn

from d3d_edge.models.build import network, randomise
from d3d_edge.recipe import NetworkSpec


def test_random_weights_are_always_the_same_and_no_two_layers_have_equal_ones() -> None:
    nets = [network(NetworkSpec(width=0.1), 3, in_channels=3) for _ in range(2)]
    before = torch.random.get_rng_state()
    for net in nets:
        randomise(net)
    assert torch.equal(torch.random.get_rng_state(), before)
    first, second = (net.state_dict() for net in nets)
    assert all(torch.equal(first[name], second[name]) for name in first)
    layers = [layer for layer in nets[0].modules() if isinstance(layer, nn.Conv2d)]
    constants = [layer.weight for layer in layers] + [layer.bias for layer in layers if layer.bias is not None]
    assert len({tuple(constant.flatten().tolist()) for constant in constants}) == len(constants)
