"""What a recipe is held to before any work, beyond what its own file can tell. Changes nothing and computes no clip."""

from __future__ import annotations

import torch

from d3d_edge.models import build
from d3d_edge.models.recogniser import Recogniser
from d3d_edge.pipeline import weights
from d3d_edge.quantize import pt2e
from d3d_edge.recipe import Recipe


def check(recipe: Recipe) -> dict[weights.Stage, str]:
    """The hash of each file of published weights that `recipe` names, once its networks are found to fit all it says.

    Raises:
        RecipeError: a clip is too small for a network, published weights are of another one, or keep_float names what
            the student does not have.
        DataError: a file of weights is missing, damaged, or of no known format.
    """
    for spec in (recipe.teacher, recipe.student):
        build.check(spec.network, recipe.clip)
    names = recipe.quantize.keep_float
    if not isinstance(names, str) and names:
        student = build.network(recipe.student.network, 2, in_channels=3)
        pt2e.check_names(Recogniser(student), torch.zeros(recipe.clip.shape, dtype=torch.uint8), names)
    return weights.check(recipe)
