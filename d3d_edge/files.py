"""Files written whole or not at all, and their hashes. Knows nothing of what is in them."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import re
import secrets
import shlex
import shutil
import stat
import struct
import time
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from d3d_edge.errors import StorageError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_FORSAKEN_S = 3600.0
"""What is being written is written to more often than that, by whatever machine shares the folder."""

_NO_ARCHIVE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, ValueError)

DAMAGED = (
    *(OSError, EOFError, RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError),
    *(MemoryError, OverflowError),  # of a header that tells of 10**15 numbers
    *(pickle.UnpicklingError, struct.error, zipfile.BadZipFile, zlib.error),
    *(SyntaxError, tokenize.TokenError),  # of NumPy's header, which is written as Python
)
"""What PyTorch and NumPy raise for a damaged file of tensors, PyTorch's old format among them: no check comes first."""


@contextmanager
def atomic_file(path: Path, *, lasting: bool = True) -> Iterator[Path]:
    """Yield a path beside `path` to write to; it takes `path`'s place only if the block ends without an error.

    Where `path` is a link, all this is done to the file that it leads to. `lasting` waits until the bytes are on the
    disk, so that not even a loss of power leaves an empty file. Without it, a small file takes a fifth of the time: for
    what is checked when it is opened and can be made again.

    Raises:
        StorageError: `path` is no regular file, or the file system refused (full, read-only, no permission). `path`
            is as it was before.
    """
    place = _place_of(path)
    partial = beside(place, "partial")
    try:
        yield partial
        if lasting:
            _sync(partial)
        os.replace(partial, place)
    except OSError as error:
        raise StorageError.of(path, error) from error
    finally:
        with suppress(OSError):  # the error that brought us here is the one to show
            partial.unlink()


def check_writable(path: Path) -> None:
    """Try now what `atomic_file` will do to `path`, before the work whose result goes there. Makes its folder.

    Raises:
        StorageError: as `atomic_file`.
    """
    partial = beside(_place_of(path), "partial")
    try:
        partial.touch()
        partial.unlink()
    except OSError as error:
        raise StorageError.of(path, error) from error


def _place_of(path: Path) -> Path:
    """Where the file is that `path` names, which need not exist; its folder does then.

    Raises:
        StorageError: it is no regular file, which nothing may replace, or its folder cannot be made.
    """
    try:
        place = Path(os.path.realpath(path)) if path.is_symlink() else path
        place.parent.mkdir(parents=True, exist_ok=True)
        replaceable = _is_file_or_nothing(path)
    except OSError as error:
        raise StorageError.of(path, error) from error
    if not replaceable:
        raise StorageError(
            f"cannot write {path}: it is a device, a pipe, a folder or a link to itself", hint="choose a file"
        )
    return place


def _is_file_or_nothing(path: Path) -> bool:
    """Looks once: between two looks another process may put the very file there."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link to itself, which leads to nothing, and is something
            return False
        raise


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path` to fill; it takes `path`'s place only if the block ends without an error.

    A link to a folder stays one: what it leads to is replaced.

    Raises:
        StorageError: the file system refused. A folder that was at `path` is as it was before.
    """
    place = Path(os.path.realpath(path)) if path.is_symlink() else path
    partial = beside(place, "partial")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        yield partial
        for file in files_below(partial):
            _sync(file)
        while not _put(partial, place):
            pass
    except OSError as error:
        raise StorageError.of(path, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _put(folder: Path, path: Path) -> bool:
    """Move `folder` to `path`, and delete the one that was there. False if another process was faster."""
    replaced = beside(path, "replaced")
    try:
        with suppress(FileNotFoundError):
            os.replace(path, replaced)
        os.replace(folder, path)
    except BaseException as error:  # Ctrl-C between the two, too
        if isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        with suppress(OSError):  # there was none, or the new one has its place already
            os.replace(replaced, path)
        raise
    finally:
        shutil.rmtree(replaced, ignore_errors=True)
    return True


Beside = Literal["partial", "replaced", "lowering"]
"""What is hidden beside a file or folder: one half-written, one on its way out, or what its model is lowered in."""


_HIDDEN = re.compile(rf"\..+\.[0-9a-f]{{8}}\.({'|'.join(get_args(Beside))})(\.[a-z0-9]+)?")
"""What `beside` gives, for videos with the suffix that says their format. Others have hidden files as well."""


def beside(path: Path, what: Beside) -> Path:
    """A hidden name beside `path` that nobody else has: not by the process, whose number another container has too."""
    return path.parent / f".{path.name}.{secrets.token_hex(4)}.{what}"


def sweep(folder: Path) -> None:
    """Delete what killed processes left hidden in `folder` (`beside`), if nobody has written to it for an hour."""
    for left in folder.glob(".*"):
        if not _HIDDEN.fullmatch(left.name):
            continue
        with suppress(OSError):
            written_s = max(path.stat().st_mtime for path in (left, *left.rglob("*")))
            if time.time() - written_s > _FORSAKEN_S:
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def delete(path: Path) -> None:
    """Delete a file, if it is there.

    Raises:
        StorageError: it cannot be deleted.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError.of(path, error) from error


def write_bytes(path: Path, content: ReadableBuffer) -> None:
    """Write `content`, whole or not at all: what libraries write to memory, since to a path they hide a full disk.

    Raises:
        StorageError: it cannot be written; what was there before is unchanged.
    """
    with atomic_file(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all.

    Raises:
        StorageError: it cannot be written; what was there before is unchanged.
    """
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all.

    Raises:
        StorageError: it cannot be written; what was there before is unchanged.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON value in a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON.
    """
    return json_value(path.read_text(encoding="utf-8"))


def json_value(text: str) -> Any:
    """The value that JSON `text` says.

    Raises:
        ValueError: it is not JSON, or nests deeper than can be read.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it nests too deep") from None


def is_text(name: Path | str) -> bool:
    """Whether `name` is text. Libraries, and files that hold names, take no other; OpenCV crashes."""
    try:
        str(name).encode()
    except UnicodeEncodeError:
        return False
    return True


def in_shell(path: Path | str) -> str:
    """A path as a word of a command line, which no command takes for an option."""
    return shlex.quote(f"./{path}" if str(path).startswith("-") else str(path))


def files_below(folder: Path) -> list[Path]:
    """All regular files below `folder`, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    return sum(file.stat().st_size for file in files_below(path)) if path.is_dir() else path.stat().st_size


_FOLDER = 0x10
"""The bit of an archive's part that calls it a folder: PyTorch would read none of its bytes, and take what was in the
memory for them."""


def is_whole_archive(path: Path) -> bool:
    """Whether `path` is a zip archive with all that was written to it."""
    with suppress(*_NO_ARCHIVE):
        return zipfile.is_zipfile(path) and damaged_part(path) is None
    return False


def damaged_part(path: Path) -> str | None:
    """The first part of the zip archive at `path` whose bytes are not those of its checksum; None if all are.

    PyTorch writes its files as such archives, and reads them without looking at the checksums. Of other files: None.
    """
    try:
        if not zipfile.is_zipfile(path):
            return None
        with zipfile.ZipFile(path) as archive:
            folder = next((part.filename for part in archive.infolist() if part.external_attr & _FOLDER), None)
            return folder or archive.testzip()
    except _NO_ARCHIVE:
        return "the list of its parts"
    except OSError as error:
        if error.errno != errno.EINVAL:  # a list that says it begins before the file does
            raise
        return "the list of its parts"


def sha256_of_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_value(value: Any) -> str:
    """Hex SHA-256 of a JSON value in canonical form: keys sorted, no white space."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
