"""What a labelled clip is, and an ordered set of them. Reads and writes nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from d3d_edge.errors import DataError
from d3d_edge.files import sha256_of_value
from d3d_edge.schema import Schema

Split = Literal["train", "val", "test"]
VIDEO_SUFFIXES = frozenset(
    {
        *(".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"),
        *(".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv"),
    }
)
_UNWRITABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Control characters, Unicode's ends of lines and paragraphs, and what Python makes of file names that are not UTF-8:
none of these can stand in a line of text."""


class Clip(Schema):
    """One labelled video file, or a part of one."""

    path: str
    """Absolute path."""
    label: str
    split: Split | Literal[""]
    """Empty until a split is drawn."""
    group: str
    """What must not be in two splits (a person, a source video); the path as first listed where nothing is given."""
    start_s: float | None = Field(default=None, ge=0)
    """Seconds of the video at which the clip begins; none: at its first frame."""
    end_s: float | None = Field(default=None, gt=0)
    """Seconds of the video before which the clip ends; none: after its last frame."""

    @model_validator(mode="after")
    def _forward(self) -> Clip:
        if self.end_s is not None and self.end_s <= (self.start_s or 0):
            raise ValueError(f"the clip ends at {self.end_s:g} s and begins at {self.start_s or 0:g} s")
        return self

    @property
    def span(self) -> str:
        """The times as a media fragment ('#t=10,20', of W3C Media Fragments URI 1.0); empty for a whole video."""
        if self.start_s is None and self.end_s is None:
            return ""
        return f"#t={self.start_s or 0:.12g}" + ("" if self.end_s is None else f",{self.end_s:.12g}")

    @property
    def key(self) -> str:
        """The path and the times: what tells one clip from another, to programs and to people."""
        return self.path + self.span


def gathered(placed: Iterable[tuple[str, Clip]]) -> list[Clip]:
    """The clips that are given, each with its place (a line of a list, or a file): a CSV of them can be read back.

    Raises:
        DataError: a clip is given twice, however it is spelled, or a name is empty or cannot stand in a CSV.
    """
    place_of_key: dict[str, str] = {}
    clips: list[Clip] = []
    for place, clip in placed:
        refuse_unwritable(place, clip.path, clip.label, clip.group)
        if not clip.label:
            raise DataError(f"{place}: its class has no name", hint="rename the folder")
        key = clip.key if clip.start_s or clip.end_s else clip.path  # from 0 s on is all of it
        if key in place_of_key:
            raise DataError(f"{place}: {clip.key} is given by {place_of_key[key]} already", hint="keep one")
        place_of_key[key] = place
        clips.append(clip)
    return clips


def refuse_unwritable(place: str, *texts: str) -> None:
    """Refuse texts that cannot stand in a line, be it of a CSV or of a bundle's labels.txt.

    Raises:
        DataError: one holds such a character; the message has its place.
    """
    if wrong := next(filter(_UNWRITABLE.search, texts), None):
        raise DataError(
            f"{place}: {wrong!r} holds a control character, a line's end or bytes that are not UTF-8", hint="rename it"
        )


def place_of(key: str) -> tuple[str, float | None, float | None]:
    """Path, start_s and end_s of a clip's key."""
    found = re.fullmatch(r"(.+)#t=([0-9.e+-]+)(?:,([0-9.e+-]+))?", key, re.DOTALL)
    if not found:
        return key, None, None
    path, start, end = found.groups()
    return path, float(start), None if end is None else float(end)


class RealPaths:
    """`os.path.realpath` of many files, each folder of which is looked at once: a list may have 250 000 files."""

    def __init__(self) -> None:
        self._folders: dict[str, str] = {}

    def __call__(self, path: str) -> str:
        folder, name = os.path.split(path)
        if name in ("", ".", ".."):
            return os.path.realpath(path)
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder)
        place = os.path.join(self._folders[folder], name)
        return os.path.realpath(place) if os.path.islink(place) else place


_FOUND_BY_FSCK = "lost+found"


def walked(folder: Path) -> Iterator[Path]:
    """The files below `folder`, sorted folder by folder; links are followed, and no folder is walked twice.

    Hidden folders are not searched, which may be a trash, nor what a check of a disk found and only root may read.

    Raises:
        OSError: a folder may not be read, whose clips would be missed.
    """
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, onerror=_raised, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != _FOUND_BY_FSCK)
        yield from (Path(place, name) for name in sorted(names))


def _raised(error: OSError) -> None:
    raise error


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

    def without(self, keys: Iterable[str]) -> Manifest:
        """All clips but those with these keys."""
        dropped = set(keys)
        return Manifest(clips=tuple(clip for clip in self.clips if clip.key not in dropped))

    def data_hash(self, *, in_order: bool = False) -> str:
        """SHA-256 over the clips' paths below their common folder, times, labels and splits: the same wherever they
        lie, and in whatever order they are listed, unless `in_order`, as in bundles of older versions."""
        root = os.path.commonpath([clip.path for clip in self.clips])
        clips = [[os.path.relpath(c.path, root) + c.span, c.label, c.split] for c in self.clips]
        return sha256_of_value(clips if in_order else sorted(clips))
