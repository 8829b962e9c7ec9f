"""A manifest as a CSV: one row a clip. Knows no data set by name."""

from __future__ import annotations

import csv
import io
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import get_args

from d3d_edge.errors import DataError
from d3d_edge.files import write_text
from d3d_edge.manifest.clips import Clip, Manifest, RealPaths, Split, gathered, refuse_unwritable

_COLUMNS = ("path", "label", "split", "group")
_TIMES = ("start_s", "end_s")
_LONGEST_S = 365 * 24 * 3600
"""A year: no video is longer, and a number without a bound makes a file name without one."""
EXPECTED = "path,label,split[,group][,start_s,end_s]"

Row = dict[str, str]


def from_csv(path: Path, videos: Path) -> list[Clip]:
    """The clips of a CSV whose relative paths begin in the folder `videos`.

    Raises:
        DataError: it cannot be read, or a row is wrong; the message has the line.
    """
    columns, rows = read_csv(path)
    if not {"path", "label"} <= set(columns) <= {*_COLUMNS, *_TIMES}:
        raise DataError(f"{path}:1: the columns are {','.join(columns)}", hint=f"expected {EXPECTED}")
    listed: dict[str, str] = {}
    real = RealPaths()
    clips = gathered((f"{path}:{line}", _clip_of_row(path, line, row, videos, listed, real)) for line, row in rows)
    check_splits(path, clips)
    return clips


def read_csv(path: Path) -> tuple[list[str], list[tuple[int, Row]]]:
    """Column names, and the rows with their line numbers, all texts without blanks around them.

    Raises:
        DataError: the file cannot be read, is not a CSV, names a column twice, or a row has too many or too few fields.
    """
    reader = csv.DictReader(io.StringIO(text_of(path)), strict=True, skipinitialspace=True)
    try:
        columns = [(name or "").strip() for name in reader.fieldnames or ()]
        if len(columns) > len(set(columns)):
            raise DataError(f"{path}:1: the columns are {','.join(columns)}", hint="a name stands there twice")
        reader.fieldnames = columns
        return columns, list(_rows(path, reader))
    except csv.Error as error:
        raise DataError(f"{path} is not a CSV file: {error}", hint="is a quote left open?") from error


def text_of(path: Path) -> str:
    """The text of a list, without a byte order mark.

    Raises:
        DataError: it cannot be read, or is in another encoding.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"cannot read {path}: {error}", hint="save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def _rows(path: Path, reader: csv.DictReader[str]) -> Iterator[tuple[int, Row]]:
    for row in reader:
        if None in row or any(value is None for value in row.values()):
            raise DataError(f"{path}:{reader.line_num}: the row does not have the header's number of columns")
        stripped = {name: text.strip() for name, text in row.items()}
        refuse_unwritable(f"{path}:{reader.line_num}", *stripped.values())
        yield reader.line_num, stripped


def _clip_of_row(
    path: Path, line: int, row: Row, videos: Path, listed: dict[str, str], real: Callable[[str], str]
) -> Clip:
    """`listed` has how each file was first listed: its group, however it is spelled elsewhere."""
    split = row.get("split", "")
    if not row["path"] or not row["label"]:
        raise DataError(f"{path}:{line}: path and label must not be empty")
    if "://" in row["path"]:
        raise DataError(f"{path}:{line}: {row['path']} is an address", hint="clips are read from files: download them")
    if split not in ("", *get_args(Split)):
        raise DataError(f"{path}:{line}: split {split!r} is not known", hint="train, val, test, or empty in every row")
    start_s, end_s = (seconds(path, line, row, name) for name in _TIMES)
    check_times(path, line, start_s, end_s)
    file = real(os.path.join(videos, row["path"]))
    return Clip.model_validate(
        {
            "path": file,
            "label": row["label"],
            "split": split,
            "group": row.get("group") or listed.setdefault(file, row["path"]),
            "start_s": start_s,
            "end_s": end_s,
        }
    )


def seconds(path: Path, line: int, row: Row, name: str) -> float | None:
    """A time of a row; none where it is empty.

    Raises:
        DataError: it is not a number, is negative, or is more than a year.
    """
    text = row.get(name, "")
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= _LONGEST_S:
        raise DataError(
            f"{path}:{line}: {name} {text!r} is not a time",
            hint="seconds from the start of the video, a year of them at most",
        )
    return value


def check_times(path: Path, line: int, start_s: float | None, end_s: float | None) -> None:
    """Refuse a clip that ends before it begins."""
    if end_s is not None and end_s <= (start_s or 0):
        raise DataError(f"{path}:{line}: the clip ends at {end_s:g} s and begins at {start_s or 0:g} s")


def check_splits(path: Path, clips: Sequence[Clip]) -> None:
    """Refuse a list in which some clips have a split and others none, or a group is in two splits."""
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


def as_csv(manifest: Manifest) -> str:
    """`manifest` as a CSV that `load` reads back equal. Columns for times stand there if a clip has any."""
    times = _TIMES if any(clip.span for clip in manifest.clips) else ()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*_COLUMNS, *times))
    for clip in manifest.clips:
        row = [clip.path, clip.label, clip.split, clip.group]
        writer.writerow(row + [_text(time) for time in (clip.start_s, clip.end_s)] if times else row)
    return text.getvalue()


def write(manifest: Manifest, path: Path) -> None:
    """Write `manifest` to a CSV, as `as_csv` has it.

    Raises:
        StorageError: it cannot be written; what was there before is unchanged.
    """
    write_text(path, as_csv(manifest))


def _text(time_s: float | None) -> str:
    return "" if time_s is None else repr(time_s)
