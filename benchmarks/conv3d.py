"""S3D-G on float [N, C, T, H, W] with PyTorch's 3D modules, as it is usually written: what rank 4 is timed against.

It takes the weights and the table of layers of the rank-4 network, and shares no layer with it. Slim's padding and the
3x7x7 stem only. The oracle of the tests is no baseline for time: it spells the arithmetic out and knows no batch
statistics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from d3d_edge.models.layers import BATCH_NORM_EPS
from d3d_edge.models.s3dg import END_POINTS, MIN_DEPTH, MIXED, POOLS
from d3d_edge.models.views import pads

Triple = tuple[int, int, int]


def same_pads(sizes: Sequence[int], kernel: Triple, stride: Triple) -> list[tuple[int, int]]:
    """TensorFlow's SAME: what comes before and after each axis."""
    return [pads("same", size, k, s) for size, k, s in zip(sizes, kernel, stride, strict=True)]


class Gate(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.transformer_W = nn.Conv3d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.transformer_W(x.mean((2, 3, 4), keepdim=True)))


class Spatial(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: Triple, stride: Triple, momentum: float) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        # At stride 1 the padding is even, and the convolution's own costs no copy.
        inside = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2) if stride == (1, 1, 1) else (0, 0, 0)
        self.conv = nn.Conv3d(inputs, outputs, kernel, stride, inside, bias=False)
        self.bn = nn.BatchNorm3d(outputs, eps=BATCH_NORM_EPS, momentum=momentum)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride != (1, 1, 1):
            around = same_pads(x.shape[2:], self.kernel, self.stride)
            x = F.pad(x, [amount for pair in reversed(around) for amount in pair])
        return F.relu(self.bn(self.conv(x)))


class Temporal(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x))


class Unit(nn.Module):
    """1xkxk, then 3x1x1 where k is 3, then a gate where asked for."""

    def __init__(self, inputs: int, outputs: int, size: int, momentum: float, *, gated: bool) -> None:
        super().__init__()
        self.spatial = Spatial(inputs, outputs, (1, size, size), (1, 1, 1), momentum)
        self.temporal = Temporal(outputs) if size == 3 else nn.Identity()
        self.self_gating = Gate(outputs) if gated else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.self_gating(self.temporal(self.spatial(x)))
        return y


class Pool(nn.Module):
    def __init__(self, kernel: Triple, stride: Triple) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        around = same_pads(x.shape[2:], self.kernel, self.stride)
        # One element more after than before is what ceil mode means: no padded copy here either.
        uneven = any(before != after for before, after in around)
        return F.max_pool3d(x, self.kernel, self.stride, [before for before, _ in around], ceil_mode=uneven)


class Mixed(nn.Module):
    def __init__(self, inputs: int, widths: Sequence[int], momentum: float) -> None:
        super().__init__()
        only, reduce_1, out_1, reduce_2, out_2, project = widths
        self.channels = only + out_1 + out_2 + project
        self.Branch_0 = nn.Sequential()
        self.Branch_0.add_module("Conv2d_0a_1x1", Unit(inputs, only, 1, momentum, gated=True))
        self.Branch_1 = nn.Sequential()
        self.Branch_1.add_module("Conv2d_0a_1x1", Unit(inputs, reduce_1, 1, momentum, gated=False))
        self.Branch_1.add_module("Conv2d_0b_3x3", Unit(reduce_1, out_1, 3, momentum, gated=True))
        self.Branch_2 = nn.Sequential()
        self.Branch_2.add_module("Conv2d_0a_1x1", Unit(inputs, reduce_2, 1, momentum, gated=False))
        self.Branch_2.add_module("Conv2d_0b_3x3", Unit(reduce_2, out_2, 3, momentum, gated=True))
        self.Branch_3 = nn.Sequential()
        self.Branch_3.add_module("MaxPool_0a_3x3", Pool((3, 3, 3), (1, 1, 1)))
        self.Branch_3.add_module("Conv2d_0b_1x1", Unit(inputs, project, 1, momentum, gated=True))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.Branch_0(x), self.Branch_1(x), self.Branch_2(x), self.Branch_3(x)], dim=1)


class Conv3dS3DG(nn.Module):
    """Float [N, C, T, H, W] to logits [N, classes]. No dropout; batch norms have a trained gamma."""

    def __init__(self, classes: int, *, width: float, in_channels: int = 3, momentum: float = 0.1) -> None:
        super().__init__()

        def depth(channels: int) -> int:
            return max(int(channels * width), MIN_DEPTH)

        self.Conv2d_1a_7x7 = Spatial(in_channels, depth(64), (3, 7, 7), (2, 2, 2), momentum)
        for name, ((frames, size), (time_stride, step)) in POOLS.items():
            self.add_module(name, Pool((frames, size, size), (time_stride, step, step)))
        self.Conv2d_2b_1x1 = Unit(depth(64), depth(64), 1, momentum, gated=False)
        self.Conv2d_2c_3x3 = Unit(depth(64), depth(192), 3, momentum, gated=True)
        channels = depth(192)
        for name, widths in MIXED.items():
            block = Mixed(channels, [depth(count) for count in widths], momentum)
            self.add_module(name, block)
            channels = block.channels
        self.Logits = nn.ModuleDict({"Conv2d_0c_1x1": nn.Conv3d(channels, classes, 1)})

    def forward(self, x: Tensor) -> Tensor:
        for name in END_POINTS:
            x = self.get_submodule(name)(x)
        window = [min(size, limit) for size, limit in zip(x.shape[2:], (2, 7, 7), strict=True)]
        logits: Tensor = self.Logits["Conv2d_0c_1x1"](F.avg_pool3d(x, window, stride=1))
        return logits.mean((2, 3, 4))

    def load_rank4(self, weights: Mapping[str, Tensor]) -> None:
        """Take the state dict of the rank-4 network: the axis that it leaves out comes back."""
        own = self.state_dict()
        self.load_state_dict({name: rank5(name, value, own[name]) for name, value in weights.items()})


def rank5(name: str, value: Tensor, like: Tensor) -> Tensor:
    """A weight of rank 4, or its gradient, in the shape of `like`, this network's own of that name."""
    if value.ndim != 4:
        return value
    if name.startswith("Conv2d_1a_7x7"):
        return value.reshape(len(value), like.shape[2], *like.shape[1:2], *like.shape[3:]).transpose(1, 2)
    return value.reshape(like.shape)
