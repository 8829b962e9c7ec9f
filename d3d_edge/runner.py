"""The seam between the harness and whoever runs a model. Holds no runtime."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, Self

from d3d_edge.errors import DataError
from d3d_edge.schema import Schema

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Where(StrEnum):
    """Where a figure was measured. Every row of every report carries one."""

    DEVICE = "device"
    HOST_RUNTIME = "host runtime"
    """The target's file by its runtime or one like it, on an ordinary machine instead of the device."""
    REFERENCE_INTERPRETER = "reference interpreter"
    """The target's file, read by an interpreter of this project; says nothing about speed on the device."""
    HOST_TORCH = "host PyTorch"
    """PyTorch on this machine; the reference the others are compared with."""
    NOT_RUN = "not run"


class TensorSpec(Schema):
    """Name, type and shape of an input or output."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    def check(self, clip: NDArray[Any]) -> None:
        """Raises DataError if `clip` has another shape or type."""
        if clip.shape != self.shape or str(clip.dtype) != self.dtype:
            raise DataError(f"the model takes {self.dtype} {self.shape}, the clip is {clip.dtype} {clip.shape}")


class Runner(Protocol):
    """A loaded model. A context manager: leaving it frees the model."""

    where: Where
    runtime: str
    """Name and version of what runs the model, e.g. 'onnxruntime 1.32.0'."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, clip: NDArray[Any]) -> NDArray[Any]:
        """Logits float32 [classes] of `clip: uint8 [T, H, W, C] RGB`."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...
