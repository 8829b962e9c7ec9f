"""Training state on disk: written whole or not at all, and only read back by the run that wrote it."""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from d3d_edge.errors import DataError
from d3d_edge.files import atomic_file

FILE_NAME = "last.pt"


@dataclass
class Checkpoint:
    """The state after `epoch` finished epochs."""

    fingerprint: str
    """Hash of everything that decides the training; another one means other weights."""
    epoch: int
    model: dict[str, Any]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    history: list[dict[str, float]]
    """A row per finished epoch: loss, learning rate, seconds, and top-1 where it was measured."""

    def write(self, folder: Path) -> None:
        """Write to `folder`, replacing the checkpoint there.

        Raises:
            StorageError: it cannot be written; the earlier checkpoint is unchanged.
        """
        # torch.save to a path hides a full disk in a RuntimeError; through memory the file system's own error comes.
        buffer = io.BytesIO()
        # Not `asdict`: its copy of a state dict loses the version numbers in it, without which torchao's observers take
        # the state for an old one and reset their smallest scale.
        torch.save({field.name: getattr(self, field.name) for field in fields(self)}, buffer)
        with atomic_file(folder / FILE_NAME) as partial:
            partial.write_bytes(buffer.getbuffer())

    @classmethod
    def read(cls, folder: Path) -> Checkpoint | None:
        """The checkpoint in `folder`, or None if there is none.

        Raises:
            DataError: the file is damaged.
        """
        path = folder / FILE_NAME
        if not path.is_file():
            return None
        try:
            return cls(**torch.load(path, map_location="cpu", weights_only=True))
        except (OSError, EOFError, RuntimeError, TypeError, ValueError, pickle.UnpicklingError) as error:
            raise DataError(f"{path} is damaged", hint="delete it to train this stage again") from error
