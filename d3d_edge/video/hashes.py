"""The SHA-256 of videos, noted beside the entries of a cache: what is there already is found without reading videos."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

from d3d_edge.errors import StorageError
from d3d_edge.files import write_text
from d3d_edge.video.once import State

FILE_NAME = "videos.jsonl"
"""In the cache: a line a video, of which the last one counts."""
_AT_ONCE = 1000
"""Lines that are written together."""


class Hashed(NamedTuple):
    """A video's hash, and the state that its file was in."""

    state: State
    sha256: str
    settled: bool = True
    """Whether the file was no longer written to when it was read."""


class Hashes:
    """The hashes of the videos of a cache.

    Several commands may add to them at once. Where they cannot be read or written, videos are read again.
    """

    def __init__(self, cache_dir: Path) -> None:
        self._path = cache_dir / FILE_NAME
        self._known: dict[str, Hashed] = {}
        self._new: list[str] = []
        self._lines = 0
        with suppress(OSError), self._path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                with suppress(ValueError, TypeError):  # half a line, where a command was killed
                    path, state, sha256 = json.loads(line)
                    self._known[path] = Hashed(State(*state), sha256)
                    self._lines += 1

    def of(self, path: str) -> Hashed | None:
        """What is noted of a video."""
        return self._known.get(path)

    def add(self, path: str, hashed: Hashed) -> None:
        """Note a video, unless its file may have been written to after it was read."""
        if self._known.get(path) != hashed and hashed.settled:
            self._known[path] = hashed
            self._new.append(_line(path, hashed))
            if len(self._new) >= _AT_ONCE:
                self.write()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.write()

    def write(self) -> None:
        """Append what was added; write all anew where most lines are of earlier states, as of a disk that numbers its
        files otherwise each time it is mounted."""
        if not self._new:
            return
        self._lines += len(self._new)
        with suppress(OSError, StorageError):
            if self._lines > 2 * len(self._known):
                write_text(self._path, "".join(f"{_line(*known)}\n" for known in self._known.items()))
                self._lines = len(self._known)
            else:
                with self._path.open("a", encoding="utf-8") as file:
                    file.write("".join(f"\n{line}" for line in self._new) + "\n")  # after half a line, too
        self._new.clear()


def _line(path: str, hashed: Hashed) -> str:
    return json.dumps([path, hashed.state, hashed.sha256])
