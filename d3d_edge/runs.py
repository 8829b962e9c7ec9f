"""Run: a folder in which training leaves its stages, each finished or absent. Trains nothing.

RUN/
  recipe.yaml     the resolved recipe
  data.csv        every clip with its label and split
  skipped.json    clips that could not be read, and why
  weights.json    hashes of the published weights that stages began with
  report.json     the trained networks on the test clips, from `distill`
  evaluation.json the systems of the paper on the same clips, from `evaluate`
  sensitivity.json, sensitivity.png
                  what making each part INT8 costs, from `sensitivity`
  teacher/  student/  quantized/  and one of each baseline's name
                  one folder a stage: checkpoint, log, results, and done.json at the end
  probe/          what features know of motion; in it a stage a probed network, e.g. probe/student/
  sensitivity/    the stage that the files of that name come from
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from d3d_edge import manifest, recipe
from d3d_edge.errors import DataError, RecipeError, StorageError
from d3d_edge.files import check_writable, delete, in_shell, read_json, sha256_of_value, sweep, write_json, write_text
from d3d_edge.manifest import Manifest
from d3d_edge.recipe import Recipe
from d3d_edge.report import SkippedClip

Stage = str
"""A stage's folder below the run: one of `recipe.reading.STAGES`, a baseline's name, or probe/ and one of these."""
_DONE = "done.json"
_SKIPPED = "skipped.json"


class Run:
    """A run folder with its recipe and data."""

    def __init__(self, path: Path, recipe: Recipe, data: Manifest) -> None:
        self.path = path
        self.recipe = recipe
        self.data = data

    @classmethod
    def start(cls, path: Path, wanted: Recipe, data: Manifest) -> Run:
        """The run at `path`, begun now, or gone on with if the same recipe and data began it. Where published weights
        lie is no part of being the same: they may have moved, or be gone, and `pipeline.weights` knows them by hash.

        One that has no stage yet is begun anew: what refused its recipe may have said what to change. Only what a run
        wrote is replaced.

        Raises:
            RecipeError: `path` is a run of another recipe, or of other data; or it holds somebody's own recipe or list
                of clips under the name that a run gives it.
            DataError: `path` is something else.
            StorageError: it cannot be written.
        """
        if run := cls.begun(path):
            again = "bring that back, choose another --out, or delete the folder to begin again"
            if _without_places(run.recipe) != _without_places(wanted):
                raise RecipeError(
                    f"{path} was begun with another recipe",
                    hint=f"{again}; what comes after training is changed in {path / 'recipe.yaml'}",
                )
            if run.data != data:
                other = first_difference(run.data, data)
                raise RecipeError(
                    f"{path} was begun with other data, or with the same at another place: {other}",
                    hint=f"{again}; where the clips were moved, change their paths in {path / 'data.csv'}",
                )
            return cls(path, wanted, data)
        empty = path.is_dir() and all(_ours(entry) for entry in path.iterdir())
        if path.exists() and not empty and not _is_run(path):
            raise DataError(f"{path} exists and is not a run", hint="choose another --out")
        for file in (path / "data.csv", path / "recipe.yaml"):
            if file.is_file() and not _written_by_a_run(file):
                raise RecipeError(
                    f"{file} was not written by a run, and would be replaced", hint="choose another --out"
                )
        manifest.write(data, path / "data.csv")
        write_text(path / "recipe.yaml", wanted.yaml())
        return cls(path, wanted, data)

    @classmethod
    def begun(cls, path: Path) -> Run | None:
        """The run at `path`, if it has a stage; None where there is no run, or one without.

        Raises:
            RecipeError, DataError: its recipe or its list of clips is damaged.
        """
        return cls.open(path) if _is_run(path) and any(entry.is_dir() for entry in path.iterdir()) else None

    @classmethod
    def open(cls, path: Path) -> Run:
        """The run at `path`.

        Raises:
            RecipeError: its recipe is damaged.
            DataError: there is no run, or its list of clips is damaged.
        """
        if not _is_run(path):
            raise DataError(f"{path} is not a run", hint="d3d-edge distill RECIPE --data DIR --out RUN makes one")
        return cls(path, recipe.stored(path / "recipe.yaml"), manifest.load(path / "data.csv"))

    @property
    def quantize_hash(self) -> str:
        """Hash of what the recipe says of quantization: of the gate too, where groups are left in float to hold it."""
        spec = self.recipe.quantize
        gate = [self.recipe.gates.top1_drop_points_max] if spec.keep_float == "auto" else []
        return fingerprint(spec.model_dump(mode="json"), *gate)

    def folder(self, stage: Stage) -> Path:
        """The folder of a stage."""
        return self.path / stage

    def sweep(self) -> None:
        """`files.sweep` the run and each stage in it, finished ones too, which no training looks through again."""
        for folder, *_ in os.walk(self.path):
            sweep(Path(folder))

    def results(self, stage: Stage, fingerprint: str | None = None) -> dict[str, Any] | None:
        """What a finished stage recorded; None if it is not finished, or was made from something else."""
        try:
            done = read_json(self.folder(stage) / _DONE)
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None  # One that may not be read is no reason to train again.
        if not isinstance(done, dict) or "fingerprint" not in done:
            return None
        return done if fingerprint in (None, done["fingerprint"]) else None

    def begin(self, stage: Stage) -> None:
        """Mark a stage unfinished before anything of it is written: what a killed process leaves of it is no result.

        Raises:
            StorageError: that cannot be written.
        """
        delete(self.folder(stage) / _DONE)

    def finish(self, stage: Stage, fingerprint: str, **results: Any) -> None:
        """Mark a stage finished, last of all that it writes."""
        write_json(self.folder(stage) / _DONE, {"fingerprint": fingerprint, **results})

    def need(self, stage: Stage) -> dict[str, Any]:
        """What a stage recorded.

        Raises:
            DataError: it is not finished; the hint is the command that finishes it.
        """
        results = self.results(stage)
        if results is None:
            raise DataError(f"{self.path}: the stage {stage} is not finished", hint=self.command(stage))
        return results

    def command(self, stage: Stage) -> str:
        """The command that makes a stage of training, or the quantized one."""
        path = in_shell(self.path)
        return f"d3d-edge quantize {path}" if stage == "quantized" else f"d3d-edge distill ... --out {path}"

    def check_writable(self) -> None:
        """Try now what `record_skipped` will do, after all clips are decoded.

        Raises:
            StorageError: the run cannot be written.
        """
        check_writable(self.path / _SKIPPED)

    def record_skipped(self, skipped: tuple[SkippedClip, ...]) -> None:
        """Write the clips that could not be read."""
        write_json(self.path / _SKIPPED, [clip.model_dump() for clip in skipped])

    def skipped(self) -> tuple[SkippedClip, ...]:
        """The clips that could not be read.

        Raises:
            DataError: the list is damaged.
        """
        path = self.path / _SKIPPED
        if not path.is_file():
            return ()
        try:
            found = read_json(path)
            return tuple(SkippedClip.model_validate(clip) for clip in found)
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"{path} is damaged", hint="delete it; the next command that decodes writes it") from error


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Let no other process hold the run at `path`, which need not be begun, for the time of the block.

    The system lets go of what a killed process held. Where it cannot hold folders, two commands may be at one run.

    Raises:
        DataError: another process holds it.
        StorageError: there is no such folder, and it cannot be made.
    """
    try:
        if not path.exists():
            path.mkdir(parents=True)
        folder = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # whoever is given a pipe says that it is no run
    except OSError as error:
        raise StorageError.of(path, error) from error
    try:
        _lock(folder, path)
        yield
    finally:
        os.close(folder)


def _lock(folder: int, path: Path) -> None:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        hint = "wait until it has ended, or choose another folder"
        raise DataError(f"another command is at work on {path}", hint=hint) from error
    except OSError:  # of some network file systems
        pass


def first_difference(begun: Manifest, now: Manifest) -> str:
    """The first clip that stands in one of two lists alone, or otherwise."""
    theirs, ours = set(begun.clips), set(now.clips)
    if added := next((clip for clip in now.clips if clip not in theirs), None):
        return f"{added.key} was not there, or under another label or split"
    missing = next((clip for clip in begun.clips if clip not in ours), None)
    return f"{missing.key} is gone" if missing else "the order is another"


def _without_places(recipe: Recipe) -> Recipe:
    """A recipe that says which networks start from published weights, and not where these lie."""
    teacher, student = recipe.teacher, recipe.student
    return recipe.model_copy(
        update={
            "teacher": teacher.model_copy(update={"weights": teacher.weights and ""}),
            "student": student.model_copy(update={"weights": student.weights and ""}),
        }
    )


def _is_run(path: Path) -> bool:
    return (path / "recipe.yaml").is_file() and (path / "data.csv").is_file()


def _ours(path: Path) -> bool:
    """What a run killed in its first moments may have left."""
    return path.name == "data.csv" or path.name.startswith(".data.csv.") or path.name.startswith(".recipe.yaml.")


def _written_by_a_run(file: Path) -> bool:
    """Whether a recipe, or a list of clips, is to the byte what a run would write of it."""
    try:
        if file.name == "recipe.yaml":
            text = recipe.stored(file).yaml()
        else:
            found = manifest.load(file)
            if not all(clip.split for clip in found.clips):
                return False
            text = manifest.as_csv(found)
    except (RecipeError, DataError):
        return False
    return file.read_bytes() == text.encode()


def fingerprint(*parts: Any) -> str:
    """Hash of everything that decides a stage."""
    return sha256_of_value(list(parts))
