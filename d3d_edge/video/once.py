"""What takes reading a whole video, found once while the file stays as it is: many clips may be parts of one film."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import lru_cache, wraps
from pathlib import Path
from typing import NamedTuple, TypeVar

T = TypeVar("T")

SETTLED_NS = 2_000_000_000
"""A file that was written within that time may be written again and tell the same times: FAT's are of 2 s."""


class State(NamedTuple):
    """What changes with the bytes of a file, or is another where another file took its place."""

    size_bytes: int
    modified_ns: int
    changed_ns: int
    """Of the inode: programs set the other one back, as copies do, and not this one."""
    inode: int

    @classmethod
    def of(cls, found: os.stat_result) -> State:
        """Of what `os.stat` says."""
        return cls(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)

    @property
    def is_settled(self) -> bool:
        """Whether a file of this state still has the bytes that it had."""
        return time.time_ns() - max(self.modified_ns, self.changed_ns) > SETTLED_NS


def once(keep: int) -> Callable[[Callable[[Path], T]], Callable[[Path], T]]:
    """Remember what a function of a file found, of the last `keep` files."""

    def decorated(find: Callable[[Path], T]) -> Callable[[Path], T]:
        remembered = lru_cache(maxsize=keep)(lambda path, _: find(path))

        @wraps(find)
        def found(path: Path) -> T:
            try:
                state = State.of(os.stat(path))
            except OSError:
                return find(path)  # which says what is wrong
            return remembered(path, state) if state.is_settled else find(path)

        return found

    return decorated
