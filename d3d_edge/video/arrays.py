"""The two arrays of a cache entry as files: raw .npy, or lossless .png. Both give back the same bits, or none.

A .npy has the CRC-32 of its file's name and of its numbers behind them, where other readers do not look, and a .png
that of its name: an entry in another's place is no entry. Older versions wrote none of names. A .png holds the T
pictures one below the other: frames as 8-bit RGB, and flow as 16-bit grey, the bits of its float16 numbers, x in the
left half and y in the right. A figure is written as such a picture too. Knows nothing of videos.
"""

from __future__ import annotations

import io
import math
import struct
import tokenize
import zlib
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from d3d_edge.errors import DataError
from d3d_edge.files import atomic_file, write_bytes

Form = Literal["raw", "compressed"]
SUFFIXES: dict[Form, str] = {"raw": ".npy", "compressed": ".png"}

_RAW_START = 10
"""Bytes of an .npy file of version 1.0 before its header, whose length is in the last two."""
_SUM = struct.Struct("<I")
_PACKED = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE)
"""How zlib packs. Level 6 saves another tenth of the frames' bytes and takes four times as long. Neither frames nor
flow repeat themselves but in runs, and looking for more takes flow 1.4 times as long and makes it 3 % larger."""
_HEAD = struct.Struct(">8s4x4sIIBB3x")
"""Signature, length and name of the first chunk, width, height, bits, colour type (PNG specification, 5.2, 11.2.2)."""
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
"""The last chunk of every PNG."""
_RGB, _GREY = 2, 0
_UNREADABLE = (OSError, ValueError, EOFError, SyntaxError, tokenize.TokenError, struct.error)
"""What numpy raises for a missing, cut or garbled .npy file, and reading a header of a .png."""


class Header(NamedTuple):
    """What an array's file promises."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]


def form_of(path: Path) -> Form:
    """How the file at `path` is written, by its suffix."""
    return "raw" if path.suffix == SUFFIXES["raw"] else "compressed"


def write(path: Path, array: npt.NDArray[Any]) -> None:
    """Write frames uint8 [T, h, w, 3] or flow float16 [T, h, w, 2], whole or not at all; the suffix says how.

    Raises:
        DataError: it is too large for a .png.
        StorageError: the file system refused.
    """
    with atomic_file(path, lasting=False) as partial, partial.open("wb") as file:
        if form_of(path) == "raw":
            # Not `np.save`: when the disk is full, it loses the error code that StorageError explains.
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
            numbers = np.ascontiguousarray(array).data
            file.write(numbers)
            file.write(_SUM.pack(zlib.crc32(numbers, _of_name(path))))
        else:
            file.write(png_of(array).data)
            file.write(_SUM.pack(_of_name(path)))


def read(path: Path, count: int) -> npt.NDArray[Any]:
    """The array of `count` pictures at `path`, not to be written to. A file that is damaged is deleted.

    Raises:
        DataError: the file is damaged, or cannot be read.
    """
    try:
        array = _raw(path) if form_of(path) == "raw" else _compressed(path, count)
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror or error}", hint="what is missing is made anew by the same command"
        ) from error
    except (*_UNREADABLE, cv2.error) as error:
        with suppress(OSError):  # of a cache that is not to be written, too
            path.unlink()
        left = "it is damaged; delete it and" if path.exists() else "it was damaged, and is deleted;"
        raise DataError(f"{path}: {left} run the same command again, which makes it anew") from error
    array.flags.writeable = False
    return array


def header(path: Path, count: int) -> Header | None:
    """What the file at `path` holds, without reading it all; None where it is missing, cut or of another format."""
    try:
        if form_of(path) == "raw":
            with path.open("rb") as file:
                found = _raw_header(file)
                left_bytes = path.stat().st_size - file.tell()
            return found if left_bytes == math.prod(found.shape) * found.dtype.itemsize + _SUM.size else None
        with path.open("rb") as file:
            signature, name, width, rows, bits, colour = _HEAD.unpack(file.read(_HEAD.size))
            file.seek(-len(_END) - _SUM.size, 2)
            if (signature, name) != (_SIGNATURE, b"IHDR") or not _is_whole(file.read(), path) or rows % count:
                return None
    except _UNREADABLE:
        return None
    if (bits, colour) == (8, _RGB):
        return Header(np.dtype(np.uint8), (count, rows // count, width, 3))
    if (bits, colour) == (16, _GREY) and width % 2 == 0:
        return Header(np.dtype(np.float16), (count, rows // count, width // 2, 2))
    return None


def png_of(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The bytes of the .png of frames uint8 [T, h, w, 3] or flow float16 [T, h, w, 2].

    Raises:
        DataError: libpng does not write one so large: of more than a million rows, T x h.
    """
    count, height, width, _ = array.shape
    if array.dtype == np.uint8:
        picture = np.ascontiguousarray(array[..., ::-1])  # OpenCV takes BGR
        picture = picture.reshape(count * height, width, 3)
    else:
        bits = np.ascontiguousarray(array).view(np.uint16)
        picture = np.concatenate([bits[..., 0], bits[..., 1]], axis=2).reshape(count * height, 2 * width)
    done, data = cv2.imencode(".png", picture, _PACKED)
    if not done:
        raise DataError(
            f"{count} pictures of {height}x{width} are too large for one .png", hint="leave them uncompressed"
        )
    return np.asarray(data, dtype=np.uint8)


def write_picture(path: Path, picture: npt.NDArray[np.uint8]) -> None:
    """Write a picture uint8 [h, w, 3] as a .png to look at, packed by OpenCV's own choice, whole or not at all.

    Raises:
        StorageError: the file system refused.
    """
    _, data = cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]))
    write_bytes(path, data.tobytes())


def _picture(path: Path) -> npt.NDArray[Any]:
    """The picture in a .png; raises one of `_UNREADABLE` if it is damaged."""
    picture = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise ValueError(f"{path} is no whole .png")
    return picture


def _compressed(path: Path, count: int) -> npt.NDArray[Any]:
    """The array in a .png; raises one of `_UNREADABLE` if it is damaged, or another's."""
    with path.open("rb") as file:
        file.seek(-len(_END) - _SUM.size, 2)
        if not _is_whole(file.read(), path):
            raise ValueError(f"{path} does not end as it was written")
    return _array_of(_picture(path), count)


def _of_name(path: Path) -> int:
    return zlib.crc32(path.name.encode())


def _is_whole(end: bytes, path: Path) -> bool:
    """Whether `end`, with which a .png ends, is that of one written to `path`, or by an older version."""
    return end.endswith(_END) or end == _END + _SUM.pack(_of_name(path))


def _array_of(picture: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    if picture.ndim == 3:
        frames: npt.NDArray[Any] = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
        return frames.reshape(count, -1, picture.shape[1], 3)
    x, y = np.split(picture.reshape(count, -1, picture.shape[1]), 2, axis=2)
    return np.stack([x, y], axis=-1).view(np.float16)


def _raw(path: Path) -> npt.NDArray[Any]:
    """The array in an .npy file; raises one of `_UNREADABLE` if it is damaged.

    Not as a memory map: threads that read through maps wait for one another at every page that the system brings in.
    """
    with path.open("rb", buffering=0) as file:
        header = _raw_header(file)
        array = np.empty(header.shape, header.dtype)
        rest = array.data.cast("B")
        while rest:  # Linux reads 2 GiB at once, some file systems less
            if not (count := file.readinto(rest)):
                raise EOFError(f"{path} is shorter than its header says")
            rest = rest[count:]
        found = file.read(_SUM.size + 1)
        starts = (_of_name(path), 0)  # 0: of an older version
        if not any(found == _SUM.pack(zlib.crc32(array.data, start)) for start in starts):
            raise ValueError(f"{path} has another checksum than its name and numbers")
    return array


def _raw_header(file: BinaryIO | io.RawIOBase) -> Header:
    start = file.read(_RAW_START) or b""
    return _parsed(start + (file.read(int.from_bytes(start[-2:], "little")) or b""))


@lru_cache
def _parsed(header: bytes) -> Header:
    """All that stands before the numbers of an .npy file. The entries of a cache have few different ones."""
    file = io.BytesIO(header)
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"an .npy file of version {version}")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if fortran or dtype not in (np.uint8, np.float16):
        raise ValueError(f"an array of {dtype}, or in another order")
    return Header(dtype, shape)
