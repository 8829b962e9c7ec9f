"""Files of weights as names and tensors: PyTorch's state dicts and NumPy's .npz. Knows no network."""

from __future__ import annotations

import os
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from d3d_edge.errors import DataError, listed
from d3d_edge.files import DAMAGED, damaged_part

TO_NPZ = (
    'python -c "import sys, numpy, tensorflow as tf; r = tf.train.load_checkpoint(sys.argv[1]); '
    'numpy.savez(sys.argv[2], **{n: r.get_tensor(n) for n in r.get_variable_to_shape_map()})" model.ckpt weights.npz'
)
"""The command that makes an .npz of the TensorFlow checkpoint model.ckpt, whose files are model.ckpt.index and more."""

_SHOWN = 4
"""Names shown in a message; the others are counted."""


def read(path: Path) -> dict[str, Tensor]:
    """The tensors in `path`, by name.

    Raises:
        DataError: there is no such file, it is damaged, or it holds something else.
    """
    if re.search(r"\.(index|data-\d+-of-\d+)$", path.name) or os.path.isfile(f"{path}.index"):
        raise DataError(f"{path} is a TensorFlow checkpoint, which is read as .npz", hint=TO_NPZ)
    if not os.path.isfile(path):  # not Path.is_file, which raises for a name of more than 255 bytes
        raise DataError(f"there is no checkpoint {path}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch and NumPy guess aloud what a file may be; the error says what not
            if _is_npz(path):
                # Opened here, since numpy leaves a file open that it cannot read.
                with path.open("rb") as file, np.load(file, allow_pickle=False) as variables:
                    return {
                        name: _tensor(value)
                        for name in variables.files
                        if (value := variables[name]).dtype.kind not in "SU"
                    }
            held = torch.load(path, map_location="cpu", weights_only=True)
        if part := damaged_part(path):
            raise zipfile.BadZipFile(part)
    except DAMAGED as error:
        if foreign := re.search(r"[Uu]nsupported (?:global: )?GLOBAL (\S+)", str(error)):
            raise DataError(
                f"{path} holds a {foreign[1]} beside its tensors, which is code and not read",
                hint="if you trust it, torch.load it with weights_only=False and torch.save its tensors alone",
            ) from error
        if kind := _of_another_kind(path, error):
            raise DataError(
                f"{path} is {kind}, which is not read", hint="load its tensors and torch.save them as they come"
            ) from error
        raise DataError(
            f"{path} is damaged, or is neither .npz nor a state dict of tensors", hint="download or save it again"
        ) from error
    if isinstance(held, dict):
        held = _opened({str(name): value for name, value in held.items()})
        inside = [name for name, value in held.items() if _is_state(value)]
        if len(inside) > 1 and ("state_dict" not in inside or _are_alike(held["state_dict"], held, inside)):
            raise DataError(f"{path} holds more than one network: {first_of(inside)}", hint="save one of them only")
        held = held.get("state_dict", held[inside[0]] if inside else held)
    if not _is_state(held):
        raise DataError(f"{path} holds no state dict", hint="torch.save(net.state_dict(), PATH) writes one")
    return {str(name): value for name, value in held.items()}


def _is_npz(path: Path) -> bool:
    """Whether NumPy reads `path`: it is named so, or is an archive of arrays under another name."""
    if path.suffix.lower() == ".npz":
        return True
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return all(name.endswith(".npy") for name in archive.namelist())


def _opened(held: dict[str, Any]) -> dict[str, Any]:
    """`held`, or the one mapping in it that has a network, where a trainer keeps that with its settings."""
    if any(map(_is_state, (held, *held.values()))):
        return held
    nested = [value for value in held.values() if isinstance(value, dict) and any(map(_is_state, value.values()))]
    return {str(name): value for name, value in nested[0].items()} if len(nested) == 1 else held


def _of_another_kind(path: Path, error: Exception) -> str:
    """What a file is that PyTorch does not read this way, though it is whole; nothing where that is not known."""
    if "Unsupported operand 149" in str(error):  # FRAME, with which protocols 4 and 5 begin
        return "saved with pickle protocol 4 or 5"
    with suppress(OSError), path.open("rb") as file:
        start = file.read(9)
        if start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
            return "a file of safetensors"
    return ""


def _are_alike(state: dict[str, Tensor], held: dict[str, Any], names: Iterable[str]) -> bool:
    """Whether another one of `names` has tensors of all shapes of `state`, as an average of it has."""
    shapes = Counter(value.shape for value in state.values())
    others = (held[name] for name in names if held[name] is not state)
    return any(shapes <= Counter(value.shape for value in other.values()) for other in others)


def _is_state(held: Any) -> bool:
    return isinstance(held, dict) and bool(held) and all(isinstance(value, Tensor) for value in held.values())


def _tensor(variable: NDArray[Any]) -> Tensor:
    """`variable` in the order of bytes that this machine has: PyTorch takes no other."""
    if variable.dtype == np.dtype("V2"):  # how numpy.savez writes TensorFlow's bfloat16, which it does not know
        return torch.from_numpy(variable.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(variable.astype(variable.dtype.newbyteorder("="), copy=False))


def first_of(keys: Iterable[str]) -> str:
    """The first of them by name, and how many more."""
    return listed(sorted(keys), _SHOWN)
