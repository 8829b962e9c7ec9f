"""Core ML: lowers to an ML Program for iPhone and iPad; runs it by Core ML on macOS, by an interpreter elsewhere.

The program computes in float16 between its int8 tensors, which is what the Neural Engine does; float32 would keep it
off the Neural Engine altogether. Its input is float16 too, because Core ML has no uint8 arrays: 0 to 255 are exact in
float16, no cast stands before the first operator, and a clip takes half the bytes of int32 or float32.
"""

from __future__ import annotations

import platform
import warnings
from collections import Counter
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from d3d_edge import __version__
from d3d_edge.bundle import Bundle
from d3d_edge.errors import BundleError, DataError, first_line
from d3d_edge.files import size_of
from d3d_edge.quantize.origin import layer_of
from d3d_edge.runner import TensorSpec, Where
from d3d_edge.runtimes import Lowered, coreml_checks, coreml_conversion, held_to, settle
from d3d_edge.runtimes.coreml_conversion import INPUT, OUTPUT
from d3d_edge.runtimes.mil import READ_ERRORS, MilProgram, coremltools, quiet
from d3d_edge.target import OPTIONS, Precision, Target

MODEL = "model.mlpackage"

_OPTION = "minimum_deployment_target"


class _Loaded(NamedTuple):
    """A package, ready to run."""

    predict: Callable[[NDArray[Any]], NDArray[Any]]
    """From a clip [T, H, W, C] to logits [1, classes]."""
    takes: tuple[int, ...]
    gives: tuple[int, ...]


class CoreML:
    """The runtime `coreml`; see `d3d_edge.runtimes.Runtime`."""

    precisions: tuple[Precision, ...] = ("int8", "float16", "weights-int8")

    def check_lower(self) -> None:
        """Raises MissingDependency if coremltools is missing."""
        coremltools()

    def check_run(self) -> None:
        """Raises MissingDependency if coremltools is missing; off macOS it reads the package for the interpreter."""
        coremltools()

    def tools(self) -> dict[str, str]:
        """Versions of the packages that lowering uses."""
        return {name: metadata.version(name) for name in ("coremltools", "torch")}

    def run_tools(self) -> dict[str, str]:
        """Versions of the packages that run a bundle on this machine."""
        return {name: metadata.version(name) for name in ("coremltools", "torch")}

    def lower(
        self,
        program: ExportedProgram,
        folder: Path,
        target: Target,
        *,
        precision: Precision,
        allow_fallback: bool = False,
    ) -> Lowered:
        """Write `model.mlpackage`, of input `clip: float16 [T, H, W, C]` and output `logits: float16 [1, classes]`.

        Raises:
            MissingDependency: coremltools is missing.
            LoweringError: the program would leave the Neural Engine or not load (`coreml_checks`, and
                `quantize.placement`), or coremltools cannot convert it.
            StorageError: coremltools cannot write its temporary files.
        """
        ct = coremltools()
        deployment = getattr(ct.target, str(target.options.get(_OPTION, OPTIONS["coreml"][_OPTION][0])))
        allowed = settle(coreml_checks.of_graph(program), allow_fallback=allow_fallback)
        model = coreml_conversion.convert(ct, program, deployment)
        if precision == "weights-int8":
            model = coreml_conversion.with_int8_weights(ct, model)
        package = folder / MODEL
        spec = coreml_conversion.save(ct, model, package)
        layers = {node.name: layer_of(node) for node in program.graph.nodes}
        allowed += settle(coreml_checks.of_program(spec, deployment, layers), allow_fallback=allow_fallback)
        (block,) = spec.mlProgram.functions["main"].block_specializations.values()
        counts = Counter(op.type for op in block.operations if op.type != "const")
        return Lowered(
            MODEL,
            {
                "specification_version": int(spec.specificationVersion),
                "operators": sum(n for name, n in counts.items() if not name.startswith("constexpr_")),
                "int8_weights": sum(n for name, n in counts.items() if name.startswith("constexpr_")),
                "quantize_operators": counts["quantize"],
                "transposes": counts["transpose"],
                "size_bytes": size_of(package),
            },
            allowed,
        )

    def open(self, bundle: Bundle, *, threads: int = 0) -> CoreMLRunner:
        """Load a bundle's package: by Core ML on macOS, which chooses its own threads, else by the interpreter.

        The interpreter's `threads` hold for the whole process: PyTorch has one thread pool.

        Raises:
            MissingDependency: coremltools is missing.
            BundleError: the package is damaged, is not of what the manifest says, or holds an unknown operator.
        """
        ct = coremltools()
        if platform.system() == "Darwin":
            runtime = f"Core ML (macOS {platform.mac_ver()[0]})"
            return held_to(bundle, CoreMLRunner(_by_core_ml(ct, bundle), Where.HOST_RUNTIME, runtime))
        loaded = _by_interpreter(bundle)
        if threads:
            torch.set_num_threads(threads)
        runtime = f"MIL interpreter, d3d-edge {__version__} over torch {torch.__version__}"
        return held_to(bundle, CoreMLRunner(loaded, Where.REFERENCE_INTERPRETER, runtime))


class CoreMLRunner:
    """A loaded package; see `d3d_edge.runner.Runner`."""

    def __init__(self, loaded: _Loaded, where: Where, runtime: str) -> None:
        self.where, self.runtime = where, runtime
        # Of what `run` takes and gives: the package's own are float16, of the same values.
        self.inputs: tuple[TensorSpec, ...] = (TensorSpec(name=INPUT, dtype="uint8", shape=loaded.takes),)
        self.outputs: tuple[TensorSpec, ...] = (TensorSpec(name=OUTPUT, dtype="float32", shape=loaded.gives[1:]),)
        self._loaded: _Loaded | None = loaded

    def run(self, clip: NDArray[Any]) -> NDArray[Any]:
        """Logits float32 [classes] of `clip: uint8 [T, H, W, C] RGB`.

        Raises:
            DataError: the clip has another shape or type, or the runner is closed.
            BundleError: the file loads, and does not run.
        """
        self.inputs[0].check(clip)
        if self._loaded is None:
            raise DataError("the model is closed")
        try:
            logits = self._loaded.predict(clip)
        except RuntimeError as error:
            raise BundleError(f"the file cannot be run: {first_line(error)}", hint="export the bundle again") from error
        return logits.astype(np.float32).reshape(-1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._loaded = None


def _by_interpreter(bundle: Bundle) -> _Loaded:
    program = MilProgram.load(bundle.model_path)
    if (len(program.inputs), len(program.outputs)) != (1, 1):
        raise BundleError(
            f"{bundle.model_path} takes {len(program.inputs)} arrays and gives {len(program.outputs)}, not one each",
            hint="export the bundle again",
        )
    (source,), (result,) = program.inputs, program.outputs

    def predict(clip: NDArray[Any]) -> NDArray[Any]:
        return program.run({source.name: clip})[result.name]

    return _Loaded(predict, source.shape, result.shape)


def _by_core_ml(ct: ModuleType, bundle: Bundle) -> _Loaded:
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # coremltools only warns where Core ML refuses a package.
            model = ct.models.MLModel(str(bundle.model_path))
    except (*READ_ERRORS, RuntimeWarning) as error:
        reason = " ".join(str(error).split())
        raise BundleError(f"{bundle.model_path} cannot be loaded: {reason}", hint="export the bundle again") from error
    if model.__proxy__ is None:  # It says nothing at all where the package is newer than the system.
        raise BundleError(f"{bundle.model_path} is newer than this macOS", hint="iOS17 needs macOS 14, iOS18 macOS 15")

    def predict(clip: NDArray[Any]) -> NDArray[Any]:
        # coremltools takes float32 for a float16 feature, and lets Core ML round it.
        logits: NDArray[Any] = model.predict({INPUT: clip.astype(np.float32)})[OUTPUT]
        return logits

    described = model.get_spec().description
    takes, gives = (tuple(one.type.multiArrayType.shape) for one in (described.input[0], described.output[0]))
    return _Loaded(predict, takes, gives)


RUNTIME = CoreML()
