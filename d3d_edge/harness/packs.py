"""Decoded clips packed into files for a device. Decodes nothing: what comes in is what the device gets, bit for bit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from d3d_edge.errors import StorageError

PACK_BYTES = 32 * 2**20
"""A file is closed when it has this many: small enough that a copy cut short loses little."""
_MOST_BYTES = 8 * PACK_BYTES
"""Or, where there are many clips, a 32nd of those before it, but no more than this: a phone reads a file as a whole,
and the command that starts a runner has room for some 1500 names."""


@dataclass(frozen=True)
class Pack:
    """A file of clips uint8 [clips, T, H, W, C], without a header."""

    path: Path
    clips: int
    sha256: str


class Packer:
    """Writes clips into packs in `folder`, in the order they come. Holds no file open, so needs no closing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._packs: list[Pack] = []
        self._hash = hashlib.sha256()
        self._clips = self._size = 0
        self._before = 0

    def add(self, clip: NDArray[np.uint8]) -> None:
        """Add a clip uint8 [T, H, W, C].

        Raises:
            StorageError: the disk of this machine is full.
        """
        content = np.ascontiguousarray(clip).data.cast("B")
        try:
            with self._path.open("ab" if self._clips else "wb") as file:
                file.write(content)
        except OSError as error:
            raise StorageError.of(self._path, error) from error
        self._hash.update(content)
        self._clips, self._size = self._clips + 1, self._size + len(content)
        if self._size >= max(PACK_BYTES, min(self._before // 32, _MOST_BYTES)):
            self._finish()

    def through(self, clips: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
        """`clips`, each added on its way."""
        for clip in clips:
            self.add(clip)
            yield clip

    def finished(self) -> tuple[Pack, ...]:
        """All packs, in order; no clip can be added after."""
        if self._clips:
            self._finish()
        return tuple(self._packs)

    @property
    def _path(self) -> Path:
        return self._folder / f"{len(self._packs)}.clips"

    def _finish(self) -> None:
        self._packs.append(Pack(self._path, self._clips, self._hash.hexdigest()))
        self._before += self._size
        self._hash, self._clips, self._size = hashlib.sha256(), 0, 0
