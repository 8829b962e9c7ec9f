"""One graph, lowered to one target and written as a bundle. Chooses neither of them, and knows no run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from d3d_edge import runtimes
from d3d_edge.bundle import Bundle, Description
from d3d_edge.errors import LoweringError, StorageError
from d3d_edge.files import beside
from d3d_edge.pipeline import golden
from d3d_edge.runtimes import Lowered
from d3d_edge.target import Precision, Target

DIED = LoweringError("a process that lowered a graph died", stage="lower", hint="out of memory? try --workers 1")
"""Of the processes that share this work."""


def one_thread() -> None:
    """Prepare a process for it: lowering is Python, which keeps one core busy."""
    torch.set_num_threads(1)


def write(
    program: ExportedProgram,
    target: Target,
    path: Path,
    clips: NDArray[np.uint8],
    *,
    precision: Precision,
    describe: Callable[[Lowered], Description],
    fill: Callable[[Path], None] = lambda folder: None,
    allow_fallback: bool = False,
) -> Bundle:
    """Lower `program` and write the bundle at `path`, whole or not at all.

    It holds `clips`, uint8 [K, T, H, W, C], and what `program` says of them. `describe` makes its manifest of what
    lowering told, and `fill` writes whatever else it holds into its folder.

    Raises:
        LoweringError: the graph cannot be lowered, or would not run there.
        StorageError: the bundle cannot be written.
    """
    scratch = beside(path, "lowering")
    try:
        scratch.mkdir(parents=True)
        lowered = runtimes.get(target.runtime).lower(
            program, scratch, target, precision=precision, allow_fallback=allow_fallback
        )

        def whole(folder: Path) -> None:
            (scratch / lowered.model).rename(folder / lowered.model)
            # Before the bundle is there: nobody would look for what a kill leaves beside a whole one.
            shutil.rmtree(scratch, ignore_errors=True)
            fill(folder)
            golden.write(folder, golden.Golden(clips, _logits(program, clips)))

        return Bundle.write(path, describe(lowered), whole)
    except OSError as error:
        raise StorageError.of(path, error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@torch.no_grad()
def _logits(program: ExportedProgram, clips: NDArray[np.uint8]) -> NDArray[np.float32]:
    module = program.module()
    return np.concatenate([module(torch.from_numpy(clip)).numpy() for clip in clips])
