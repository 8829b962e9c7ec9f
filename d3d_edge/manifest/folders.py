"""Clips from a folder per class, or from such folders in one a split. The names decide; nothing is opened."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from d3d_edge.errors import DataError
from d3d_edge.manifest.clips import VIDEO_SUFFIXES, Clip, Split, gathered, walked

SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""What folders of a split are called."""


def from_folders(folder: Path) -> list[Clip]:
    """A clip for each video below each class folder, whose name is the label.

    Class folders lie in `folder`, or in its folders train, val and test, which then are the split.

    Raises:
        DataError: there are no class folders, one is empty, a video lies in none, a folder beside splits is none, a
            name cannot stand in a CSV, or a video is there twice.
    """
    clips = gathered(_placed(folder))
    if not clips:
        raise DataError(f"{folder} holds no class folders", hint="expected one folder per class, with videos in it")
    return clips


def _placed(folder: Path) -> Iterator[tuple[str, Clip]]:
    for class_folder, split in _class_folders(folder):
        videos = sorted(filter(is_video, walked(class_folder)))
        if not videos:
            raise DataError(
                f"the class folder {class_folder} holds no video",
                hint="add clips, or move the folder elsewhere; read are " + " ".join(sorted(VIDEO_SUFFIXES)),
            )
        for video in videos:
            # Relative, so that a drawn split does not change when the folder moves.
            group = video.relative_to(folder).as_posix().strip()
            label = class_folder.name.strip()
            # Quoted: the name may hold what a message cannot.
            yield repr(str(video)), Clip(path=os.path.realpath(video), label=label, split=split, group=group)


def _class_folders(folder: Path) -> Iterator[tuple[Path, Split | Literal[""]]]:
    inner = _folders(folder)
    # A class may well be called "train": then a class of another name lies beside it, or it alone holds videos.
    splits = [SPLIT_NAMES.get(path.name.lower()) for path in inner]
    trains = [path for path, split in zip(inner, splits, strict=True) if split == "train"]
    others = [path for path, split in zip(inner, splits, strict=True) if split is None]
    held = [video for path, split in zip(inner, splits, strict=True) if split for video in _videos(path)]
    several = len({split for split in splits if split}) > 1
    if trains and others and several and not held:
        raise DataError(
            f"{others[0]} is no split, and lies beside folders that are, such as {trains[0].name}",
            hint="call it train, val or test, or move it elsewhere; classes go into the folders of the splits",
        )
    if trains and not others and (several or not held):
        if held:
            raise DataError(
                f"{held[0]} lies in no class folder, and {held[0].parent.name} is a split",
                hint="move it into the folder of its class; clips without a class cannot be used",
            )
        for path, split in zip(inner, splits, strict=True):
            for class_folder in _folders(path):
                yield class_folder, split or ""
    else:
        if inner and (videos := _videos(folder)):
            raise DataError(
                f"{videos[0]} lies in no class folder",
                hint="move it into the folder of its class; clips without a class cannot be used",
            )
        for class_folder in inner:
            yield class_folder, ""


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _videos(folder: Path) -> list[Path]:
    """Those that lie in `folder` itself."""
    return sorted(filter(is_video, folder.iterdir()))


def is_video(path: Path) -> bool:
    """Whether `path` is a file with a video's suffix, and not one of a system's own.

    A link that leads nowhere is one: its video is missing, which is to be told as of any clip that cannot be read.
    """
    # A name with a leading dot is a system's own, such as the ._clip.mp4 beside each clip that macOS copied.
    return (
        path.suffix.lower() in VIDEO_SUFFIXES
        and not path.name.startswith(".")
        and (path.is_file() or (path.is_symlink() and not path.exists()))
    )
