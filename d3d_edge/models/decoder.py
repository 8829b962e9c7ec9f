"""A small decoder of optical flow from the features of a frozen network. It has no kernel in time, on purpose.

What it finds of motion must therefore be in the features of one step already. Knows no layer names and no data.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DECODER_WIDTH = 48
"""Channels inside. The decoder is to read features, not to learn vision: at this width it has about 0.1 million
parameters on features of a quarter-width S3D-G."""


class FlowDecoder(nn.Module):
    """Features of several layers of one network, finest first, to flow at the size and the steps of the finest.

    From the coarsest layer on: 1x1 convolution of the layer's features, plus what came from the coarser layer,
    3x3 convolution and ReLU, enlarged to the next finer layer; a last 3x3 convolution gives x and y.

    channels   of each layer's features, finest first
    width      channels inside

    Raises ValueError where there is no layer.
    """

    def __init__(self, channels: Sequence[int], width: int = DECODER_WIDTH) -> None:
        super().__init__()
        if not channels:
            raise ValueError("a decoder needs the features of at least one layer")
        # Without trained scale: networks are compared, and the size of their features must not matter.
        self.norms = nn.ModuleList(nn.BatchNorm2d(count, affine=False) for count in channels)
        self.laterals = nn.ModuleList(nn.Conv2d(count, width, 1) for count in channels)
        self.merges = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in channels)
        self.flow = nn.Conv2d(width, 2, 3, padding=1)
        # It begins at no motion, so that training starts at the error of the simplest guess and not above it.
        nn.init.zeros_(self.flow.weight)
        if self.flow.bias is not None:
            nn.init.zeros_(self.flow.bias)

    def forward(self, features: Sequence[Tensor], clips: int = 1) -> Tensor:
        """Features float [N*T_i, C_i, H_i, W_i], finest first, for N = `clips`, to flow, float [N*T_0, 2, H_0, W_0].

        Flow is x (to the right) and y (down) in pixels. Step s of a layer with fewer steps serves all the finer steps
        that it was pooled from: a step is repeated, and never mixed with another one.
        Raises ValueError where there are not as many features as layers, or a layer has more steps than a finer one.
        """
        if len(features) != len(self.laterals):
            raise ValueError(f"{len(features)} features for a decoder of {len(self.laterals)} layers")
        x: Tensor | None = None
        for level in reversed(range(len(features))):
            own: Tensor = self.laterals[level](self.norms[level](features[level]))
            if x is not None:
                x = F.interpolate(_repeated(x, len(own), clips), own.shape[2:], mode="bilinear", align_corners=False)
                own = own + x
            x = F.relu(self.merges[level](own))
        flow: Tensor = self.flow(x)
        return flow


def time_stride(steps: int, fewer: int) -> int:
    """The smallest stride in time that leaves `fewer` of `steps` steps, for a layer and one pooled from it.

    A layer of stride r leaves ceil(steps / r) steps, and step s of the coarser one stands at step s * r of the finer.
    A stride of 2 is always found again from the counts, and so is none. Raises ValueError for steps that became more.
    """
    if not 0 < fewer <= steps:
        raise ValueError(f"{fewer} steps cannot come from {steps}")
    return -(-steps // fewer)


def _repeated(x: Tensor, rows: int, clips: int) -> Tensor:
    """Float [N*T, ...] to [N*T', ...] for `rows` = N*T': step s is the step of the coarser layer that it went into."""
    steps, fewer = rows // clips, len(x) // clips
    if steps == fewer:
        return x
    at = torch.arange(steps, device=x.device) // time_stride(steps, fewer)
    first = torch.arange(clips, device=x.device) * fewer
    return x.index_select(0, (first[:, None] + at).flatten())
