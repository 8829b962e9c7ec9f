"""Silence around torch's graph capture and what reads its graphs: notes to these libraries' own developers."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from d3d_edge.quantize.origin import origins_shared, sources_left_out
from d3d_edge.quantize.quick_graphs import written_when_asked_for


@contextmanager
def quiet(library: str, level: int = logging.ERROR) -> Iterator[None]:
    """Without warnings of deprecation, and without what the logger of `library` says below `level`.

    Faster as well: what torch notes of a graph for its developers is not made (`origin`), and its code when it is asked
    for (`quick_graphs`).
    """
    log = logging.getLogger(library)
    before = log.level
    log.setLevel(level)
    try:
        with warnings.catch_warnings(), origins_shared(), sources_left_out(), written_when_asked_for():
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        log.setLevel(before)
