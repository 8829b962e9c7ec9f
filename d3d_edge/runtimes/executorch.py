"""ExecuTorch: lowers to a .pte file for Android, computed by XNNPACK; runs it on this machine by the same kernels.

A graph that XNNPACK takes in part would still be written, and fail on the phone or be slow there: it is refused.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self
from weakref import WeakSet

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from d3d_edge import native
from d3d_edge.bundle import Bundle
from d3d_edge.errors import BundleError, DataError, LoweringError, MissingDependency, first_line
from d3d_edge.files import size_of
from d3d_edge.quantize import nodes, placement, values
from d3d_edge.quantize.quiet import quiet
from d3d_edge.runner import TensorSpec, Where
from d3d_edge.runtimes import (
    Lowered,
    executorch_checks,
    held_to,
    quick_lowering,
    settle,
    xnnpack_bytes,
    xnnpack_classifier,
    xnnpack_delegate,
)
from d3d_edge.target import Precision, Target

MODEL = "model.pte"
_PACKAGE = "executorch"
_EXTRA = "android"


_open: WeakSet[ExecuTorchRunner] = WeakSet()
"""Runners that are not closed, all of which compute on ExecuTorch's one pool of threads."""

_DTYPES = {0: "uint8", 1: "int8", 3: "int32", 4: "int64", 6: "float32"}
"""ExecuTorch's ScalarType codes."""


class ExecuTorch:
    """The runtime `executorch`; see `d3d_edge.runtimes.Runtime`."""

    precisions: tuple[Precision, ...] = ("int8", "float32")

    def check_lower(self) -> None:
        """Raises MissingDependency if executorch is missing."""
        if find_spec(_PACKAGE) is None:
            raise MissingDependency.of(_PACKAGE, _EXTRA, "lowering to ExecuTorch")

    def check_run(self) -> None:
        """Raises MissingDependency if executorch is missing."""
        if find_spec(_PACKAGE) is None:
            raise MissingDependency.of(_PACKAGE, _EXTRA, "running an ExecuTorch file on this machine")

    def tools(self) -> dict[str, str]:
        """Versions of the packages that lowering uses."""
        return {name: metadata.version(name) for name in (_PACKAGE, "torch", "torchao")}

    def run_tools(self) -> dict[str, str]:
        """Versions of the packages that run a bundle on this machine."""
        return {_PACKAGE: metadata.version(_PACKAGE)}

    def lower(
        self,
        program: ExportedProgram,
        folder: Path,
        target: Target,
        *,
        precision: Precision,
        allow_fallback: bool = False,
    ) -> Lowered:
        """Write `model.pte`, of input `uint8 [T, H, W, C]` and output `float32 [1, classes]`.

        Raises:
            MissingDependency: executorch is missing.
            LoweringError: the file would be slow on a phone or not run there (`executorch_checks`, and
                `quantize.placement`), or ExecuTorch fails.
        """
        self.check_lower()
        allowed = settle(_faults(program), allow_fallback=allow_fallback)
        with _quiet(), native.notes():
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower
            from executorch.exir.error import ExportError, InternalError
            from torch._export import error as export_error
            from torch._export.verifier import SpecViolationError

            failures = (RuntimeError, ValueError, TypeError, AssertionError, NotImplementedError, LookupError)
            own = (ExportError, InternalError, SpecViolationError, export_error.InternalError)
            kernels = executorch_checks.kernels()
            delegates: list[Any] = []
            try:
                taking_bytes = xnnpack_bytes.with_bytes_quantized(program)
                floated, classifiers = xnnpack_classifier.with_float_weights(taking_bytes)
                with (
                    quick_lowering.quickly(floated) as same,
                    xnnpack_bytes.bytes_delegated(),
                    xnnpack_delegate.made_small(delegates, classifiers),
                ):
                    edge = to_edge_transform_and_lower(same, partitioner=[XnnpackPartitioner()])
                    partitioned = edge.exported_program()
                    allowed += settle(_faults_of_lowered(partitioned), allow_fallback=allow_fallback)
                    facts = _facts(partitioned)
                    outside = bool(facts["undelegated_operators"])
                    lowered = edge.to_executorch(xnnpack_delegate.memory(delegates, outside=outside))
            except (*failures, *own) as error:
                raise _not_lowered(program, error) from error
        (plan,) = lowered.executorch_program.execution_plan
        missing = executorch_checks.without_kernel(lowered.exported_program(), plan, kernels, _version())
        unknown = settle(missing, allow_fallback=allow_fallback)
        path = folder / MODEL
        path.write_bytes(lowered.buffer)
        allowed += unknown or settle(_tried(path), allow_fallback=allow_fallback)
        return Lowered(MODEL, {**facts, "size_bytes": size_of(path)}, allowed)

    def open(self, bundle: Bundle, *, threads: int = 0) -> ExecuTorchRunner:
        """Load a bundle's .pte file. `threads` holds for the whole process: ExecuTorch has one thread pool.

        Raises:
            MissingDependency: executorch is missing.
            BundleError: the file cannot be loaded, or is not of what the manifest says.
            DataError: another file is open with another number of threads.
        """
        self.check_run()
        return held_to(bundle, ExecuTorchRunner(bundle.model_path, threads))


class ExecuTorchRunner:
    """A loaded .pte file; see `d3d_edge.runner.Runner`. Those that are open at a time must have as many threads."""

    where = Where.HOST_RUNTIME

    def __init__(self, path: Path, threads: int) -> None:
        with _quiet(), native.notes():
            library = import_module(executorch_checks.LIBRARY)
            executorch_checks.kernels()
            pool: int = library._threadpool_get_thread_count()
            if threads not in (0, pool):
                # They would go on with a pool that is no more, and crash the process.
                if _open:
                    raise DataError(
                        f"a model is open on {pool} threads, and this one is to run on {threads}: ExecuTorch has one "
                        "pool of threads for all",
                        hint="close the other first, or give both as many threads",
                    )
                library._unsafe_reset_threadpool(threads)
            self.threads: int = library._threadpool_get_thread_count()
            try:
                # A damaged file is refused, instead of read.
                verified = library.Verification.InternalConsistency
                self._program = library._load_program(str(path), program_verification=verified)
                self._method = self._program.load_method("forward")
                described = self._method.method_meta()
                # A view of the method's own memory, where every run leaves its logits.
                (logits,) = self._method.get_outputs(clone_outputs=False)
                self._logits: Any = logits.numpy()[0]
            except (RuntimeError, OSError) as error:
                raise BundleError(
                    f"ExecuTorch cannot load {path}: {first_line(error)}", hint="export the bundle again"
                ) from error
        self.runtime = f"executorch {metadata.version(_PACKAGE)} (XNNPACK)"
        self.inputs: tuple[TensorSpec, ...] = (_spec("clip", described.input_tensor_meta(0), drop=0),)
        self.outputs: tuple[TensorSpec, ...] = (_spec("logits", described.output_tensor_meta(0), drop=1),)
        _open.add(self)

    def run(self, clip: NDArray[Any]) -> NDArray[Any]:
        """Logits float32 [classes] of `clip: uint8 [T, H, W, C] RGB`.

        Raises:
            DataError: the clip has another shape or type, or the runner is closed.
            BundleError: the file loads, and does not run.
        """
        self.inputs[0].check(clip)
        if self._method is None:
            raise DataError("the model is closed")
        # What is done here is timed with the model, and torch's own code has left the caches by then: no tensor is
        # made that need not be.
        # The file may read them where they are. torch warns of arrays that must not be written, though nobody does.
        frames = torch.from_numpy(np.require(clip, requirements=("C", "W")))
        self._method.set_inputs([frames])
        try:
            self._method.execute()
        except RuntimeError as error:
            raise BundleError(f"ExecuTorch cannot run the file: {error}", hint="export the bundle again") from error
        answer: NDArray[Any] = self._logits.copy()
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._method = self._program = self._logits = None
        _open.discard(self)


def _spec(name: str, described: Any, *, drop: int) -> TensorSpec:
    """The tensor's name, type and shape, without the first `drop` axes."""
    code = int(described.dtype())
    return TensorSpec(name=name, dtype=_DTYPES.get(code, str(code)), shape=tuple(described.sizes())[drop:])


def _faults(program: ExportedProgram) -> Iterator[LoweringError]:
    misplaced = [
        fault
        for check in (placement.faults, values.weight_grids, placement.shared_weights)
        for fault in check(program, _version())
    ]
    yield from misplaced
    if not misplaced:  # what follows reckons with scales, which have to be there and to be sound
        yield from executorch_checks.large_biases(program, _version())
        yield from executorch_checks.far_scales(program, _version())


def _faults_of_lowered(program: ExportedProgram) -> Iterator[LoweringError]:
    from executorch.exir.backend.utils import get_delegates

    yield from executorch_checks.undelegated(program, _version())
    # ExecuTorch writes some operators as others, which reach over more axes.
    delegated = [getattr(program.graph_module, node.target).original_module for node in get_delegates(program.graph)]
    for part in (program, *delegated):
        yield from placement.many_axes(part, _version())


def _facts(program: ExportedProgram) -> dict[str, int | float | str | bool]:
    """Number of delegates, and of the operators outside them, with their names."""
    names = [str(getattr(node.target, "__name__", "")) for node in program.graph.nodes if node.op == "call_function"]
    outside = [name for _, name in executorch_checks.calls(program)]
    found: dict[str, int | float | str | bool] = {
        "delegates": sum("call_delegate" in name for name in names),
        "undelegated_operators": len(outside),
    }
    return found | ({"undelegated_names": " ".join(sorted(set(outside)))} if outside else {})


def _not_lowered(program: ExportedProgram, error: Exception) -> LoweringError:
    layer, operator = nodes.blamed(program, str(error))
    return LoweringError(
        f"ExecuTorch cannot lower the graph: {first_line(error)}",
        stage="to ExecuTorch",
        layer=layer,
        operator=operator,
        runtime=_version(),
        hint=executorch_checks.RANK_4 if "3d" in operator else "write the layer with operators of Core ATen",
    )


def _tried(path: Path) -> Iterator[LoweringError]:
    """Why the file does not run: some kernels refuse only what they are given. This machine has those of the phone."""
    notes: list[str] = []
    try:
        with ExecuTorchRunner(path, 0) as runner, native.notes() as notes:
            runner.run(np.zeros(runner.inputs[0].shape, runner.inputs[0].dtype))
    except (BundleError, RuntimeError) as error:
        operator = re.search(r"in operator (\S+?):? ", " ".join(notes))
        yield LoweringError(
            # The reason itself: where it lay meanwhile, and to export it again, is no help.
            f"the file does not run: {first_line(error.__cause__ or error)}",
            stage="run",
            operator=operator.group(1) if operator else "",
            runtime=_version(),
            hint=executorch_checks.RANK_4 if operator else "ExecuTorch names no operator: lower the layers one by one",
        )


def _version() -> str:
    return f"executorch {metadata.version(_PACKAGE)}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the notes that ExecuTorch and torch address to their own developers."""
    with quiet("executorch"):
        # ExperimentalWarning of executorch.extension.pybindings derives from Warning itself.
        warnings.filterwarnings("ignore", "This API is experimental", Warning)
        yield


RUNTIME = ExecuTorch()
