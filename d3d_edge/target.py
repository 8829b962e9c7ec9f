"""Target: a device family as data, read from targets/<name>/target.yaml. Runs nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from d3d_edge import resources
from d3d_edge.schema import Schema, build, read_yaml


class Target(Schema):
    """Which runtime lowers and runs a model for a device family, and with which settings."""

    name: str
    description: str
    runtime: Literal["executorch", "coreml", "tensorrt", "eager"]
    """The code that lowers to this target, one module in d3d_edge/runtimes/."""
    extra: str
    """The extra of this package that brings what lowering needs."""
    schemes: tuple[Literal["symmetric", "affine"], ...]
    """Quantization schemes the target takes, best first."""
    options: dict[str, str | int | bool] = Field(default_factory=dict)
    """Settings of the runtime, such as the lowest iOS version."""
    needs: tuple[str, ...]
    """What building and running on the device takes."""
    limits: tuple[str, ...] = ()
    """Known limits, for the reader of `d3d-edge targets show`."""


def load(name_or_folder: str) -> Target:
    """The target of a shipped name, or of a folder with a target.yaml.

    Raises:
        RecipeError: there is none, or its file holds a mistake.
    """
    own = Path(name_or_folder) / "target.yaml"
    path = own if own.is_file() else resources.find("targets", name_or_folder)
    data, lines = read_yaml(path)
    return build(Target, data, str(path), lines)
