"""PyTorch itself: the graph as it is, on this machine. The reference that every other runtime is compared with."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from d3d_edge.bundle import Bundle
from d3d_edge.errors import DataError
from d3d_edge.files import size_of
from d3d_edge.quantize import graph_files
from d3d_edge.quantize.running import module_of
from d3d_edge.runner import TensorSpec, Where
from d3d_edge.runtimes import Lowered, held_to
from d3d_edge.target import Precision, Target

MODEL = "model.pt2"


class Eager:
    """The runtime `eager`; see `d3d_edge.runtimes.Runtime`."""

    precisions: tuple[Precision, ...] = ("int8", "float32")

    def check_lower(self) -> None:
        """Never raises: torch is always there."""

    def check_run(self) -> None:
        """Never raises: torch is always there."""

    def tools(self) -> dict[str, str]:
        """Versions of the packages that lowering uses."""
        return {name: metadata.version(name) for name in ("torch", "torchao")}

    def run_tools(self) -> dict[str, str]:
        """Versions of the packages that run a bundle on this machine."""
        return {name: metadata.version(name) for name in ("torch", "torchao")}

    def lower(
        self,
        program: ExportedProgram,
        folder: Path,
        target: Target,
        *,
        precision: Precision,
        allow_fallback: bool = False,
    ) -> Lowered:
        """Write `model.pt2`, which is `program` unchanged."""
        path = folder / MODEL
        graph_files.save(program, path)
        return Lowered(MODEL, {"size_bytes": size_of(path)})

    def open(self, bundle: Bundle, *, threads: int = 0) -> EagerRunner:
        """Load a bundle's graph. `threads` holds for the whole process: PyTorch has one thread pool.

        Raises:
            BundleError: the file cannot be loaded, or is not of what the manifest says.
        """
        program = graph_files.load(bundle.model_path)
        if threads:
            torch.set_num_threads(threads)
        return held_to(bundle, EagerRunner(program))


class EagerRunner:
    """A loaded graph; see `d3d_edge.runner.Runner`."""

    where = Where.HOST_TORCH

    def __init__(self, program: ExportedProgram) -> None:
        self.runtime = f"torch {torch.__version__}"
        names = program.graph_signature
        values = {node.name: node.meta["val"] for node in program.graph.nodes if "val" in node.meta}
        clip, logits = values[names.user_inputs[0]], values[names.user_outputs[0]]
        self.inputs: tuple[TensorSpec, ...] = (_spec("clip", clip.dtype, clip.shape),)
        self.outputs: tuple[TensorSpec, ...] = (_spec("logits", logits.dtype, logits.shape[1:]),)
        self._module: torch.nn.Module | None = module_of(program)

    def run(self, clip: NDArray[Any]) -> NDArray[Any]:
        """Logits float32 [classes] of `clip: uint8 [T, H, W, C] RGB`.

        Raises:
            DataError: the clip has another shape or type, or the runner is closed.
        """
        self.inputs[0].check(clip)
        if self._module is None:
            raise DataError("the model is closed")
        with torch.no_grad():
            logits: torch.Tensor = self._module(torch.from_numpy(np.require(clip, requirements=("C", "W"))))
        return logits[0].numpy()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._module = None


def _spec(name: str, dtype: torch.dtype, shape: torch.Size) -> TensorSpec:
    return TensorSpec(name=name, dtype=str(dtype).removeprefix("torch."), shape=tuple(shape))


RUNTIME = Eager()
