"""Training state on disk: written whole or not at all, and only read back by the run that wrote it."""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from d3d_edge.errors import DataError
from d3d_edge.files import DAMAGED, damaged_part, delete, write_bytes

Which = Literal["last", "best"]
"""The newest checkpoint, last.pt; or the one with the highest top-1 on held-out clips, the earliest such, best.pt."""


@dataclass
class Checkpoint:
    """The state after `epoch` finished epochs, or within the next one."""

    fingerprint: str
    """Hash of everything that decides the training; another one means other weights."""
    epoch: int
    model: dict[str, Any]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    history: list[dict[str, float]]
    """A row per finished epoch: loss, learning rate, seconds, clips a second, the share of training spent waiting
    for data, and top-1 where it was measured."""
    processes: int = 1
    """How many processes trained together."""
    keep: Which = "last"
    """Which checkpoint of the folder the recipe goes on with."""
    within: dict[str, float] = field(default_factory=dict)
    """Of the epoch that is not finished (`loop`); empty after one."""

    @property
    def is_best(self) -> bool:
        """Whether the newest epoch has the highest top-1 so far."""
        *before, newest = (row.get("top1", -1.0) for row in self.history)
        return newest > max(before, default=-1.0)

    def weights_hash(self) -> str:
        """SHA-256 of the model's tensors, by name: the same settings may have trained others on other hardware."""
        digest = hashlib.sha256()
        for name, value in sorted(self.model.items()):
            if isinstance(value, torch.Tensor):
                digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
                digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def write(self, folder: Path, which: Which = "last") -> None:
        """Write to `folder`, replacing the checkpoint there.

        Raises:
            StorageError: it cannot be written; the earlier checkpoint is unchanged.
        """
        buffer = io.BytesIO()
        # Not `asdict`: its copy of a state dict loses the version numbers in it, without which torchao's observers take
        # the state for an old one and reset their smallest scale.
        torch.save({one.name: getattr(self, one.name) for one in fields(self)}, buffer)
        write_bytes(_path(folder, which), buffer.getbuffer())

    @classmethod
    def read(cls, folder: Path, which: Which = "last") -> Checkpoint | None:
        """The checkpoint in `folder`, or None if there is none.

        Raises:
            DataError: the file is damaged, or may not be read.
        """
        path = _path(folder, which)
        if not path.is_file():
            return None
        try:
            with path.open("rb") as file:
                file.read(1)
        except OSError as error:  # which need not last, so nobody is told to delete it
            raise DataError(f"cannot read {path}: {error.strerror or error}") from error
        try:
            if part := damaged_part(path):
                raise zipfile.BadZipFile(part)
            return cls(**torch.load(path, map_location="cpu", weights_only=True))
        except DAMAGED as error:
            raise DataError(f"{path} is damaged", hint="delete it to train this stage again") from error

    @classmethod
    def kept(cls, folder: Path) -> Checkpoint | None:
        """The checkpoint of a finished run that its recipe goes on with, or None if there is none.

        Raises:
            DataError: a file is damaged.
        """
        last = cls.read(folder)
        return cls.read(folder, "best") if last and last.keep == "best" else last


def discard(folder: Path) -> None:
    """Delete the checkpoints in `folder`.

    Raises:
        StorageError: they cannot be deleted.
    """
    for which in get_args(Which):
        delete(_path(folder, which))


def _path(folder: Path, which: Which) -> Path:
    return folder / f"{which}.pt"
