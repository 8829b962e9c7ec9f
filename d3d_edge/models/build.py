"""Networks from the recipe's words."""

from __future__ import annotations

import torch
from torch import nn

from d3d_edge.clip import ClipSpec
from d3d_edge.errors import RecipeError
from d3d_edge.models.s3dg import S3DG
from d3d_edge.recipe import NetworkSpec


def check(spec: NetworkSpec, clip: ClipSpec) -> None:
    """Raises RecipeError where such a clip is too small for a network. Nothing is computed."""
    with torch.device("meta"), torch.no_grad():
        net = network(spec, 2, in_channels=3).eval()
        try:
            net(torch.empty(clip.frames, 3, clip.height, clip.width))
        except RuntimeError as error:
            raise RecipeError(
                f"network: a clip of {clip.frames}x{clip.height}x{clip.width} is too small for it",
                hint="a larger clip, or padding: same",
            ) from error


def trains_on_one(spec: NetworkSpec, clip: ClipSpec) -> bool:
    """Whether a network can be trained on one such clip at a time. Nothing is computed.

    Its last batch norms need more than one number per channel, and of a small clip one position is left.
    """
    with torch.device("meta"), torch.no_grad():
        net = network(spec, 2, in_channels=3).train()
        try:
            net(torch.empty(clip.frames, 3, clip.height, clip.width))
        except ValueError:
            return False
    return True


def network(spec: NetworkSpec, classes: int, *, in_channels: int) -> S3DG:
    """An untrained S3D-G: `in_channels` is 3 for RGB, 2 for flow."""
    return S3DG(
        classes,
        in_channels=in_channels,
        width=spec.width,
        stage_widths=spec.stage_widths.given(),
        stem=spec.stem,
        gating=spec.gating,
        gating_from=spec.gating_from,
        temporal_from=spec.temporal_from,
        padding=spec.padding,
        dropout=spec.dropout,
        bn_scale=spec.bn_scale,
        bn_momentum=spec.bn_momentum,
    )


def randomise(net: nn.Module) -> None:
    """Give every convolution of `net` weights and a bias of its own, always the same ones.

    For what is lowered untrained, and measured: temporal convolutions begin as identities and biases as zeros, and a
    file holds what is equal once, so it would be smaller than that of a trained network.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for layer in net.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
                if layer.bias is not None:
                    nn.init.normal_(layer.bias, std=0.1)
