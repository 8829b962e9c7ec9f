"""Figures of long work, kept in a file as they are measured: after an interruption the same work goes on from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import TypeAdapter

from d3d_edge.files import read_json, write_json

T = TypeVar("T")


class Kept(Generic[T]):
    """Figures by name, of one piece of work."""

    def __init__(self, path: Path, mark: str, kind: type[T]) -> None:
        """`mark`: fingerprint of all that decides the figures. What the file at `path` holds of another is of no use,
        and no more is a damaged one."""
        self._path, self._mark = path, mark
        self._adapter = TypeAdapter(dict[str, kind])  # type: ignore[valid-type]
        self.found: dict[str, T] = {}
        try:
            kept = read_json(path)
            if kept["fingerprint"] == mark:
                self.found = self._adapter.validate_python(kept["found"])
        except (OSError, ValueError, LookupError, TypeError):
            pass

    def of(self, name: str, measure: Callable[[], T]) -> T:
        """The figure of this name, measured where it is not kept, and kept.

        Raises:
            StorageError: it cannot be written.
        """
        if name not in self.found:
            self.found[name] = measure()
            found = self._adapter.dump_python(self.found, mode="json")
            write_json(self._path, {"fingerprint": self._mark, "found": found})
        return self.found[name]
