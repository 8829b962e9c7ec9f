"""S3D-G on float [N, C, T, H, W] with PyTorch's 3D operators: what the rank-4 network is held against.

Nothing is shared with the package but a state dict, whose weights get back the axis that rank 4 left out, and a
table of layers, which is written here a second time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

Triple = tuple[int, int, int]

LAYERS: tuple[tuple[str, Triple, Triple], ...] = (
    # name, and for a pool its kernel and stride
    ("Conv2d_1a_7x7", (0, 0, 0), (2, 2, 2)),
    ("MaxPool_2a_3x3", (1, 3, 3), (1, 2, 2)),
    ("Conv2d_2b_1x1", (0, 0, 0), (1, 1, 1)),
    ("Conv2d_2c_3x3", (0, 0, 0), (1, 1, 1)),
    ("MaxPool_3a_3x3", (1, 3, 3), (1, 2, 2)),
    ("Mixed_3b", (0, 0, 0), (1, 1, 1)),
    ("Mixed_3c", (0, 0, 0), (1, 1, 1)),
    ("MaxPool_4a_3x3", (3, 3, 3), (2, 2, 2)),
    *((f"Mixed_4{x}", (0, 0, 0), (1, 1, 1)) for x in "bcdef"),
    ("MaxPool_5a_2x2", (2, 2, 2), (2, 2, 2)),
    *((f"Mixed_5{x}", (0, 0, 0), (1, 1, 1)) for x in "bc"),
)


def clips_from_frames(frames: Tensor, clips: int) -> Tensor:
    """[N*T, C, H, W] to [N, C, T, H, W]."""
    return frames.unflatten(0, (clips, -1)).transpose(1, 2).contiguous()


def frames_from_clips(x: Tensor) -> Tensor:
    """[N, C, T, H, W] to [N*T, C, H, W]."""
    return x.transpose(1, 2).flatten(0, 1)


def padded(x: Tensor, kernel: Triple, stride: Triple, padding: str, value: float) -> Tensor:
    """Pad T, H and W by TensorFlow's rule for SAME, or evenly."""
    amounts: list[int] = []
    for size, k, s in zip(reversed(x.shape[2:]), reversed(kernel), reversed(stride), strict=True):
        if padding == "same":
            # TensorFlow, "convolution": needed = max(k - s, 0) where s divides the size, else max(k - size % s, 0)
            needed = max(k - (size % s or s), 0)
            amounts += [math.floor(needed / 2), math.ceil(needed / 2)]
        else:
            amounts += [(k - 1) // 2] * 2
    return F.pad(x, amounts, value=value)


def conv(x: Tensor, weight: Tensor, stride: Triple, padding: str, bias: Tensor | None = None) -> Tensor:
    kernel = (weight.shape[2], weight.shape[3], weight.shape[4])
    return F.conv3d(padded(x, kernel, stride, padding, 0.0), weight, bias, stride)


def max_pool(x: Tensor, kernel: Triple, stride: Triple, padding: str) -> Tensor:
    return F.max_pool3d(padded(x, kernel, stride, padding, -math.inf), kernel, stride)


def batch_norm_relu(x: Tensor, weights: Mapping[str, Tensor], name: str) -> Tensor:
    def per_channel(key: str) -> Tensor:
        return weights[f"{name}.{key}"].reshape(1, -1, 1, 1, 1)

    scaled = (x - per_channel("running_mean")) / (per_channel("running_var") + 1e-3).sqrt()
    return (scaled * per_channel("weight") + per_channel("bias")).clamp(min=0)


def gate(x: Tensor, weight: Tensor) -> Tensor:
    """`weight`: [C, C, 1, 1]."""
    pooled = F.avg_pool3d(x, x.shape[2:])
    return x / (1 + torch.exp(-F.conv3d(pooled, weight.unsqueeze(2))))


def stacked_conv(x: Tensor, weights: Mapping[str, Tensor], name: str, taps: int, stride: int, padding: str) -> Tensor:
    flat = weights[f"{name}.conv.weight"]  # [O, k_t * I, k, k]
    weight = flat.unflatten(1, (taps, -1)).transpose(1, 2)
    y = conv(x, weight, (stride, stride, stride), padding)
    return batch_norm_relu(y, weights, f"{name}.bn")


def unit(x: Tensor, weights: Mapping[str, Tensor], name: str, stride: int = 1, padding: str = "same") -> Tensor:
    """(1, k, k) convolution, and what else the state dict holds weights for."""
    spatial = weights[f"{name}.spatial.conv.weight"].unsqueeze(2)  # [O, I, 1, k, k]
    x = batch_norm_relu(conv(x, spatial, (1, stride, stride), padding), weights, f"{name}.spatial.bn")
    if f"{name}.temporal.conv.weight" in weights:
        temporal = weights[f"{name}.temporal.conv.weight"].unsqueeze(4)  # [O, I, k, 1, 1]
        x = conv(x, temporal, (stride, 1, 1), padding, weights[f"{name}.temporal.conv.bias"]).clamp(min=0)
    if f"{name}.self_gating.transformer_W.weight" in weights:
        x = gate(x, weights[f"{name}.self_gating.transformer_W.weight"])
    return x


def mixed(x: Tensor, weights: Mapping[str, Tensor], name: str, padding: str) -> Tensor:
    one = unit(x, weights, f"{name}.Branch_0.Conv2d_0a_1x1")
    two, three = (
        unit(unit(x, weights, f"{name}.Branch_{b}.Conv2d_0a_1x1"), weights, f"{name}.Branch_{b}.Conv2d_0b_3x3")
        for b in (1, 2)
    )
    four = unit(max_pool(x, (3, 3, 3), (1, 1, 1), padding), weights, f"{name}.Branch_3.Conv2d_0b_1x1")
    return torch.cat([one, two, three, four], dim=1)


@dataclass(frozen=True)
class Reference:
    """The whole network; `stem` and `padding` cannot be told from the weights."""

    weights: Mapping[str, Tensor]
    stem: str
    padding: str

    def logits(self, x: Tensor) -> Tensor:
        """[N, C, T, H, W] to [N, classes]."""
        for name, kernel, stride in LAYERS:
            if name == "Conv2d_1a_7x7" and self.stem != "separable":
                x = stacked_conv(x, self.weights, name, int(self.stem[len("conv3d_k")]), 2, self.padding)
            elif name.startswith("Mixed"):
                x = mixed(x, self.weights, name, self.padding)
            elif name.startswith("MaxPool"):
                x = max_pool(x, kernel, stride, self.padding)
            else:
                x = unit(x, self.weights, name, stride[0], self.padding)
        return self.classify(x)

    def classify(self, x: Tensor) -> Tensor:
        """Classify every position of the window, and average the logits."""
        time, height, width = (min(size, limit) for size, limit in zip(x.shape[2:], (2, 7, 7), strict=True))
        x = F.avg_pool3d(x, (time, height, width), stride=1)
        weight = self.weights["Logits.Conv2d_0c_1x1.weight"].unsqueeze(2)
        return F.conv3d(x, weight, self.weights["Logits.Conv2d_0c_1x1.bias"]).mean((2, 3, 4))
