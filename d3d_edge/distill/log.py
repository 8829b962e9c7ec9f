"""The log of a stage: log.jsonl, and TensorBoard events where tensorboard is installed. Measures nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from d3d_edge.distill import distributed
from d3d_edge.errors import StorageError
from d3d_edge.files import write_text
from d3d_edge.progress import Progress

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FILE_NAME = "log.jsonl"


class Log:
    """What a run of the loop leaves to read; nothing in a process that is not the main one.

    The x-axis of TensorBoard is the optimiser's step, from 1. After a kill the steps above `done` come once more;
    TensorBoard then shows the later ones.
    """

    def __init__(self, folder: Path, done: int) -> None:
        self._folder = folder
        self._done = done
        self._events: SummaryWriter | None = None
        self._hook = threading.excepthook

    def __enter__(self) -> Self:
        self._hook, threading.excepthook = threading.excepthook, self._of_a_thread
        return self

    def __exit__(self, *exc_info: object) -> None:
        try:
            if self._events:
                with self._storage():
                    self._events.close()
        finally:
            threading.excepthook = self._hook

    def _of_a_thread(self, raised: threading.ExceptHookArgs) -> None:
        # TensorBoard's thread keeps what it could not write for the next call of the writer, which raises it again.
        if not type(raised.thread).__module__.startswith("tensorboard."):
            self._hook(raised)

    def step(self, step: int, loss: float, learning_rate: float) -> None:
        """One step of the optimiser."""
        self._scalars(step, {"step/loss": loss, "step/learning_rate": learning_rate})

    def epoch(self, step: int, history: Sequence[dict[str, float]]) -> None:
        """The end of an epoch, at which `history` has a row per epoch. On disk when this returns.

        Raises:
            StorageError: it cannot be written.
        """
        write_text(self._folder / FILE_NAME, "".join(_line(row) for row in history))
        self._scalars(step, {f"epoch/{name}": value for name, value in history[-1].items() if name != "epoch"})
        if self._events:
            with self._storage():
                self._events.flush()

    def _scalars(self, step: int, values: dict[str, float]) -> None:
        if not distributed.is_main():
            return
        with self._storage():
            # Not before there is something to write: a run that was finished before gets no more files.
            if self._events is None and (writer := _writer()):
                self._events = writer(str(self._folder), purge_step=self._done + 1)
            if self._events:
                for name, value in values.items():
                    self._events.add_scalar(name, value, step)

    @contextmanager
    def _storage(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError.of(self._folder, error) from error


def note_what_is_missing(progress: Progress) -> None:
    """Say, where it is so, that there will be no TensorBoard events."""
    if _writer() is None:
        progress.note(f"curves go to {FILE_NAME} only: tensorboard is not installed (pip install 'd3d-edge[train]')")


def _writer() -> Any:
    """The class that writes TensorBoard events, or None where tensorboard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter


def _line(row: dict[str, float]) -> str:
    values = ", ".join(f'"{key}": {value:.6g}' for key, value in row.items())
    return "{" + values + "}\n"
