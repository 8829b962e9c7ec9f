"""What a recipe is held to before any work, beyond what its own file can tell. Changes nothing and computes no clip."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from d3d_edge import calibset, target
from d3d_edge.clip import ClipSpec
from d3d_edge.errors import DataError, RecipeError
from d3d_edge.models import build
from d3d_edge.models.recogniser import Recogniser
from d3d_edge.pipeline import weights
from d3d_edge.quantize import pt2e
from d3d_edge.recipe import NetworkSpec, Recipe, TrainSpec
from d3d_edge.runs import Run


def check(recipe: Recipe, run: Run | None = None) -> dict[weights.Stage, str]:
    """The hash of each file of published weights that `recipe` names, once its networks are found to fit all it says.

    A run that has begun a stage needs the stage's file no more.

    Raises:
        RecipeError: the calibration plan holds a mistake, a clip is too small for a network or for batches of one,
            published weights are of another one, or keep_float names what the student does not have, or all it has.
        DataError: a file of weights is missing, damaged, or of no known format.
    """
    calibset.load_plan(recipe.quantize.calibration)
    for network, clip in dict.fromkeys((stage.network, stage.clip) for stage in _stages(recipe)):
        build.check(network, clip)
    for stage in _stages(recipe):
        if stage.train.batch_size == 1 and not build.trains_on_one(stage.network, stage.clip):
            raise RecipeError(
                f"{stage.name}.train.batch_size is 1, which leaves {_one_number(stage)}",
                hint="a batch_size of 2 or more, or a larger clip",
            )
    check_keep_float(recipe)
    return weights.check(recipe, run)


def check_scheme(recipe: Recipe) -> None:
    """Raises RecipeError where a target that the recipe exports to does not take its quantization scheme."""
    scheme = recipe.quantize.scheme
    takes = {name: target.load(name).schemes for name in recipe.export.targets}
    for name in takes:
        if scheme not in takes[name]:
            takers = ", ".join(other for other in takes if scheme in takes[other])
            raise RecipeError(
                f"the target {name} of export.targets does not take quantize.scheme: {scheme}",
                hint=f"set scheme: {takes[name][0]}" + (f", or targets: [{takers}]" if takers else ""),
            )


def check_keep_float(recipe: Recipe) -> None:
    """Raises RecipeError where quantize.keep_float names what the student does not have, or all it has."""
    names = recipe.quantize.keep_float
    if not isinstance(names, str) and names:
        student = build.network(recipe.student.network, 2, in_channels=3)
        pt2e.check_names(Recogniser(student), torch.zeros(recipe.clip.shape, dtype=torch.uint8), names)


def check_batches(recipe: Recipe, clips: int) -> None:
    """Raises DataError where a process has `clips` to train on, and a network needs more at a time."""
    for stage in _stages(recipe):
        if clips == 1 and not build.trains_on_one(stage.network, stage.clip):
            raise DataError(
                f"{stage.name}: each process has one training clip, which leaves {_one_number(stage)}",
                hint="start fewer processes, or give more clips or a larger clip",
            )


class _Stage(NamedTuple):
    """What is trained on which clips."""

    name: str
    """Where the recipe says how."""
    network: NetworkSpec
    clip: ClipSpec
    train: TrainSpec


def _stages(recipe: Recipe) -> Iterator[_Stage]:
    for name, spec in (("teacher", recipe.teacher), ("student", recipe.student)):
        yield _Stage(name, spec.network, recipe.clip, spec.train)
    for name, baseline in recipe.baselines.items():
        clip = recipe.clip if baseline.frames == "clip" else recipe.clip.model_copy(update={"frames": 1})
        where = f"baselines.{name}" if baseline.train else "student"
        yield _Stage(where, recipe.student.network, clip, baseline.train or recipe.student.train)


def _one_number(stage: _Stage) -> str:
    size = f"{stage.clip.frames}x{stage.clip.height}x{stage.clip.width}"
    return f"batch norms one number per channel of a clip of {size}"
