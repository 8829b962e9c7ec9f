"""The official split files of UCF101 and HMDB51: numbered splits of training and test videos. Opens no video.

UCF101: classInd.txt ("1 ApplyEyeMakeup"), trainlist01.txt ("ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1") and
testlist01.txt (the same without the number). HMDB51: brush_hair_test_split1.txt and so on, a file a class and split,
with lines "name.avi 1" where 0 is not used, 1 is training and 2 is test.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

from d3d_edge.errors import DataError
from d3d_edge.manifest.clips import Clip, Split, gathered, refuse_unwritable
from d3d_edge.manifest.table import check_splits, text_of
from d3d_edge.resources import near_miss

Kind = Literal["ucf101", "hmdb51"]
_UCF_LIST = re.compile(r"(train|test)list(\d+)\.txt")
_UCF_GROUP = re.compile(r".*_(g\d+)_c\d+")
_HMDB_LIST = re.compile(r"([^.].*)_test_split(\d+)\.txt")
_HMDB_SPLIT: dict[str, Split | Literal[""]] = {"0": "", "1": "train", "2": "test"}


def kind_of(folder: Path) -> Kind | None:
    """Which set's split files `folder` holds, if any."""
    names = [path.name for path in folder.iterdir() if path.suffix == ".txt"]
    if "classInd.txt" in names or any(map(_UCF_LIST.fullmatch, names)):
        return "ucf101"
    return "hmdb51" if any(map(_HMDB_LIST.fullmatch, names)) else None


def load(kind: Kind, folder: Path, videos: Path, fold: int | None) -> list[Clip]:
    """The clips of one split in `folder`; the videos are in `videos`, in class folders or flat.

    Raises:
        DataError: a line is wrong (the message has it), the split is not there, or none of its videos is.
    """
    placed = _ucf101(folder, videos, fold) if kind == "ucf101" else _hmdb51(folder, videos, fold)
    # Those that are in no split go last: a file that one line uses and another does not is a mistake too.
    clips = [clip for clip in gathered(placed) if clip.split]
    refuse_none(clips, folder, videos)
    check_splits(folder, clips)
    return clips


def refuse_none(clips: list[Clip], listed_in: Path, videos: Path) -> None:
    """An error if not one of the clips' files is there: then the folder is wrong, not a file missing."""
    if clips and not any(os.path.isfile(clip.path) for clip in clips):
        raise DataError(
            f"none of the {len(clips)} videos that {listed_in} lists is in {videos}, e.g. {Path(clips[0].path).name}",
            hint="--videos names the folder of the videos, or of their class folders",
        )


def _ucf101(folder: Path, videos: Path, fold: int | None) -> Iterator[tuple[str, Clip]]:
    lists: dict[tuple[str, int], Path] = {}
    for path in sorted(folder.iterdir()):
        if found := _UCF_LIST.fullmatch(path.name):
            lists[found[1], int(found[2])] = path
    number = _number(folder, fold, {number for _, number in lists})
    index_of = _class_index(folder / "classInd.txt")
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        if (split, number) not in lists:
            raise DataError(f"{folder} has no {split}list{number:02d}.txt", hint="a split is a train and a test list")
        path = lists[split, number]
        for line, text in lines_of(path):
            name, _, index = text.partition(" ")
            label, slash, file = name.partition("/")
            where = f"{path}:{line}"
            if not slash or not file or (split == "train") != bool(index):
                form = "Class/video.avi and the class's number" if split == "train" else "Class/video.avi"
                raise DataError(f"{where}: {text!r} is not of the form {form}")
            if label not in index_of:
                raise DataError(f"{where}: no class {label!r} in classInd.txt", hint=near_miss(label, sorted(index_of)))
            if index and index.strip() != index_of[label]:
                raise DataError(f"{where}: {label} has the number {index.strip()}, in classInd.txt {index_of[label]}")
            found = _UCF_GROUP.fullmatch(PurePosixPath(file).stem)
            # Without a group in its name, a video is its own.
            group = f"{label}_{found[1]}" if found else name
            yield where, Clip(path=_video(videos, label, file), label=label, split=split, group=group)


def _class_index(path: Path) -> dict[str, str]:
    """The number of each class, as text."""
    index_of: dict[str, str] = {}
    for line, text in lines_of(path):
        index, _, label = text.partition(" ")
        if not index.isdecimal() or not label.strip():
            raise DataError(f"{path}:{line}: {text!r} is not of the form '1 ClassName'")
        if label.strip() in index_of or index in index_of.values():
            raise DataError(f"{path}:{line}: the class {label.strip()} or the number {index} is given twice")
        index_of[label.strip()] = index
    return index_of


def _hmdb51(folder: Path, videos: Path, fold: int | None) -> Iterator[tuple[str, Clip]]:
    lists: dict[int, list[tuple[str, Path]]] = {}
    for path in sorted(folder.iterdir()):
        if found := _HMDB_LIST.fullmatch(path.name):
            lists.setdefault(int(found[2]), []).append((found[1], path))
    for label, path in lists[_number(folder, fold, set(lists))]:
        for line, text in lines_of(path):
            name, _, use = text.rpartition(" ")
            name = name.strip()
            if not name or use not in _HMDB_SPLIT:
                raise DataError(
                    f"{path}:{line}: {text!r} is not of the form 'video.avi 1'", hint="0, 1 or 2 at the end"
                )
            # The official lists keep clips of one film apart; the names do not say which film it is.
            clip = Clip(path=_video(videos, label, name), label=label, split=_HMDB_SPLIT[use], group=f"{label}/{name}")
            yield f"{path}:{line}", clip


def _number(folder: Path, fold: int | None, known: set[int]) -> int:
    number = 1 if fold is None else fold
    if number not in known:
        there = ", ".join(map(str, sorted(known))) or "none"
        raise DataError(f"{folder} has no split {number}", hint=f"--fold chooses one; there: {there}")
    return number


def _video(videos: Path, label: str, name: str) -> str:
    """The file in the class's folder; else beside the others, if it is there."""
    flat = videos / name
    # Not Path.is_file(): it raises where a name is too long, which is one more way to be missing.
    return os.path.realpath(flat if os.path.isfile(flat) else videos / label / name)


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers from 1.

    Raises:
        DataError: the file cannot be read, or a line holds a control character.
    """
    for number, line in enumerate(text_of(path).split("\n"), 1):
        if text := line.strip():
            refuse_unwritable(f"{path}:{number}", text)
            yield number, text
