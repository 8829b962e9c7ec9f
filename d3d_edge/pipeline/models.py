"""d3d-edge models: the size, the computation and the memory of networks, worked out and not measured."""

from __future__ import annotations

from typing import Literal

import torch

from d3d_edge import schema
from d3d_edge.models import build, count
from d3d_edge.models.build import network
from d3d_edge.presets import PRESETS, Shape
from d3d_edge.recipe import NetworkSpec, Recipe
from d3d_edge.schema import Schema


class Model(Schema):
    """One network on one clip."""

    name: str
    description: str
    input: Literal["RGB", "flow"]
    frames: int
    height: int
    width: int
    network: NetworkSpec
    classes: int
    parameters: int
    """Trainable scalars."""
    gmac: float
    """1e9 multiply-accumulates of all convolutions, for one clip."""
    activation_float32_bytes: int
    """`count.peak_activations`, 4 bytes a value."""
    activation_int8_bytes: int
    """The same, 1 byte a value."""
    weights_int8_bytes: int
    """`count.int8_weight_bytes`."""


class Models(Schema):
    """All that were asked for."""

    rows: tuple[Model, ...]


def of_presets(classes: int) -> Models:
    """The student of each preset."""
    return Models(
        rows=tuple(
            _model(
                name,
                preset.description,
                spec_of(preset),
                "RGB",
                (preset.frames, preset.side, preset.side),
                classes,
            )
            for name, preset in PRESETS.items()
        )
    )


def spec_of(shape: Shape) -> NetworkSpec:
    """The network of a shape.

    Raises:
        RecipeError: it names a layer that does not exist.
    """
    return schema.build(NetworkSpec, shape.network, f"the network of {shape}")


def of_shape(shape: Shape, classes: int) -> Model:
    """The student of a shape.

    Raises:
        RecipeError: it names a layer that does not exist.
    """
    return _model(str(shape), "", spec_of(shape), "RGB", (shape.frames, shape.side, shape.side), classes)


def of_recipe(recipe: Recipe, classes: int) -> Models:
    """Teacher and student of a recipe.

    Raises:
        RecipeError: a network names a layer that does not exist, or the clip is too small for it.
    """
    for spec in (recipe.teacher.network, recipe.student.network):
        build.check(spec, recipe.clip)
    shape = (recipe.clip.frames, recipe.clip.height, recipe.clip.width)
    teacher = _model("teacher", f"the flow teacher of {recipe.name}", recipe.teacher.network, "flow", shape, classes)
    student = _model("student", f"the RGB student of {recipe.name}", recipe.student.network, "RGB", shape, classes)
    return Models(rows=(teacher, student))


def _model(
    name: str,
    description: str,
    spec: NetworkSpec,
    seen: Literal["RGB", "flow"],
    shape: tuple[int, int, int],
    classes: int,
) -> Model:
    frames, height, width = shape
    with torch.device("meta"):
        net = network(spec, classes, in_channels=3 if seen == "RGB" else 2)
    values = count.peak_activations(net, frames, height, width)
    return Model(
        name=name,
        description=description,
        input=seen,
        frames=frames,
        height=height,
        width=width,
        network=spec,
        classes=classes,
        parameters=count.parameter_count(net),
        gmac=count.mac_count(net, frames, height, width) / 1e9,
        activation_float32_bytes=4 * values,
        activation_int8_bytes=values,
        weights_int8_bytes=count.int8_weight_bytes(net),
    )
