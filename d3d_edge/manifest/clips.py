"""What a labelled clip is, and an ordered set of them. Reads and writes nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Literal

from pydantic import Field, model_validator

from d3d_edge.files import sha256_of_value
from d3d_edge.schema import Schema

Split = Literal["train", "val", "test"]
VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".3gp", ".flv"})
UNWRITABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, and what Python makes of file names that are not UTF-8: neither can stand in a line of text."""


class Clip(Schema):
    """One labelled video file, or a part of one."""

    path: str
    """Absolute path."""
    label: str
    split: Split | Literal[""]
    """Empty until a split is drawn."""
    group: str
    """What must not be in two splits (a person, a source video); the path as listed where nothing is given."""
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


def place_of(key: str) -> tuple[str, float | None, float | None]:
    """Path, start_s and end_s of a clip's key."""
    found = re.fullmatch(r"(.+)#t=([0-9.e+-]+)(?:,([0-9.e+-]+))?", key, re.DOTALL)
    if not found:
        return key, None, None
    path, start, end = found.groups()
    return path, float(start), None if end is None else float(end)


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

    def data_hash(self) -> str:
        """SHA-256 over the clips' paths below their common folder, times, labels and splits: the same wherever they
        lie."""
        root = os.path.commonpath([clip.path for clip in self.clips])
        return sha256_of_value([[os.path.relpath(c.path, root) + c.span, c.label, c.split] for c in self.clips])
