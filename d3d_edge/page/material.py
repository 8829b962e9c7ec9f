"""What runs and bundles hold for the page: reads JSON, and draws nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from d3d_edge import evaluation, report, sensitivity
from d3d_edge.bundle import MANIFEST, Bundle, BundleManifest
from d3d_edge.errors import DataError, first_line
from d3d_edge.evaluation import Evaluation
from d3d_edge.files import json_value
from d3d_edge.report import Report
from d3d_edge.schema import Schema
from d3d_edge.sensitivity import SensitivityReport

S = TypeVar("S", bound=Schema)


@dataclass
class Material:
    """All that was found, each once."""

    reports: list[Report] = field(default_factory=list)
    """Those of bundles first, and of them those with answers."""
    evaluations: list[Evaluation] = field(default_factory=list)
    sensitivities: list[SensitivityReport] = field(default_factory=list)
    bundles: dict[str, BundleManifest] = field(default_factory=dict)
    """By the name of the folder."""
    recipes: dict[str, str] = field(default_factory=dict)
    """YAML, by the name of the folder it was found in first."""

    @property
    def contracts(self) -> list[dict[str, BundleManifest]]:
        """The bundles, those together that want the same of an app: input, clip, answers and classes."""
        found: dict[str, dict[str, BundleManifest]] = {}
        for name, made in self.bundles.items():
            windows = "video_rate_hz" if made.clip.stride else "video_length_s"
            key = made.model_dump_json(include={"input", "clip", "output", "labels", windows})
            found.setdefault(key, {})[name] = made
        return list(found.values())

    @property
    def outdated(self) -> list[str]:
        """For each report, which of its rows are of another model than the bundle holds now. Older ones do not tell."""
        held = {(name.rpartition("/")[2], made.model_sha256) for name, made in self.bundles.items()}
        known = {name for name, _ in held}
        lines = []
        for one in self.reports:
            rows = [row for row in one.rows if row.model_sha256 and row.bundle in known]
            if names := [row.name for row in rows if (row.bundle, row.model_sha256) not in held]:
                again = "validate" if any(row.clips for row in one.rows) else "benchmark"
                lines.append(
                    f"{', '.join(names)}: measured on another file than the bundle holds now; run {again} again"
                )
        return lines


def gather(paths: Sequence[Path]) -> Material:
    """The material in runs, bundles, folders of bundles, and files that hold a report.

    Bundles bring the report that `validate` left beside them.

    Raises:
        DataError: a path holds nothing of that kind, or a file in it cannot be read.
        BundleError: a bundle is damaged.
    """
    found = Material()
    folders: dict[Path, None] = {}
    opened: set[Path] = set()
    for path in paths:
        if path.is_file():
            _add_once(found.reports, Report.read(path))
            continue
        bundles = list(_bundles(path))
        about = [path, *([path.resolve().parent] if bundles == [path] else [])]
        if not bundles and not any((path / name).is_file() for name in _ANY):
            raise DataError(
                f"{path} is neither a run nor a bundle, and holds no bundles or {report.FILE_NAME}",
                hint="d3d-edge report RUN BUNDLES --html out.html",
            )
        for folder in bundles:
            if folder.resolve() in opened:
                continue
            opened.add(folder.resolve())
            found.bundles[_free(found.bundles, folder)] = Bundle.open(folder).manifest
        folders.update(dict.fromkeys(folder.resolve() for folder in (*about, *bundles)))
    for folder in folders:
        if (folder / report.FILE_NAME).is_file():
            _add_once(found.reports, Report.read(folder / report.FILE_NAME))
        _add_once(found.evaluations, _read(Evaluation, folder / evaluation.FILE_NAME))
        _add_once(found.sensitivities, _read(SensitivityReport, folder / sensitivity.FILE_NAME))
        text = _text(folder / "recipe.yaml")
        if text and text not in found.recipes.values():
            found.recipes[_free(found.recipes, folder)] = text
    found.reports.sort(key=_rank)
    return found


def _rank(one: Report) -> tuple[bool, bool]:
    """What a reader wants first sorts first."""
    return not one.is_of_bundles, not any(row.clips for row in one.rows)


_ANY = (report.FILE_NAME, evaluation.FILE_NAME, sensitivity.FILE_NAME, "recipe.yaml")


def _bundles(path: Path) -> Iterator[Path]:
    """`path` itself, or the bundles in it."""
    if (path / MANIFEST).is_file():
        yield path
    elif path.is_dir():
        yield from (folder for folder in sorted(path.iterdir()) if (folder / MANIFEST).is_file())


def _free(taken: dict[str, object] | dict[str, str] | dict[str, BundleManifest], folder: Path) -> str:
    """A name for a folder: its own, with its parents' where that is taken."""
    parts = folder.resolve().parts[1:]
    names = ("/".join(parts[-count:]) for count in range(1, len(parts) + 1))
    return next((name for name in names if name not in taken), str(folder))


def _read(kind: type[S], path: Path) -> S | None:
    """The JSON at `path`; None where there is none."""
    text = _text(path)
    if text is None:
        return None
    try:
        return kind.model_validate(json_value(text))
    except ValueError as error:
        raise DataError(f"{path} is not a readable {kind.__name__.lower()}: {first_line(error)}") from error


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error


def _add_once(values: list[S], value: S | None) -> None:
    if value is not None and value not in values:
        values.append(value)
