"""Networks from the recipe's words."""

from __future__ import annotations

import torch

from d3d_edge.errors import RecipeError
from d3d_edge.models.s3dg import S3DG
from d3d_edge.recipe import NetworkSpec


def check(spec: NetworkSpec) -> None:
    """Raises RecipeError where a network cannot be built. Nothing is computed."""
    with torch.device("meta"):
        network(spec, 2, in_channels=3)


def network(spec: NetworkSpec, classes: int, *, in_channels: int) -> S3DG:
    """An untrained S3D-G: `in_channels` is 3 for RGB, 2 for flow.

    Raises:
        RecipeError: `temporal_from` names no layer.
    """
    try:
        return S3DG(
            classes,
            in_channels=in_channels,
            width=spec.width,
            stage_widths=spec.stage_widths.given(),
            stem=spec.stem,
            gating=spec.gating,
            temporal_from=spec.temporal_from,
            padding=spec.padding,
            dropout=spec.dropout,
            bn_scale=spec.bn_scale,
            bn_momentum=spec.bn_momentum,
        )
    except ValueError as error:
        raise RecipeError(f"network: {error}") from error
