"""The boxes that an MP4 or MOV is made of, for what OpenCV does not tell of them. Decodes no frame.

The format is that of ISO/IEC 14496-12; numbers are big-endian.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

FIRST = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
"""Kinds of the first box."""


class _Box(NamedTuple):
    kind: bytes
    begin: int
    """Of its content, in the file."""
    end: int


def has_index(path: Path) -> bool:
    """Whether the file holds a whole `moov`, without which no frame of it can be found (8.2.1)."""
    with path.open("rb") as file:
        whole = _whole(path)
        return any(box.kind == b"moov" and box.end <= whole.end for box in _inside(file, whole))


def is_fragmented(path: Path) -> bool:
    """Whether an MP4 announces pictures in fragments (8.8.1), which its `moov` does not count. No other format does."""
    with path.open("rb") as file:
        if file.read(8)[4:] not in FIRST:
            return False
        return _first(file, _whole(path), b"moov", b"mvex") is not None


def shown_s(path: Path) -> float:
    """How much of its pictures the edit list of a file shows (8.6.6); 0 where it does not say, and of other formats.

    A part that was cut out of a video without encoding it anew begins with the key frame before the cut, and the list
    hides what lies between.
    """
    with path.open("rb") as file:
        if file.read(8)[4:] not in FIRST:
            return 0.0
        movie = _first(file, _whole(path), b"moov")
        header = _content(file, _first(file, movie, b"mvhd"))
        steps_a_s = _number(header[20:24] if header[:1] == b"\1" else header[12:16])
        for track in _inside(file, movie) if movie else ():
            handler = _content(file, _first(file, track, b"mdia", b"hdlr"))
            if track.kind == b"trak" and handler[8:12] == b"vide":
                shown = _shown_steps(_content(file, _first(file, track, b"edts", b"elst")))
                return shown / steps_a_s if steps_a_s else 0.0
    return 0.0


def _shown_steps(edits: bytes) -> int:
    """Length of the parts of an edit list that show something: those that show nothing begin at -1."""
    wide = 8 if edits[:1] == b"\1" else 4
    size = 2 * wide + 4
    entries = [edits[place : place + size] for place in range(8, len(edits), size)][: _number(edits[4:8])]
    return sum(_number(entry[:wide]) for entry in entries if entry[wide : 2 * wide] != b"\xff" * wide)


def _whole(path: Path) -> _Box:
    return _Box(b"", 0, os.path.getsize(path))


def _inside(file: BinaryIO, outer: _Box) -> Iterator[_Box]:
    """The boxes in `outer`, of which the last may reach beyond the file where that is cut."""
    place, end = outer.begin, _end(file, outer)
    while place + 8 <= end:
        file.seek(place)
        header = file.read(16)
        length, kind, begin = _number(header[:4]), header[4:8], place + 8
        if length == 1:
            length, begin = _number(header[8:16]), place + 16
        elif length == 0:
            length = end - place
        if length < begin - place:
            return
        place += length
        yield _Box(kind, begin, place)


def _first(file: BinaryIO, outer: _Box | None, *kinds: bytes) -> _Box | None:
    """The first box of a kind in `outer`, the first of the next kind in that, and so on."""
    for kind in kinds:
        outer = next((box for box in _inside(file, outer) if box.kind == kind), None) if outer else None
    return outer


def _content(file: BinaryIO, box: _Box | None) -> bytes:
    if box is None:
        return b""
    file.seek(box.begin)
    return file.read(max(_end(file, box) - box.begin, 0))


def _end(file: BinaryIO, box: _Box) -> int:
    """Where `box` ends, or the file does: a damaged box says any length."""
    return min(box.end, os.fstat(file.fileno()).st_size)


def _number(written: bytes) -> int:
    return int.from_bytes(written, "big")
