"""Progress that keeps what it is told."""

from __future__ import annotations

from d3d_edge.progress import Silent


class Notes(Silent):
    """Keeps what is noted."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)
