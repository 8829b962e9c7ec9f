"""Bundle: a folder that holds an exported model and all an app must know to feed it. Runs nothing.

BUNDLE/
  manifest.json    BundleManifest: contract, provenance, and the SHA-256 of every other file
  model.*          what the runtime loads; its name carries no meaning, the manifest names it
  labels.txt       class names, one a line, in the order of the logits
  recipe.yaml      the resolved recipe
  golden/          clips.npy uint8 [K, T, H, W, C] and logits.npy float32 [K, classes] of the graph that was lowered
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator

from d3d_edge.clip import ClipSpec
from d3d_edge.errors import BundleError, RecipeError
from d3d_edge.files import (
    atomic_folder,
    check_writable,
    files_below,
    read_json,
    sha256_of_file,
    sha256_of_value,
    size_of,
    write_json,
)
from d3d_edge.runner import TensorSpec
from d3d_edge.schema import Schema
from d3d_edge.target import Precision, RuntimeName, Scheme

FORMAT_VERSION = 1
LABELS = "labels.txt"
RECIPE = "recipe.yaml"
GOLDEN_CLIPS = "golden/clips.npy"
GOLDEN_LOGITS = "golden/logits.npy"
MANIFEST = "manifest.json"
ANSWERS_MOVED_BY = "answers_moved_by_"
"""What begins the name of a fact of lowering that says how far something moves a logit."""


class FileEntry(Schema):
    """Hash and size of one file."""

    sha256: str
    size_bytes: int


class Description(Schema):
    """All that is known of a bundle before its files are written."""

    format: Literal["d3d-edge bundle"] = "d3d-edge bundle"
    format_version: Literal[1] = 1
    name: str
    """Name of the recipe."""
    target: str
    runtime: RuntimeName
    precision: Precision
    scheme: Scheme | None
    """Quantization scheme; null where the float graph was lowered."""
    model: str
    """The model file or folder, relative to the bundle."""
    clip: ClipSpec
    clip_hash: str
    video_length_s: float | None = Field(default=None, gt=0)
    """Median length of the videos it was trained on: with uniform sampling, how long a window of a stream should be."""
    video_rate_hz: float | None = Field(default=None, gt=0)
    """Median of their frames a second: with dense sampling, at which rate `clip.stride` takes every so many-th."""
    labels: tuple[str, ...]
    input: TensorSpec
    output: TensorSpec
    """What a `Runner` takes and gives. Of the file itself, logits are [1, classes], and Core ML takes and gives float16
    of the same values."""
    graph_sha256: str
    """Hash of the graph that was lowered; bundles with the same one came from the same weights."""
    float_sha256: str
    """Hash of the float student's graph, the one every bundle of a run is compared with."""
    logit_step: float | None
    """The most that a logit changes by one quantization step of one input of the classifier: the unit to read
    differences of logits in; null where the classifier is float."""
    calibration_hash: str | None
    """Hash of the CalibrationSet; null for float32."""
    data_hash: str
    """Hash of the data manifest the network was trained on."""
    tools: dict[str, str]
    """Versions of the tools that made the bundle."""
    options: dict[str, str | int | bool] = Field(default_factory=dict)
    """The target's settings that it was lowered with."""
    lowering: dict[str, int | float | str | bool]
    """What lowering measured, such as the number of delegates."""
    fallbacks: tuple[str, ...] = ()
    """What `export` would have refused, and --allow-fallback let through: the file is slow there, or cannot run."""

    @field_validator("lowering")
    @classmethod
    def _moves_are_lengths(cls, facts: dict[str, int | float | str | bool]) -> dict[str, int | float | str | bool]:
        for name, value in facts.items():
            if not name.startswith(ANSWERS_MOVED_BY):
                continue
            if isinstance(value, bool | str) or value < 0:
                raise ValueError(f"{name} is {value!r}, and no length")
        return facts


class BundleManifest(Description):
    """manifest.json."""

    files: dict[str, FileEntry]

    @property
    def model_sha256(self) -> str:
        """Hash of the model file; of a model folder, the hash over the names and hashes of its files."""
        if self.model in self.files:
            return self.files[self.model].sha256
        return sha256_of_value(
            {name: entry.sha256 for name, entry in self.files.items() if name.startswith(self.model + "/")}
        )


class Bundle:
    """An opened bundle whose files were checked against their hashes."""

    def __init__(self, path: Path, manifest: BundleManifest) -> None:
        self.path = path
        self.manifest = manifest

    @property
    def model_path(self) -> Path:
        """The model file or folder."""
        return self.path / self.manifest.model

    @property
    def model_size_bytes(self) -> int:
        """Bytes of the model."""
        return size_of(self.model_path)

    @classmethod
    def open(cls, path: Path) -> Bundle:
        """Open and verify the bundle at `path`.

        Raises:
            BundleError: it is not a bundle, of another format version, or a file is missing, changed or added.
        """
        try:
            data = read_json(path / MANIFEST)
        except OSError as error:
            hint = "bundles are folders: bundles/*/ leaves files out" if path.is_file() else "d3d-edge export"
            raise BundleError(f"{path} is not a bundle: no readable {MANIFEST}", hint=hint) from error
        except ValueError as error:
            raise BundleError(f"{path / MANIFEST} is not JSON", hint="export the bundle again") from error
        version = data.get("format_version") if isinstance(data, dict) else None
        if version != FORMAT_VERSION:
            raise BundleError(f"{path} has bundle format {version!r}, this version reads {FORMAT_VERSION}")
        try:
            manifest = BundleManifest.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise BundleError(f"{path / MANIFEST}: {where}: {first['msg']}", hint="export the bundle again") from error
        _verify(path, manifest)
        return cls(path, manifest)

    @classmethod
    def found(cls, path: Path) -> Bundle | None:
        """The bundle at `path`; None where there is none, or a damaged one: `write` decides what may be replaced."""
        try:
            return cls.open(path)
        except BundleError:
            return None

    @classmethod
    def unwritten(cls, folder: Path, description: Description) -> Bundle:
        """What would be a bundle of the model in `folder`: a runtime opens it, and nothing has been checked or kept."""
        return cls(folder, BundleManifest(**dict(description), files={}))

    @classmethod
    def write(cls, path: Path, description: Description, fill: Callable[[Path], None]) -> Bundle:
        """Make a bundle at `path`: `fill(folder)` writes its files, then the manifest is added and all is renamed.

        Raises:
            BundleError: `path` holds something that is not a bundle.
            StorageError: it cannot be written; what was at `path` is unchanged.
        """
        if path.exists() and not _may_replace(path):
            raise BundleError(f"{path} exists and is not a bundle", hint="choose another --out")
        with atomic_folder(path) as folder:
            fill(folder)
            _as_readable(folder)
            files = {
                file.relative_to(folder).as_posix(): FileEntry(
                    sha256=sha256_of_file(file), size_bytes=file.stat().st_size
                )
                for file in files_below(folder)
            }
            manifest = BundleManifest(**dict(description), files=files)
            write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
        return cls(path, manifest)


def _as_readable(folder: Path) -> None:
    """Let whoever may read `folder` read what is in it: some libraries write files for their own user alone."""
    mode = folder.stat().st_mode & 0o777
    for path in folder.rglob("*"):
        path.chmod(mode if path.is_dir() else mode & 0o666)


def is_bundle(path: Path) -> bool:
    """Whether a folder says that it is a bundle; any folder may hold a manifest.json."""
    try:
        data = read_json(path / MANIFEST)
    except (OSError, ValueError):
        return False
    return isinstance(data, dict) and data.get("format") == Description.model_fields["format"].default


def check_output(path: Path, option: str) -> None:
    """Whether `option` may put a file at `path`, asked before the work whose result goes there. Makes its folder.

    It leaves every bundle whole: a file more, and it would not open again.

    Raises:
        RecipeError: a folder above `path` is a bundle, links followed.
        StorageError: as `files.check_writable`.
    """
    for folder in Path(os.path.realpath(path)).parents:
        if is_bundle(folder):
            raise RecipeError(
                f"cannot write {path}: {folder} is a bundle, which holds nothing else", hint=f"choose another {option}"
            )
    check_writable(path)


def _may_replace(path: Path) -> bool:
    """Whether `path` is an empty folder, or a bundle."""
    return is_bundle(path) or (path.is_dir() and not any(path.iterdir()))


def _verify(path: Path, manifest: BundleManifest) -> None:
    present = {file.relative_to(path).as_posix() for file in files_below(path)} - {MANIFEST}
    again = "copy or export the bundle again"
    if missing := sorted(set(manifest.files) - present):
        raise BundleError(f"{path}: the file {missing[0]} is missing", hint=again)
    if extra := sorted(present - set(manifest.files)):
        raise BundleError(f"{path}: the file {extra[0]} is not part of the bundle", hint="remove it, or " + again)
    if not any(name == manifest.model or name.startswith(manifest.model + "/") for name in manifest.files):
        raise BundleError(f"{path}: the model {manifest.model} is not among the bundle's files", hint=again)
    if manifest.output.shape[-1:] != (len(manifest.labels),) or tuple(manifest.input.shape) != manifest.clip.shape:
        raise BundleError(f"{path / MANIFEST}: labels or clip do not fit what the model gives or takes", hint=again)
    if manifest.clip.hash() != manifest.clip_hash:
        raise BundleError(f"{path / MANIFEST}: the clip was changed; its clip_hash is another's", hint=again)
    for name, entry in manifest.files.items():
        try:
            same = sha256_of_file(path / name) == entry.sha256
        except OSError as error:
            raise BundleError(f"{path}: cannot read the file {name}: {error.strerror or error}") from error
        if not same:
            raise BundleError(f"{path}: the file {name} is damaged (SHA-256 differs)", hint=again)
    labels = "".join(f"{label}\n" for label in manifest.labels).encode()
    if LABELS in manifest.files and (path / LABELS).read_bytes() != labels:
        raise BundleError(f"{path / MANIFEST}: the labels are not those of {LABELS}", hint=again)


def by_place(bundles: Iterable[Bundle]) -> dict[str, Bundle]:
    """Bundles by the name of their folder; where two are alike, by as much of the paths as tells them apart."""
    found = {bundle.path.resolve(): bundle for bundle in bundles}
    depth = 1
    while len({path.parts[-depth:] for path in found}) < len(found):
        depth += 1
    return {"/".join(path.parts[-depth:]): bundle for path, bundle in found.items()}
