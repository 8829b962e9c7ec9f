"""A recipe from its file, at most one more that it extends, a preset, and settings; checked before any work."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from d3d_edge import presets, resources
from d3d_edge.errors import RecipeError
from d3d_edge.recipe.spec import Recipe
from d3d_edge.schema import Location, assign, build, merge, read_yaml

STAGES = ("teacher", "student", "quantized", "probe", "sensitivity")
"""Folders of a run that are not baselines."""
_SUFFIXES = (".yaml", ".yml")


def find(name_or_path: str) -> Path:
    """The file of a recipe given by path, or by the name of one that ships with the package.

    Raises:
        RecipeError: there is neither.
    """
    path = Path(name_or_path)
    if (path.suffix in _SUFFIXES or len(path.parts) > 1) and not os.path.isfile(path):
        raise RecipeError(f"there is no recipe file {name_or_path}", hint="d3d-edge recipes ls")
    return resources.given("recipes", name_or_path)


def load(name_or_path: str, settings: Iterable[str] = ()) -> Recipe:
    """The recipe at a path or of a shipped name, with `settings` ('key.key=value') applied.

    Raises:
        RecipeError: it cannot be read, extends more than one level deep, or holds a mistake.
    """
    path = find(name_or_path)
    recipe = _with_absolute_files(_read(path, tuple(settings)), path)
    _check_names(recipe)
    return recipe


def stored(path: Path) -> Recipe:
    """The resolved recipe of a run or a bundle. The files it names may have stayed on another machine.

    Raises:
        RecipeError: it cannot be read, or holds a mistake.
    """
    return _with_absolute_files(_read(find(str(path)), ()), path)


def _read(path: Path, settings: tuple[str, ...]) -> Recipe:
    data, lines = _extended(path)
    source = str(path) + (" with --set" if settings else "")
    recipe = build(Recipe, presets.apply(assign(data, settings), source), source, lines)
    _check_stages(recipe, path)
    return recipe


def _with_absolute_files(recipe: Recipe, path: Path) -> Recipe:
    """The recipe with the plan, weights and targets given as files made absolute: a run is opened from any folder.

    A file that is not there stays as it is: a run whose weights are gone can still be exported.
    """

    def weights(name: str | None) -> str | None:
        return name and _absolute(name, path.parent)

    plan, targets = recipe.quantize.calibration, recipe.export.targets
    if plan not in resources.names("calibration"):
        plan = _absolute(plan, path.parent)
    shipped = resources.names("targets")
    targets = tuple(one if one in shipped else _absolute(one, path.parent, "target.yaml") for one in targets)
    return recipe.model_copy(
        update={
            "export": recipe.export.model_copy(update={"targets": targets}),
            "teacher": recipe.teacher.model_copy(update={"weights": weights(recipe.teacher.weights)}),
            "student": recipe.student.model_copy(update={"weights": weights(recipe.student.weights)}),
            "quantize": recipe.quantize.model_copy(update={"calibration": plan}),
        }
    )


def _absolute(name: str, folder: Path, holds: str = "") -> str:
    """`name` from `folder`, else from the current one, as an absolute path; as it is where neither `holds` that."""
    places = (folder / name, Path(name))
    return next((str(place.resolve()) for place in places if os.path.isfile(place / holds)), name)


def _extended(path: Path) -> tuple[dict[str, Any], dict[Location, int]]:
    data, lines = read_yaml(path)
    if "extends" not in data:
        return data, lines
    name = str(data.pop("extends"))
    beside = path.parent / (name if Path(name).suffix in _SUFFIXES else f"{name}.yaml")
    base, _ = read_yaml(beside if os.path.isfile(beside) else find(name))
    if "extends" in base:
        raise RecipeError(f"{path} extends {name}, which itself extends another recipe; only one level is allowed")
    return merge(base, data), lines


def _check_stages(recipe: Recipe, path: Path) -> None:
    """Names of baselines, which become folders, what the teacher is made of, and where networks start."""
    for name in recipe.baselines:
        if not re.fullmatch("[a-z][a-z0-9_]*", name) or name in STAGES:
            raise RecipeError(
                f"{path}: baselines: {name!r} cannot be a name; small letters, digits and _, but not "
                + ", ".join(STAGES)
            )
    spatial = recipe.baselines.get("spatial")
    if recipe.distill.teacher == "two_stream":
        if spatial is None or spatial.frames != "clip":
            raise RecipeError(
                f"{path}: distill.teacher is 'two_stream', but there is no baseline 'spatial' on clips",
                hint="add baselines: {spatial: {}}",
            )
        if recipe.distill.features_weight:
            raise RecipeError(f"{path}: distill.features_weight needs the flow teacher: two streams share no features")
    if recipe.student.initialise == "teacher" and recipe.student.weights:
        raise RecipeError(
            f"{path}: student.initialise is 'teacher', and student.weights is given: a student has one start",
            hint="set student.initialise: scratch to start from the weights",
        )
    starts = {"student": recipe.student.initialise}
    starts |= {f"baselines.{name}": spec.initialise for name, spec in recipe.baselines.items()}
    for name in [name for name, start in starts.items() if start == "teacher"]:
        student = recipe.student.network.model_dump(exclude={"dropout"})
        if student != recipe.teacher.network.model_dump(exclude={"dropout"}):
            raise RecipeError(
                f"{path}: {name}.initialise is 'teacher', but student.network and teacher.network differ",
                hint="make the networks equal, or start the student from scratch",
            )


def _check_names(recipe: Recipe) -> None:
    """Targets and the plan, given by name or path, checked before hours of training."""
    for target in recipe.export.targets:
        resources.given("targets", target)
    resources.given("calibration", recipe.quantize.calibration)
