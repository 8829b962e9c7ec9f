"""Kinetics lists: rows label,youtube_id,time_start,time_end,split[,is_cc], and the files they mean. Opens no video.

A file is a clip cut beforehand, ID_SSSSSS_EEEEEE.mp4 with both times in six digits, or a whole video ID.mp4, of which
the clip is the time from time_start to time_end. Files lie flat or in folders below one folder.
"""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from d3d_edge.errors import DataError
from d3d_edge.manifest.clips import VIDEO_SUFFIXES, Clip, RealPaths, Split, gathered, walked
from d3d_edge.manifest.official import refuse_none
from d3d_edge.manifest.table import Row, check_splits, check_times, read_csv, seconds
from d3d_edge.resources import near_miss

_COLUMNS = ("label", "youtube_id", "time_start", "time_end", "split")
_SPLIT: dict[str, Split] = {"train": "train", "val": "val", "validate": "val", "validation": "val", "test": "test"}
"""Published lists say val or validate."""


def is_list(path: Path) -> bool:
    """Whether a CSV is a Kinetics list: its header says so."""
    return bool(_is_list(path))  # what cannot be read is told when it is


def lists_in(folder: Path) -> list[Path]:
    """The Kinetics lists in a folder, e.g. train.csv and val.csv.

    Beside a list stand CSVs that cannot be read too: one of them may be its other half.
    """
    found = {path: _is_list(path) for path in sorted(folder.glob("*.csv")) if path.is_file()}
    return [path for path, listed in found.items() if listed is not False] if any(found.values()) else []


def _is_list(path: Path) -> bool | None:
    """None where the file cannot be read, or is in another encoding."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = next(csv.reader(file, skipinitialspace=True), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return None
    return "youtube_id" in [name.strip() for name in header]


def load(lists: Sequence[Path], videos: Path) -> list[Clip]:
    """The clips of all `lists`, whose files are anywhere below `videos`.

    Where no row is of the split test, those of val are the test clips: Kinetics keeps the labels of its test split to
    itself, and results are given on val. So a list of test rows without labels is left out, if there are others.

    Raises:
        DataError: a row is wrong (the message has its line), or none of the videos is there; or none of the split test,
            where val could be measured.
    """
    clips = gathered(_placed(lists, videos))
    listed_in = lists[0] if len(lists) == 1 else lists[0].parent
    refuse_none(clips, listed_in, videos)
    check_splits(listed_in, clips)
    tested, validated = ([clip for clip in clips if clip.split == split] for split in ("test", "val"))
    if not tested:
        return [clip.model_copy(update={"split": "test"}) if clip.split == "val" else clip for clip in clips]
    if validated and not any(os.path.isfile(clip.path) for clip in tested):
        raise DataError(
            f"{listed_in}: none of the {len(tested)} videos of the split test is below {videos}",
            hint="leave its rows out, and those of val are the test clips",
        )
    return clips


def _placed(lists: Sequence[Path], videos: Path) -> Iterator[tuple[str, Clip]]:
    files, real = _files_below(videos), RealPaths()
    tables = [(path, *read_csv(path)) for path in lists]
    for path, columns, rows in [table for table in tables if not _withheld(table[2])] or tables:
        if missing := [name for name in _COLUMNS if name not in columns]:
            raise DataError(f"{path}:1: the column {missing[0]} is missing", hint=f"expected {','.join(_COLUMNS)}")
        for line, row in rows:
            yield f"{path}:{line}", _clip(path, line, row, videos, files, real)


def _withheld(rows: list[tuple[int, Row]]) -> bool:
    """Whether these are test rows without labels."""
    return all(row.get("split") == "test" and not row.get("label") for _, row in rows)


def _clip(
    path: Path, line: int, row: Row, videos: Path, files: dict[str, list[Path]], real: Callable[[str], str]
) -> Clip:
    where = f"{path}:{line}"
    label, video_id = row["label"], row["youtube_id"]
    if not label or not video_id or "/" in video_id:
        raise DataError(f"{where}: label and youtube_id must not be empty, and the id must be a file's name")
    if row["split"] not in _SPLIT:
        raise DataError(f"{where}: split {row['split']!r} is not known", hint=near_miss(row["split"], list(_SPLIT)))
    start_s, end_s = (seconds(path, line, row, name) for name in ("time_start", "time_end"))
    if start_s is None or end_s is None:
        raise DataError(f"{where}: time_start and time_end must not be empty")
    check_times(path, line, start_s, end_s)
    cut = f"{video_id}_{int(start_s):06d}_{int(end_s):06d}"
    found, whole = _best(files.get(cut), label), _best(files.get(video_id), label)
    untrimmed = found is None and whole is not None
    return Clip(
        # Neither is there: named like a cut file, it is skipped when it is read.
        path=real(str(found or whole or videos / label / f"{cut}.mp4")),
        label=label,
        split=_SPLIT[row["split"]],
        group=video_id,
        start_s=start_s if untrimmed else None,
        end_s=end_s if untrimmed else None,
    )


def _files_below(folder: Path) -> dict[str, list[Path]]:
    """Video files by their names without suffix. One walk: asking for each of 300,000 files takes longer."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in walked(Path(os.path.realpath(folder))):
        if path.suffix.lower() in VIDEO_SUFFIXES:
            found[path.stem].append(path)
    return found


def _best(candidates: list[Path] | None, label: str) -> Path | None:
    """Of files with one name, the one in the folder of its class."""
    if not candidates:
        return None
    names = (label, label.replace(" ", "_"))
    return next((path for path in candidates if path.parent.name in names), candidates[0])
