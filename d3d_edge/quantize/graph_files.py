"""Graphs as files: torch's ExportedProgram, float or INT8, written and read."""

from __future__ import annotations

import io
import logging
import warnings
from pathlib import Path
from zipfile import BadZipFile

import torch
import torch.ao.quantization.fx._decomposed  # It registers the operators that quantize and dequantize.
from torch.export import ExportedProgram

from d3d_edge.errors import BundleError, first_line
from d3d_edge.files import damaged_part, write_bytes
from d3d_edge.quantize.quick_files import hints_kept, written_without_trial
from d3d_edge.quantize.quiet import quiet


def save(program: ExportedProgram, path: Path) -> None:
    """Write `program` as a .pt2 file, whole or not at all.

    Raises:
        StorageError: it cannot be written.
    """
    buffer = io.BytesIO()
    with quiet("torch.export", logging.CRITICAL), written_without_trial():
        torch.export.save(program, buffer)
    write_bytes(path, buffer.getbuffer())


def load(path: Path) -> ExportedProgram:
    """The program that `save` wrote.

    Raises:
        BundleError: the file is missing, damaged or of another PyTorch format.
    """
    try:
        if part := damaged_part(path):
            raise BadZipFile(f"its part {part} is damaged")
        with quiet("torch.export", logging.CRITICAL), hints_kept(), path.open("rb") as file:
            # torch 2.11 reads weights in place and warns that they must not be written to, which nobody does.
            warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
            return torch.export.load(file)
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, AssertionError, BadZipFile) as error:
        raise BundleError(f"{path} is not a readable graph: {first_line(error)}") from error
