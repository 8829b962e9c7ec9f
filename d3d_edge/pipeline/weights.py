"""Published weights that a run's networks start from: checked before any work, recorded in the run, and loaded.

The hash of a file, not its path, is part of what decides a stage. It is recorded in the run, so that a stage that was
begun needs the file no more.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from d3d_edge.distill.checkpoint import Checkpoint
from d3d_edge.errors import DataError, RecipeError
from d3d_edge.files import read_json, sha256_of_file, write_json
from d3d_edge.models import checkpoints
from d3d_edge.models.checkpoints import Published
from d3d_edge.models.s3dg import S3DG, UNITS
from d3d_edge.progress import Progress
from d3d_edge.recipe import NetworkSpec, Recipe
from d3d_edge.runs import Run

FILE_NAME = "weights.json"

Stage = Literal["teacher", "student"]
_SEES: dict[Stage, tuple[str, int]] = {"teacher": ("flow", 2), "student": ("RGB", 3)}


def check(recipe: Recipe, run: Run | None = None) -> dict[Stage, str]:
    """The hash of each file of weights that `recipe` names, every one read and held against its network.

    Where the file of a stage that the run has begun is gone, it is the recorded one.

    Raises:
        RecipeError: a checkpoint is of a network other than the recipe's; the hint sets the recipe right.
        DataError: a file is missing, damaged, or of no known format.
    """
    hashes = {}
    recorded = _recorded(run) if run else {}
    for stage in _SEES:
        path = _path(recipe, stage)
        if path and run and not path.is_file() and stage in recorded and _is_begun(run, stage):
            hashes[stage] = recorded[stage]
        elif path:
            _hold_against(checkpoints.load(path), getattr(recipe, stage).network, stage)
            hashes[stage] = sha256_of_file(path)
    return hashes


def record(run: Run, hashes: dict[Stage, str]) -> None:
    """Write to the run what `check` gave.

    Raises:
        DataError: a stage began with another file.
    """
    recorded = _recorded(run)
    for stage, found in hashes.items():
        if _is_begun(run, stage) and recorded.get(stage, found) != found:
            raise DataError(
                f"{_path(run.recipe, stage)} is another file than the {stage} of {run.path} began with",
                hint="bring that one back, or choose another --out",
            )
    if hashes:
        write_json(run.path / FILE_NAME, hashes)


def _is_begun(run: Run, stage: Stage) -> bool:
    return run.results(stage) is not None or Checkpoint.read(run.folder(stage)) is not None


def mark(run: Run, stage: Stage) -> list[str]:
    """What the weights of a stage add to its mark: the hash of their file, or nothing where there are none.

    Raises:
        DataError: the run's record is gone.
    """
    if _path(run.recipe, stage) is None:
        return []
    recorded = _recorded(run)
    if stage not in recorded:
        raise DataError(f"{run.path / FILE_NAME} is missing or damaged", hint="d3d-edge distill writes it")
    return [recorded[stage]]


def _recorded(run: Run) -> dict[str, str]:
    """What `record` wrote; nothing where that is gone."""
    try:
        found = read_json(run.path / FILE_NAME)
        return {str(stage): str(sha256) for stage, sha256 in found.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def start(net: S3DG, run: Run, of: Stage, stage: str, progress: Progress) -> None:
    """Put the weights that the recipe names for the teacher or the student into `net`, for frames as normalised here.

    Where `stage`, which is to be trained from them, was begun, its checkpoint has what became of them.

    Raises:
        DataError: as `checkpoints.load_into`.
    """
    path = _path(run.recipe, of)
    if path is None or Checkpoint.read(run.folder(stage)):
        return
    loaded = checkpoints.load_into(net, path, own_frames=True)
    kept = "with its classifier" if loaded.classifier_kept else "the classifier starts from scratch"
    progress.note(f"{stage}: starts from {path} ({loaded.format}, {loaded.classes} classes), {kept}")


def _path(recipe: Recipe, stage: Stage) -> Path | None:
    name = getattr(recipe, stage).weights
    return Path(name) if name else None


def _hold_against(published: Published, spec: NetworkSpec, stage: Stage) -> None:
    seen, channels = _SEES[stage]
    what = f"{stage}.weights: {published.path} is a {published.format} checkpoint"
    found = published.options["in_channels"]
    if found != channels:
        raise RecipeError(f"{what} for {found} input channels, and the {stage} sees {seen}, which has {channels}")
    if spec.stage_widths.given():
        raise RecipeError(f"{what} of one width; {stage}.network.stage_widths must be left out")
    own = dict(spec)
    # A learned scale of batch norms is no contradiction: without `bn_scale`, it is kept and not trained on.
    needed = {name: published.options.get(name, own[name]) for name in ("width", "stem", "gating", "padding")}
    begins = ("temporal_from", "gating_from") if needed["gating"] else ("temporal_from",)
    needed |= {name: published.options.get(name, UNITS[0]) for name in begins}
    wrong = {name: value for name, value in needed.items() if own[name] != value}
    if wrong:
        told = ", ".join(f"{name}: {_yaml(value)}" for name, value in wrong.items())
        given = ", ".join(f"{name}: {_yaml(own[name])}" for name in wrong)
        settings = " ".join(f"--set {stage}.network.{name}={_yaml(value)}" for name, value in wrong.items())
        raise RecipeError(f"{what}, which needs {told} in {stage}.network, not {given}", hint=settings)


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
