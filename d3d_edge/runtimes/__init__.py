"""Runtimes: how a graph becomes a file and how that file runs. The seam and the table; no runtime is imported here.

A runtime never prints, downloads or changes the request: it does what is asked or raises.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from d3d_edge.bundle import Bundle
from d3d_edge.errors import BundleError, LoweringError
from d3d_edge.runner import Runner
from d3d_edge.target import Precision, Target

if TYPE_CHECKING:
    from torch.export import ExportedProgram

R = TypeVar("R", bound=Runner)

# Literal, so that a reader finds every runtime here and `--help` imports none of them.
_TABLE = {
    "eager": "d3d_edge.runtimes.eager",
    "executorch": "d3d_edge.runtimes.executorch",
    "coreml": "d3d_edge.runtimes.coreml",
    "tensorrt": "d3d_edge.runtimes.tensorrt",
}


@dataclass(frozen=True)
class Lowered:
    """What `lower` wrote."""

    model: str
    """The model file or folder, relative to the folder it was written to."""
    facts: dict[str, int | float | str | bool] = field(default_factory=dict)
    """What lowering measured, such as the number of delegates."""
    fallbacks: tuple[str, ...] = ()
    """What would have been refused, and was allowed: where the file is slow, or will not run at all."""


class Runtime(Protocol):
    """One way to lower a graph and run the result."""

    precisions: tuple[Precision, ...]
    """Those that it lowers to; a target takes some of them."""

    def check_lower(self) -> None:
        """Raises MissingDependency, naming package and extra, if `lower` cannot work on this machine."""

    def check_run(self) -> None:
        """Raises MissingDependency, naming package and extra, if `open` cannot work on this machine."""

    def tools(self) -> dict[str, str]:
        """Versions of the packages that lowering uses, by package name."""

    def run_tools(self) -> dict[str, str]:
        """Versions of the packages that run a bundle on this machine, by package name."""

    def lower(
        self,
        program: ExportedProgram,
        folder: Path,
        target: Target,
        *,
        precision: Precision,
        allow_fallback: bool = False,
    ) -> Lowered:
        """Lower `program` (uint8 [T, H, W, C] -> float32 [1, classes]; quantized by PT2E, or float) into `folder`.

        `precision` is one of the target's: what the float parts are computed in, and weights stored as. What would be
        slow on the target, or not run there, is refused, and with `allow_fallback` noted.

        Raises:
            MissingDependency: a package is missing.
            LoweringError: the graph cannot be lowered, or the file would not run.
        """

    def open(self, bundle: Bundle, *, threads: int = 0) -> Runner:
        """Load a bundle's model; `threads` 0 leaves the runtime's own choice.

        Raises:
            MissingDependency: a package is missing.
            BundleError: the model file cannot be loaded, or is not of what the manifest says (`held_to`).
        """


def get(name: str) -> Runtime:
    """The runtime of that name; its heavy imports happen when it is used.

    Raises:
        KeyError: there is none; `Target` and `BundleManifest` only let known names through.
    """
    runtime: Runtime = importlib.import_module(_TABLE[name]).RUNTIME
    return runtime


def held_to(bundle: Bundle, runner: R) -> R:
    """`runner`, opened from the file of `bundle`, if it takes and gives what the manifest says.

    Raises:
        BundleError: it does not.
    """
    made = bundle.manifest
    for what, said, found in (("takes", made.input, runner.inputs[0]), ("gives", made.output, runner.outputs[0])):
        if (found.dtype, found.shape) != (said.dtype, said.shape):
            runner.__exit__(None, None, None)
            raise BundleError(
                f"{bundle.model_path} {what} {found.dtype} {list(found.shape)}, the manifest says {said.dtype} "
                f"{list(said.shape)}",
                hint="export the bundle again",
            )
    return runner


def settle(faults: Iterable[LoweringError], *, allow_fallback: bool) -> tuple[str, ...]:
    """The texts of `faults` where a fallback is allowed.

    Raises:
        LoweringError: it is not, and there is one; the message names the first and counts the others.
    """
    found = list(faults)
    if allow_fallback or not found:
        return tuple(str(fault) for fault in found)
    first = found[0]
    if len(found) > 1:
        first.message += f", and {len(found) - 1} more of these"
    raise first
