"""What training on a CPU computes at once: 1x1 convolutions of one input, and gates side by side. No graph shows it.

Functions and gradients are those of the layers one by one. But a call of the convolution library costs more than the
sums of a small layer, and four gates walk four parts of a tensor, forward and back, where one walks the whole.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from d3d_edge.models.layers import SelfGating, SpatialConv
from d3d_edge.models.pools import ClipPool
from d3d_edge.models.views import mean


def usable(units: Sequence[SpatialConv], x: Tensor) -> bool:
    """Whether to join `units`: in training on a CPU, by PyTorch itself and not into a graph.

    In a graph each convolution stays beside its batch norm, where quantizers look for it.
    """
    return (
        all(unit.bn.training for unit in units)
        and torch.is_grad_enabled()
        and x.device.type == "cpu"
        and not torch.compiler.is_compiling()
    )


def pointwise(units: Sequence[SpatialConv], x: Tensor) -> list[Tensor]:
    """What each of `units`, all 1x1 and in training, makes of float [B, I, H, W]: float [B, O, H, W] each."""
    norms = [cast(nn.BatchNorm2d, unit.bn) for unit in units]
    sizes = [norm.num_features for norm in norms]
    weight = torch.cat([unit.conv.weight for unit in units]).flatten(1)
    y = F.linear(x.permute(0, 2, 3, 1), weight).permute(0, 3, 1, 2)
    gamma, beta = torch.cat([norm.weight for norm in norms]), torch.cat([norm.bias for norm in norms])
    mean, var = _joined(norms, "running_mean"), _joined(norms, "running_var")
    y = F.batch_norm(y, mean, var, gamma, beta, True, norms[0].momentum or 0.0, norms[0].eps)
    for name, value in (("running_mean", mean), ("running_var", var)):
        for norm, part in zip(norms, value.split_with_sizes(sizes), strict=True):
            norm.get_buffer(name).copy_(part)
    for norm in norms:
        norm.get_buffer("num_batches_tracked").add_(1)
    return list(F.relu(y, inplace=True).split_with_sizes(sizes, 1))


def _joined(norms: Sequence[nn.BatchNorm2d], buffer: str) -> Tensor:
    return torch.cat([norm.get_buffer(buffer) for norm in norms])


def gated(clips: Sequence[Tensor], gates: Sequence[SelfGating], pool: ClipPool) -> Tensor:
    """`clips`, float [N, C_i, T, H*W], side by side, each behind its own gate, and what `pool` makes of them."""
    joined = torch.cat(list(clips), dim=1)
    means = mean(joined).flatten(1).split_with_sizes([clip.shape[1] for clip in clips], 1)
    logits = [F.linear(mean, gate.transformer_W.weight.flatten(1)) for mean, gate in zip(means, gates, strict=True)]
    return pool(joined) * torch.cat(logits, dim=1).sigmoid()[:, :, None, None]
