"""Which clips there are, their labels and their split: from a folder per class or a CSV. Decodes nothing."""

from __future__ import annotations

import csv
import io
import os
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, get_args

from d3d_edge.errors import DataError
from d3d_edge.files import sha256_of_value, write_text
from d3d_edge.schema import Schema

Split = Literal["train", "val", "test"]
VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".3gp", ".flv"})
_COLUMNS = ("path", "label", "split", "group")
_UNWRITABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
"""Control characters, and what Python makes of file names that are not UTF-8."""


class Clip(Schema):
    """One labelled video file."""

    path: str
    """Absolute path."""
    label: str
    split: Split | Literal[""]
    """Empty until a split is drawn."""
    group: str
    """What must not be in two splits (a person, a source video); the path as listed where nothing is given."""


class Manifest(Schema):
    """Labelled clips, in a fixed order."""

    clips: tuple[Clip, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """All class names, sorted; a class's index is its place here."""
        return tuple(sorted({clip.label for clip in self.clips}))

    def of(self, split: Split) -> tuple[Clip, ...]:
        """The clips of one split."""
        return tuple(clip for clip in self.clips if clip.split == split)

    def without(self, paths: Iterable[str]) -> Manifest:
        """All clips but those at `paths`."""
        dropped = set(paths)
        return Manifest(clips=tuple(clip for clip in self.clips if clip.path not in dropped))

    def data_hash(self) -> str:
        """SHA-256 over the clips' paths below their common folder, labels and splits: the same wherever they lie."""
        root = os.path.commonpath([clip.path for clip in self.clips])
        return sha256_of_value([[os.path.relpath(c.path, root), c.label, c.split] for c in self.clips])


def load(data: Path) -> Manifest:
    """The clips of `data`: a folder per class, a CSV manifest, or a folder that holds manifest.csv.

    Raises:
        DataError: nothing is there, a class folder is empty, there is one class only, or a CSV row is wrong.
    """
    if data.is_dir() and (data / "manifest.csv").is_file():
        data = data / "manifest.csv"
    if data.is_dir():
        clips = _from_folders(data)
    elif data.is_file() and data.suffix.lower() == ".csv":
        clips = _from_csv(data)
    elif data.exists():
        raise DataError(f"{data} is neither a folder nor a .csv manifest", hint="--data takes one of the two")
    else:
        raise DataError(
            f"there is no {data}", hint="--data takes a folder per class, or a CSV path,label,split[,group]"
        )
    manifest = Manifest(clips=tuple(clips))
    if len(manifest.labels) < 2:
        only = manifest.labels[0] if manifest.labels else "none"
        raise DataError(f"{data} holds one class only: {only}", hint="recognition needs at least two classes")
    return manifest


def _from_folders(folder: Path) -> list[Clip]:
    clips: list[Clip] = []
    for class_folder in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        videos = sorted(p for p in class_folder.rglob("*") if _is_video(p))
        if not videos:
            raise DataError(
                f"the class folder {class_folder} holds no video",
                hint="add clips or remove the folder; read are " + " ".join(sorted(VIDEO_SUFFIXES)),
            )
        for video in videos:
            # Relative, so that a drawn split does not change when the folder moves.
            group = video.relative_to(folder).as_posix().strip()
            path = str(video.resolve())
            if _UNWRITABLE.search(path + group):
                raise DataError(f"the file name {path!r} cannot be written to a CSV", hint="rename the file")
            clips.append(Clip(path=path, label=class_folder.name.strip(), split="", group=group))
    if not clips:
        raise DataError(f"{folder} holds no class folders", hint="expected one folder per class, with videos in it")
    path, times = Counter(clip.path for clip in clips).most_common(1)[0]
    if times > 1:
        raise DataError(f"{folder} links to {path} {times} times", hint="keep one link: a clip has one label")
    return clips


def _is_video(path: Path) -> bool:
    # A name with a leading dot is a system's own, such as the ._clip.mp4 beside each clip that macOS copied.
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _from_csv(path: Path) -> list[Clip]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    try:
        clips = _clips_of_rows(path, csv.DictReader(io.StringIO(text), strict=True))
    except csv.Error as error:
        raise DataError(f"{path} is not a CSV file: {error}", hint="is a quote left open?") from error
    _check_splits(path, clips)
    return clips


def _clips_of_rows(path: Path, reader: csv.DictReader[str]) -> list[Clip]:
    columns = [(name or "").strip() for name in reader.fieldnames or ()]
    if not {"path", "label"} <= set(columns) <= set(_COLUMNS) or len(columns) > len(set(columns)):
        raise DataError(f"{path}:1: the columns are {','.join(columns)}", hint="expected path,label,split[,group]")
    reader.fieldnames = columns
    clips: list[Clip] = []
    seen: dict[str, int] = {}
    for row in reader:
        clip = _clip_of_row(path, reader.line_num, row)
        if clip.path in seen:
            raise DataError(f"{path}:{reader.line_num}: {clip.path} stands in line {seen[clip.path]} already")
        seen[clip.path] = reader.line_num
        clips.append(clip)
    return clips


def _clip_of_row(path: Path, line: int, row: dict[str | None, str | list[str] | None]) -> Clip:
    if None in row or any(value is None for value in row.values()):
        raise DataError(f"{path}:{line}: the row does not have the header's number of columns")
    value = {str(key): str(text).strip() for key, text in row.items()}
    split = value.get("split", "")
    if not value["path"] or not value["label"]:
        raise DataError(f"{path}:{line}: path and label must not be empty")
    if split not in ("", *get_args(Split)):
        raise DataError(f"{path}:{line}: split {split!r} is not known", hint="train, val, test, or empty in every row")
    video = str((path.parent / value["path"]).resolve())
    return Clip.model_validate(
        {"path": video, "label": value["label"], "split": split, "group": value.get("group") or value["path"]}
    )


def _check_splits(path: Path, clips: Sequence[Clip]) -> None:
    given = Counter(bool(clip.split) for clip in clips)
    if given[True] and given[False]:
        raise DataError(f"{path}: {given[False]} of {len(clips)} rows have no split", hint="give all of them or none")
    split_of: dict[str, str] = {}
    for clip in clips:
        if split_of.setdefault(clip.group, clip.split) != clip.split:
            raise DataError(
                f"{path}: group {clip.group} is in {split_of[clip.group]} and in {clip.split}",
                hint="clips of one group must share a split, or results mean nothing",
            )


def with_split(manifest: Manifest, *, val_share: float, test_share: float, seed: int) -> Manifest:
    """`manifest` with a split drawn where it has none: by group, stratified by class, decided by `seed`.

    Groups are dealt class by class (a group counts for its commonest class), so every class with at least three
    groups is in train and test. A group is never split.

    Raises:
        DataError: there is nothing to train on or nothing to test on, or a tested class is never trained on.
    """
    if not any(clip.split for clip in manifest.clips):
        manifest = _draw(manifest, val_share, test_share, seed)
    trained = {clip.label for clip in manifest.of("train")}
    tested = {clip.label for clip in manifest.of("test")}
    if not trained or not tested:
        raise DataError(f"the split has no {'train' if not trained else 'test'} clips", hint="add clips or a split")
    if untrained := sorted(tested - trained):
        raise DataError(f"no training clip for the class {untrained[0]}", hint="add clips, or groups, of that class")
    return manifest


def _draw(manifest: Manifest, val_share: float, test_share: float, seed: int) -> Manifest:
    members: dict[str, list[Clip]] = defaultdict(list)
    for clip in manifest.clips:
        members[clip.group].append(clip)
    groups_of: dict[str, list[str]] = defaultdict(list)
    for group, clips in members.items():
        groups_of[Counter(clip.label for clip in clips).most_common(1)[0][0]].append(group)
    split_of: dict[str, Split] = {}
    for label in sorted(groups_of):
        groups = sorted(groups_of[label])
        random.Random(f"{seed}/{label}").shuffle(groups)
        tests = _share(len(groups), test_share)
        vals = _share(len(groups) - tests, val_share) if len(groups) - tests > 1 else 0
        for place, group in enumerate(groups):
            split_of[group] = "test" if place < tests else "val" if place < tests + vals else "train"
    drawn = (clip.model_copy(update={"split": split_of[clip.group]}) for clip in manifest.clips)
    return Manifest(clips=tuple(drawn))


def _share(count: int, share: float) -> int:
    """A share of `count` rounded, at least 1 (of more than one) and never all."""
    return 0 if share == 0 or count < 2 else min(max(1, round(count * share)), count - 1)


def write(manifest: Manifest, path: Path) -> None:
    """Write `manifest` as a CSV that `load` reads back equal."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows((c.path, c.label, c.split, c.group) for c in manifest.clips)
    write_text(path, text.getvalue())
