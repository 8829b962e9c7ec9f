"""X3D-XS on float [N, C, T, H, W] with PyTorch's 3D modules: what a student is measured against.

Feichtenhofer, "X3D" (arXiv:2004.04730), table 1, at the sizes of XS.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

STEM = 24
STAGES = ((24, 3), (48, 5), (96, 11), (192, 7))
"""Channels and blocks of res2 to res5; each begins with a stride of 2 in space."""
BOTTLENECK = 2.25
SQUEEZE = 1 / 16
HEAD = 2048
DROPOUT = 0.5


def rounded(channels: float, unit: int = 8) -> int:
    """The nearest multiple of 8, or the next where that would take away more than a tenth."""
    nearest = max(unit, int(channels + unit / 2) // unit * unit)
    return nearest + unit if nearest < 0.9 * channels else nearest


class SqueezeExcite(nn.Module):
    """Channels weighed by what the whole clip holds of them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = rounded(channels * SQUEEZE)
        self.reduce, self.expand = nn.Conv3d(channels, inner, 1), nn.Conv3d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3, 4), keepdim=True)
        return x * torch.sigmoid(self.expand(torch.relu(self.reduce(mean))))


class Block(nn.Module):
    """Inverted bottleneck: 1x1x1 to more channels, 3x3x3 in each of them alone, 1x1x1 back, and the input added."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, squeeze: bool) -> None:
        super().__init__()
        inner = int(outputs * BOTTLENECK)
        self.widen = nn.Sequential(nn.Conv3d(inputs, inner, 1, bias=False), nn.BatchNorm3d(inner), nn.ReLU())
        self.each = nn.Sequential(
            nn.Conv3d(inner, inner, 3, (1, stride, stride), 1, groups=inner, bias=False),
            nn.BatchNorm3d(inner),
            SqueezeExcite(inner) if squeeze else nn.Identity(),
            nn.SiLU(),
        )
        self.narrow = nn.Sequential(nn.Conv3d(inner, outputs, 1, bias=False), nn.BatchNorm3d(outputs))
        self.past: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            shortcut = nn.Conv3d(inputs, outputs, 1, (1, stride, stride), bias=False)
            self.past = nn.Sequential(shortcut, nn.BatchNorm3d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.relu(self.past(x) + self.narrow(self.each(self.widen(x))))
        return y


class X3D(nn.Module):
    """Float [N, 3, T, H, W] to logits [N, classes]."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv3d(3, STEM, (1, 3, 3), (1, 2, 2), (0, 1, 1), bias=False),
            nn.Conv3d(STEM, STEM, (5, 1, 1), padding=(2, 0, 0), groups=STEM, bias=False),
            nn.BatchNorm3d(STEM),
            nn.ReLU(),
        )
        blocks: list[nn.Module] = []
        channels = STEM
        for outputs, count in STAGES:
            for number in range(count):
                stride = 2 if number == 0 else 1
                blocks.append(Block(channels, outputs, stride, squeeze=number % 2 == 0))
                channels = outputs
        self.blocks = nn.Sequential(*blocks)
        inner = int(channels * BOTTLENECK)
        self.last = nn.Sequential(nn.Conv3d(channels, inner, 1, bias=False), nn.BatchNorm3d(inner), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(inner, HEAD, bias=False), nn.ReLU(), nn.Dropout(DROPOUT))
        self.classify = nn.Linear(HEAD, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.classify.weight, std=0.01)

    def forward(self, volume: Tensor) -> Tensor:
        x = self.last(self.blocks(self.stem(volume)))
        logits: Tensor = self.classify(self.head(x.mean((2, 3, 4))))
        return logits
