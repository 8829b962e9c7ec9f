"""Which clips there are, their labels and their split: from folders, a CSV or an official split. Decodes nothing."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from d3d_edge.errors import DataError
from d3d_edge.manifest import kinetics, official
from d3d_edge.manifest.clips import VIDEO_SUFFIXES, Clip, Manifest, Split, walked
from d3d_edge.manifest.drawing import drawn, with_split
from d3d_edge.manifest.folders import from_folders, is_video
from d3d_edge.manifest.table import EXPECTED, as_csv, from_csv, write
from d3d_edge.schema import Schema

__all__ = [
    "VIDEO_SUFFIXES",
    "Clip",
    "Manifest",
    "Source",
    "Split",
    "as_csv",
    "drawn",
    "left_aside",
    "load",
    "need",
    "with_split",
    "write",
]


_NAMED = 5
"""Suffixes that are named."""
_LIST = "manifest.csv"
"""In a folder, it says which clips there are."""


class Source(Schema):
    """Where clips are; the list and the videos may lie apart."""

    path: Path
    """A folder per class, a CSV, or the folder of official split files."""
    videos: Path | None = None
    """Where the videos are; none: beside the list."""
    fold: int | None = None
    """Which of the official splits; none: the first."""

    def __str__(self) -> str:
        return str(self.path)

    def holds(self, path: Path) -> bool:
        """Whether `path` is, or lies in, the folder that is searched for clips. Beside a list, only the list counts,
        and hidden folders are not searched."""
        folder = os.path.realpath(self.path)
        if not os.path.isdir(folder) or os.path.isfile(os.path.join(folder, _LIST)):
            return False
        inside = Path(os.path.realpath(path))
        return inside.is_relative_to(folder) and not any(part[0] == "." for part in inside.relative_to(folder).parts)


def need(source: Source) -> None:
    """Raises DataError where there is nothing at the path of `source`, or not its folder of videos. Reads no list."""
    if not os.path.exists(source.path):  # Path.is_dir() raises where a name is too long
        raise DataError(f"there is no {source.path}", hint=f"--data takes a folder per class, or a CSV {EXPECTED}")
    if source.videos is not None and not source.videos.is_dir():
        raise DataError(f"there is no folder {source.videos}", hint="--videos takes the folder of the videos")


def load(data: Path | Source, *, classes: int = 2) -> Manifest:
    """The clips of `data`, of at least so many classes. What it is, its own files say:

    - a CSV with the columns path,label,split[,group][,start_s,end_s], or a folder that holds it as manifest.csv;
    - a Kinetics CSV label,youtube_id,time_start,time_end,split, or a folder of such (`kinetics`);
    - the folder of the split files of UCF101 or HMDB51 (`official`);
    - else, a folder per class, or folders train, val and test that hold such (`folders`).

    Clips of an official list are given whether or not their files are there; that some are missing is found when
    they are read, as for a damaged file.

    Raises:
        DataError: nothing is there, a class folder is empty, there are fewer classes, a line is wrong, or not one of
            an official list's videos is there.
    """
    source = data if isinstance(data, Source) else Source(path=data)
    manifest = Manifest(clips=tuple(_clips(source)))
    if not manifest.clips:
        raise DataError(
            f"{source} lists no clip", hint="a clip a line: its path, its label, and its split if it has one"
        )
    if len(manifest.labels) < classes:
        raise DataError(
            f"{source} holds one class only: {manifest.labels[0]}", hint="recognition needs at least two classes"
        )
    return manifest


def left_aside(data: Path | Source, found: Manifest) -> str:
    """What somebody may take for clips of `data` and is none of those `found`: a line for people, or nothing."""
    path = data.path if isinstance(data, Source) else data
    if not path.is_dir() or official.kind_of(path) or kinetics.lists_in(path):
        return ""
    if (path / _LIST).is_file():
        listed = {os.path.realpath(clip.path) for clip in found.clips}
        others = [file for file in walked(path) if is_video(file) and os.path.realpath(file) not in listed]
        return f"videos in {path} that {_LIST} does not list: {len(others)}, e.g. {others[0]}" if others else ""
    suffixes: Counter[str] = Counter()
    for file in walked(path):
        parts = file.relative_to(path).parts
        if len(parts) > 1 and not is_video(file) and not any(part.startswith(".") for part in parts):
            suffixes[file.suffix.lower() or "none"] += 1
    counted = ", ".join(f"{suffix} ({many})" for suffix, many in suffixes.most_common(_NAMED))
    return f"files in {path} that are no clips by their suffix: {suffixes.total()}, {counted}" if suffixes else ""


def _clips(source: Source) -> list[Clip]:
    need(source)
    path = source.path
    if path.is_dir() and (path / _LIST).is_file():
        path = path / _LIST
    if path.is_dir():
        beside = source.videos or path
        if kind := official.kind_of(path):
            return official.load(kind, path, beside, source.fold)
        _refuse_fold(source)
        if lists := kinetics.lists_in(path):
            return kinetics.load(lists, beside)
        if source.videos is not None:
            raise DataError(f"{path} holds no split files for the videos in {source.videos}", hint="leave out --videos")
        return from_folders(path)
    if path.is_file() and path.suffix.lower() == ".csv":
        _refuse_fold(source)
        beside = source.videos or path.parent
        return kinetics.load([path], beside) if kinetics.is_list(path) else from_csv(path, beside)
    raise DataError(f"{path} is neither a folder nor a .csv manifest", hint="--data takes one of the two; see --help")


def _refuse_fold(source: Source) -> None:
    if source.fold is not None:
        raise DataError(f"{source} is no set with numbered splits", hint="--fold goes with UCF101 and HMDB51")
