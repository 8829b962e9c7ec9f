"""A recipe from its file, at most one more that it extends, a preset, and settings; checked before any work."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from d3d_edge import presets, resources
from d3d_edge.errors import RecipeError
from d3d_edge.recipe.spec import Recipe
from d3d_edge.schema import Location, assign, build, merge, read_yaml

STAGES = ("teacher", "student", "quantized", "probe", "sensitivity")
"""Folders of a run that are not baselines."""
_SUFFIXES = (".yaml", ".yml")
_FILES: tuple[tuple[str, str, resources.Kind | None, str], ...] = (
    ("teacher", "weights", None, ""),
    ("student", "weights", None, ""),
    ("quantize", "calibration", "calibration", ""),
    ("export", "targets", "targets", "target.yaml"),
)
"""Section and key of what may be a file; what ships names for it too, if any; and what a folder that is one holds."""


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
    recipe = _read(path, tuple(settings))
    _check_names(recipe)
    return recipe


def stored(path: Path) -> Recipe:
    """The resolved recipe of a run or a bundle. The files it names may have stayed on another machine.

    Raises:
        RecipeError: it cannot be read, or holds a mistake.
    """
    return _read(find(str(path)), ())


def _read(path: Path, settings: tuple[str, ...]) -> Recipe:
    data, places = _extended(path)
    for setting in settings:  # what these change stands in no file
        keys = tuple(setting.partition("=")[0].strip().split("."))
        places = {at: place for at, place in places.items() if at[: len(keys)] != keys}
    data = _with_absolute_files(assign(data, settings), path.parent)
    source = str(path) + (" with --set" if settings else "")
    recipe = build(Recipe, presets.apply(data, source), source, places)
    _check_stages(recipe, path)
    return recipe


def _with_absolute_files(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The recipe with the plan, weights and targets given as files made absolute: a run is opened from any folder.

    They are looked for in `folder`, where the recipe is. A file that is not there stays as it is: a run whose weights
    are gone can still be exported.
    """
    for section, key, shipped, holds in _FILES:
        if not isinstance(data.get(section), dict) or key not in data[section]:
            continue
        names = resources.names(shipped) if shipped else ()

        def placed(given: Any, names: Sequence[str] = names, holds: str = holds) -> Any:
            return _absolute(given, folder, holds) if isinstance(given, str) and given not in names else given

        given = data[section][key]
        found = [placed(one) for one in given] if isinstance(given, list) else placed(given)
        data = merge(data, {section: {key: found}})
    return data


def _absolute(name: str, folder: Path, holds: str) -> str:
    """`name` from `folder`, else from the current one, as an absolute path; as it is where neither `holds` that."""
    home = os.path.expanduser(name)
    places = (folder / home, Path(home))
    return next((str(place.resolve()) for place in places if os.path.isfile(place / holds)), name)


def _extended(path: Path) -> tuple[dict[str, Any], dict[Location, str]]:
    """What the recipe and the one that it extends say, the files of the latter absolute, and where each key stands."""
    data, places = read_yaml(path)
    if "extends" not in data:
        return data, places
    name = os.path.expanduser(str(data.pop("extends")))
    beside = path.parent / (name if Path(name).suffix in _SUFFIXES else f"{name}.yaml")
    extended = beside if os.path.isfile(beside) else find(name)
    base, base_places = read_yaml(extended)
    if "extends" in base:
        raise RecipeError(f"{path} extends {name}, which itself extends another recipe; only one level is allowed")
    return merge(_with_absolute_files(base, extended.parent), data), base_places | places


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
