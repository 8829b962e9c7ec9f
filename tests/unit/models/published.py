"""The published forms of S3D and S3D-G, in 3D operators and under the published names: what makes checkpoints here.

Written a second time, by what the published code computes. Nothing is shared with the package.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from tests.unit.models import reference

BLOCKS = (
    (64, 96, 128, 16, 32, 32),
    (128, 128, 192, 32, 96, 64),
    (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
    (256, 160, 320, 32, 128, 128),
    (384, 192, 384, 48, 128, 128),
)
BLOCK_NAMES = ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c")


CLASSES = 5
WIDTH = 0.25
"""Of the checkpoints that the tests read."""

N = TypeVar("N", bound=nn.Module)


def narrowed(channels: int, width: float) -> int:
    return max(math.floor(channels * width), 16)


def randomise(net: nn.Module) -> None:
    """Weights and statistics that all matter to the logits."""
    for module in net.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.normal_(module.bias, 0, 0.3)
        if isinstance(module, nn.BatchNorm3d):
            nn.init.normal_(module.bias, 0.1, 0.3)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.1, 1.5)


def torch_network(net: N) -> N:
    torch.manual_seed(0)
    randomise(net)
    return net.double().eval()


def video(frames: int, size: int, *, clips: int = 1, channels: int = 3) -> Tensor:
    """Float [N, C, T, H, W]."""
    return torch.randn(clips, channels, frames, size, size, dtype=torch.float64)


class Torch3D(nn.Module):
    """What torchvision's and kylemin's forms have in common: everything but names and head."""

    branch0_is_a_sequence = True

    def __init__(self, width: float) -> None:
        super().__init__()

        def c(channels: int) -> int:
            return narrowed(channels, width)

        layers: list[nn.Module] = [
            self.separable(3, c(64), 7, 2),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            self.pointwise(c(64), c(64)),
            self.separable(c(64), c(192), 3, 1),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        ]
        channels = c(192)
        for index, block in enumerate(BLOCKS):
            if index == 2:
                layers.append(nn.MaxPool3d(3, 2, 1))
            if index == 7:
                layers.append(nn.MaxPool3d(2, 2))
            layers.append(self.block(channels, [c(n) for n in block]))
            channels = sum(c(block[i]) for i in (0, 2, 4, 5))
        self.channels = channels
        self.trunk = layers

    def separable(self, inputs: int, outputs: int, kernel: int, stride: int) -> nn.Module:
        raise NotImplementedError

    def pointwise(self, inputs: int, outputs: int) -> nn.Module:
        raise NotImplementedError

    def block(self, inputs: int, widths: list[int]) -> nn.Module:
        one = self.pointwise(inputs, widths[0])
        return Concatenated(
            branch0=nn.Sequential(one) if self.branch0_is_a_sequence else one,
            branch1=nn.Sequential(self.pointwise(inputs, widths[1]), self.separable(widths[1], widths[2], 3, 1)),
            branch2=nn.Sequential(self.pointwise(inputs, widths[3]), self.separable(widths[3], widths[4], 3, 1)),
            branch3=nn.Sequential(nn.MaxPool3d(3, 1, 1), self.pointwise(inputs, widths[5])),
        )


class Concatenated(nn.Module):
    def __init__(self, **branches: nn.Module) -> None:
        super().__init__()
        for name, branch in branches.items():
            self.add_module(name, branch)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.children()], dim=1)


def norm(channels: int) -> nn.BatchNorm3d:
    return nn.BatchNorm3d(channels, eps=1e-3, momentum=1e-3)


def spatial(inputs: int, outputs: int, k: int, stride: int) -> nn.Conv3d:
    return nn.Conv3d(inputs, outputs, (1, k, k), (1, stride, stride), (0, k // 2, k // 2), bias=False)


def temporal(channels: int, k: int, stride: int) -> nn.Conv3d:
    return nn.Conv3d(channels, channels, (k, 1, 1), (stride, 1, 1), (k // 2, 0, 0), bias=False)


class Torchvision(Torch3D):
    """torchvision.models.video.s3d; its pool of 2x7x7 is fixed, so frames are 224x224."""

    branch0_is_a_sequence = False

    def __init__(self, classes: int, width: float) -> None:
        super().__init__(width)
        self.features = nn.Sequential(*self.trunk)
        self.avgpool = nn.AvgPool3d((2, 7, 7), stride=1)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Conv3d(self.channels, classes, 1))

    def separable(self, inputs: int, outputs: int, kernel: int, stride: int) -> nn.Module:
        return nn.Sequential(
            nn.Sequential(spatial(inputs, outputs, kernel, stride), norm(outputs), nn.ReLU()),
            nn.Sequential(temporal(outputs, kernel, stride), norm(outputs), nn.ReLU()),
        )

    def pointwise(self, inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(nn.Conv3d(inputs, outputs, 1, bias=False), norm(outputs), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x))).mean((2, 3, 4))


class Kylemin(Torch3D):
    """kylemin/S3D, whose pool is 2xHxW."""

    def __init__(self, classes: int, width: float) -> None:
        super().__init__(width)
        self.base = nn.Sequential(*self.trunk)
        self.fc = nn.Sequential(nn.Conv3d(self.channels, classes, 1))

    def separable(self, inputs: int, outputs: int, kernel: int, stride: int) -> nn.Module:
        layers = OrderedDict[str, nn.Module]()
        layers["conv_s"], layers["bn_s"] = spatial(inputs, outputs, kernel, stride), norm(outputs)
        layers["relu_s"] = nn.ReLU()
        layers["conv_t"], layers["bn_t"], layers["relu_t"] = temporal(outputs, kernel, stride), norm(outputs), nn.ReLU()
        return nn.Sequential(layers)

    def pointwise(self, inputs: int, outputs: int) -> nn.Module:
        layers = OrderedDict[str, nn.Module]()
        layers["conv"], layers["bn"] = nn.Conv3d(inputs, outputs, 1, bias=False), norm(outputs)
        layers["relu"] = nn.ReLU()
        return nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        x = self.base(x)
        x = F.avg_pool3d(x, (2, x.shape[3], x.shape[4]), stride=1)
        return self.fc(x).flatten(2).mean(2)


class Slim:
    """slim's S3D-G: variables by slim's names, made while the first clip runs through, as TensorFlow builds a graph."""

    def __init__(
        self,
        classes: int,
        width: float,
        *,
        taps: int = 3,
        temporal_from: str = "2c",
        gating_from: str | None = "2c",
        gamma: bool = False,
    ) -> None:
        self.classes, self.width, self.taps, self.gamma = classes, width, taps, gamma
        order = ("2c", *BLOCK_NAMES)
        self.temporal = set(order[order.index(temporal_from) :])
        self.gated = set(order[order.index(gating_from) :]) if gating_from else set()
        self.variables: dict[str, NDArray[np.float64]] = {}
        self.random = np.random.default_rng(0)

    def variable(self, name: str, shape: tuple[int, ...], low: float, high: float) -> Tensor:
        if name not in self.variables:
            self.variables[name] = self.random.uniform(low, high, shape)
        return torch.from_numpy(self.variables[name])

    def kernel(self, name: str, shape: tuple[int, int, int, int, int]) -> Tensor:
        """T, H, W, in, out; for `conv3d` out, in, T, H, W."""
        bound = math.sqrt(6 / math.prod(shape[:4]))
        return self.variable(f"InceptionV1/{name}/weights", shape, -bound, bound).permute(4, 3, 0, 1, 2)

    def unit(
        self, x: Tensor, name: str, channels: int, kernel: tuple[int, int], stride: int = 1, *, block: str = ""
    ) -> Tensor:
        channels = narrowed(channels, self.width)
        frames, pixels = kernel
        weight = self.kernel(name, (frames, pixels, pixels, x.shape[1], channels))
        x = reference.conv(x, weight, (stride if frames > 1 else 1, stride, stride), "same")
        scope = f"InceptionV1/{name}/BatchNorm"
        mean = self.variable(f"{scope}/moving_mean", (channels,), -0.3, 0.3)
        variance = self.variable(f"{scope}/moving_variance", (channels,), 0.1, 1.5)
        beta = self.variable(f"{scope}/beta", (channels,), -0.3, 0.5)
        gamma = self.variable(f"{scope}/gamma", (channels,), 0.5, 1.5) if self.gamma else torch.ones(channels).double()
        x = F.relu(F.batch_norm(x, mean, variance, gamma, beta, eps=1e-3))
        if pixels == 3 and block in self.temporal:
            weight = self.kernel(f"{name}/temporal", (3, 1, 1, channels, channels))
            biases = self.variable(f"InceptionV1/{name}/temporal/biases", (channels,), -0.3, 0.3)
            x = F.relu(reference.conv(x, weight, (1, 1, 1), "same", biases))
        return x

    def gate(self, x: Tensor, name: str, block: str) -> Tensor:
        if block not in self.gated:
            return x
        weight = self.kernel(f"{name}/self_gating/transformer_W", (1, 1, 1, x.shape[1], x.shape[1]))
        return reference.gate(x, weight.squeeze(2))

    def mixed(self, x: Tensor, block: str, widths: tuple[int, ...]) -> Tensor:
        def branch(x: Tensor, layers: tuple[tuple[str, int, int], ...]) -> Tensor:
            for layer, channels, pixels in layers:
                name = f"Mixed_{block}/{layer}"
                x = self.unit(x, name, channels, (1, pixels), block=block)
            return self.gate(x, name, block)

        pooled = reference.max_pool(x, (3, 3, 3), (1, 1, 1), "same")
        outputs = [
            branch(x, (("Branch_0/Conv2d_0a_1x1", widths[0], 1),)),
            branch(x, (("Branch_1/Conv2d_0a_1x1", widths[1], 1), ("Branch_1/Conv2d_0b_3x3", widths[2], 3))),
            branch(x, (("Branch_2/Conv2d_0a_1x1", widths[3], 1), ("Branch_2/Conv2d_0b_3x3", widths[4], 3))),
            branch(pooled, (("Branch_3/Conv2d_0b_1x1", widths[5], 1),)),
        ]
        return torch.cat(outputs, dim=1)

    def logits(self, x: Tensor) -> Tensor:
        """Float [N, C, T, H, W] to [N, classes]."""
        weight_name = "Conv2d_1a_7x7"
        if self.taps == 1:
            x = x[:, :, ::2]  # A kernel of one frame with stride 2 in time.
        x = self.unit(x, weight_name, 64, (self.taps, 7), 2)
        x = reference.max_pool(x, (1, 3, 3), (1, 2, 2), "same")
        x = self.unit(x, "Conv2d_2b_1x1", 64, (1, 1))
        x = self.gate(self.unit(x, "Conv2d_2c_3x3", 192, (1, 3), block="2c"), "Conv2d_2c_3x3", "2c")
        x = reference.max_pool(x, (1, 3, 3), (1, 2, 2), "same")
        for block, widths in zip(BLOCK_NAMES, BLOCKS, strict=True):
            if block == "4b":
                x = reference.max_pool(x, (3, 3, 3), (2, 2, 2), "same")
            if block == "5b":
                x = reference.max_pool(x, (2, 2, 2), (2, 2, 2), "same")
            x = self.mixed(x, block, widths)
        x = F.avg_pool3d(x, (min(2, x.shape[2]), min(7, x.shape[3]), min(7, x.shape[4])), stride=1)
        weight = self.kernel("Logits/Conv2d_0c_1x1", (1, 1, 1, x.shape[1], self.classes))
        biases = self.variable("InceptionV1/Logits/Conv2d_0c_1x1/biases", (self.classes,), -0.3, 0.3)
        return F.conv3d(x, weight, biases).mean((2, 3, 4))


def below(scope: str, variables: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """The variables of a network that was built below `scope`."""
    return {f"{scope}{name}": value for name, value in variables.items()}
