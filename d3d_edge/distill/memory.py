"""Keeps the memory of a step of training for the next one, where the C library is glibc. Knows no network."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
"""mallopt(3): free bytes at the end that go back to the system; from what size on a block is mapped on its own; how
many such blocks there may be."""
_AFTERWARDS = ((_MMAP_MAX, 65536), (_MMAP_THRESHOLD, 32 * 2**20), (_TRIM_THRESHOLD, 64 * 2**20))
"""Where glibc's own rule ends up in a process that has freed large blocks."""


@contextmanager
def kept() -> Iterator[None]:
    """For the block, give no freed memory back to the system; afterwards all of it.

    Left to itself, glibc gives back what one step frees, and the next step gets it page by page, each cleared first.
    On a CPU that is about a tenth of the time.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        yield
        return
    library.mallopt(_MMAP_MAX, 0)
    library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        for parameter, value in _AFTERWARDS:
            library.mallopt(parameter, value)
        library.malloc_trim(0)
