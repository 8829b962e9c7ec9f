"""Clips from a folder per class. The names decide; nothing is opened."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from d3d_edge.errors import DataError
from d3d_edge.manifest.clips import UNWRITABLE, VIDEO_SUFFIXES, Clip


def from_folders(folder: Path) -> list[Clip]:
    """A clip for each video below each folder in `folder`, whose name is the label.

    Raises:
        DataError: there are no class folders, one is empty, a name cannot stand in a CSV, or a video is there twice.
    """
    clips: list[Clip] = []
    for class_folder in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        videos = sorted(p for p in class_folder.rglob("*") if is_video(p))
        if not videos:
            raise DataError(
                f"the class folder {class_folder} holds no video",
                hint="add clips or remove the folder; read are " + " ".join(sorted(VIDEO_SUFFIXES)),
            )
        for video in videos:
            # Relative, so that a drawn split does not change when the folder moves.
            group = video.relative_to(folder).as_posix().strip()
            path = str(video.resolve())
            if UNWRITABLE.search(path + group):
                raise DataError(f"the file name {path!r} cannot be written to a CSV", hint="rename the file")
            clips.append(Clip(path=path, label=class_folder.name.strip(), split="", group=group))
    if not clips:
        raise DataError(f"{folder} holds no class folders", hint="expected one folder per class, with videos in it")
    path, times = Counter(clip.path for clip in clips).most_common(1)[0]
    if times > 1:
        raise DataError(f"{folder} links to {path} {times} times", hint="keep one link: a clip has one label")
    return clips


def is_video(path: Path) -> bool:
    """Whether `path` is a file with a video's suffix, and not one of a system's own."""
    # A name with a leading dot is a system's own, such as the ._clip.mp4 beside each clip that macOS copied.
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".") and path.is_file()
