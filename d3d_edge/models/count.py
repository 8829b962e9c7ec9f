"""How large a network is and how much it computes. Measures no time."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from d3d_edge.models.s3dg import S3DG


def parameter_count(net: nn.Module) -> int:
    """Trainable scalars of `net`; a frozen batch-norm gamma is not one."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


def mac_count(net: S3DG, frames: int, height: int, width: int) -> int:
    """Multiply-accumulates of all convolutions for one clip of `frames` x `height` x `width` pixels.

    The products with padding are counted, and the classifier once, not at each position that slim averages.
    """
    total = 0

    def count(layer: nn.Module, _inputs: Any, output: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d):
            total += output.numel() * layer.weight[0].numel()

    # On the meta device shapes are worked out and nothing is computed.
    shapes = deepcopy(net).to("meta").eval()
    for layer in shapes.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(count)
    with torch.no_grad():
        shapes(torch.empty(frames, net.in_channels, height, width, device="meta"))
    return total
