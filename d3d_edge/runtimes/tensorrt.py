"""TensorRT: lowers to an ONNX file with explicit INT8 quantization (Q/DQ) for a Jetson; runs it by ONNX Runtime here.

The engine is built from the file on the device, to whose GPU and TensorRT version it is tied. What TensorRT asks of
such a file is checked here: zero points 0, static shapes, four axes at most, and quantized inputs of every convolution.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from torch.export import ExportedProgram

from d3d_edge.bundle import Bundle
from d3d_edge.errors import (
    BundleError,
    DataError,
    LoweringError,
    MissingDependency,
    NotKnownHere,
    RecipeError,
    first_line,
)
from d3d_edge.files import size_of
from d3d_edge.quantize import placement, values
from d3d_edge.quantize.origin import kept_float_layers
from d3d_edge.runner import TensorSpec, Where
from d3d_edge.runtimes import Lowered, held_to, settle, tensorrt_float16, tensorrt_onnx, tensorrt_rules
from d3d_edge.target import OPTIONS, Precision, Target

if TYPE_CHECKING:
    import onnx

MODEL = "model.onnx"
INPUT, OUTPUT = "clip", "logits"
"""Names in the file, for the app."""

OPSET = OPTIONS["tensorrt"]["opset"][0]

_FLOAT16_SCALES = 19
"""The first opset whose QuantizeLinear and DequantizeLinear may be float16 (ONNX, Changelog)."""

_EXTRA = "jetson"
_LOWERING = ("onnx", "onnxscript")
_FLOAT16 = ("int8+float16", "float16")
"""Precisions whose float parts are float16."""
_DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}


class TensorRT:
    """The runtime `tensorrt`; see `d3d_edge.runtimes.Runtime`."""

    precisions: tuple[Precision, ...] = ("int8", "int8+float16", "float16", "float32")

    def check_lower(self) -> None:
        """Raises MissingDependency if onnx or onnxscript is missing. TensorRT itself is needed on the device only."""
        for package in _LOWERING:
            if find_spec(package) is None:
                raise MissingDependency.of(package, _EXTRA, "lowering to TensorRT")

    def check_run(self) -> None:
        """Raises MissingDependency if onnxruntime is missing."""
        if find_spec("onnxruntime") is None:
            raise MissingDependency.of("onnxruntime", _EXTRA, "running a TensorRT bundle's ONNX file on this machine")

    def tools(self) -> dict[str, str]:
        """Versions of the packages that lowering uses."""
        return {name: metadata.version(name) for name in (*_LOWERING, "torch")}

    def run_tools(self) -> dict[str, str]:
        """Versions of the packages that run a bundle on this machine."""
        # Its package has other names for other processors.
        return {"onnxruntime": onnx_runtime().__version__}

    def lower(
        self,
        program: ExportedProgram,
        folder: Path,
        target: Target,
        *,
        precision: Precision,
        allow_fallback: bool = False,
    ) -> Lowered:
        """Write `model.onnx`, weights inside, of `clip: uint8 [T, H, W, C]` to `logits: float32 [1, classes]`.

        Raises:
            MissingDependency: onnx or onnxscript is missing.
            RecipeError: the target's opset does not allow the precision, or PyTorch cannot write it.
            LoweringError: a zero point is not 0 (scheme affine), or the file breaks another rule of TensorRT's.
        """
        self.check_lower()
        allowed = settle(_faults(program, precision), allow_fallback=allow_fallback)
        opset = int(target.options.get("opset", OPSET))
        if precision == "int8+float16" and opset < _FLOAT16_SCALES:
            raise RecipeError(
                f"the target {target.name}: options.opset is {opset}, and DequantizeLinear gives float16 from "
                f"{_FLOAT16_SCALES} on only, which int8+float16 needs",
                hint=f"--set opset={OPSET}, or another precision",
            )
        model = tensorrt_onnx.to_onnx(program, opset, input_name=INPUT, output_name=OUTPUT)
        written = next(entry.version for entry in model.opset_import if not entry.domain)
        if written != opset:
            raise RecipeError(
                f"the target {target.name}: options.opset is {opset}, which PyTorch cannot write: it wrote {written}",
                hint=f"--set opset={written}, or another that it can",
            )
        if precision in _FLOAT16:
            tensorrt_float16.convert(model)
        allowed += check(model, allow_fallback=allow_fallback, kept_float=kept_float_layers(program))
        path = folder / MODEL
        path.write_bytes(model.SerializeToString())
        counts = Counter(node.op_type for node in model.graph.node)
        return Lowered(
            MODEL,
            {
                "opset": opset,
                "operators": sum(counts.values()) - counts["QuantizeLinear"] - counts["DequantizeLinear"],
                "quantize_operators": counts["QuantizeLinear"],
                "dequantize_operators": counts["DequantizeLinear"],
                "size_bytes": size_of(path),
            },
            allowed,
        )

    def open(self, bundle: Bundle, *, threads: int = 0) -> OnnxRunner:
        """Load a bundle's ONNX file into ONNX Runtime, on this machine's CPU.

        Raises:
            MissingDependency: onnxruntime is missing.
            BundleError: the file cannot be loaded, or is not of what the manifest says.
        """
        self.check_run()
        return held_to(bundle, OnnxRunner(bundle.model_path, threads))


def onnx_runtime() -> Any:
    """ONNX Runtime, the package, which keeps what it sees to itself.

    The builds on PyPI else give the machine a number that stays, note each session in a database in the user's folder,
    and send it to their maker (onnxruntime 1.32.0, Privacy.md). They read the variable when they are imported.

    Raises:
        ImportError: it is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


class OnnxRunner:
    """A loaded ONNX file; see `d3d_edge.runner.Runner`."""

    where = Where.HOST_RUNTIME

    def __init__(self, path: Path, threads: int) -> None:
        onnxruntime = onnx_runtime()
        from onnxruntime.capi import onnxruntime_pybind11_state as errors

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        # What the file says, computed in float between the rounded values. ONNX Runtime's INT8 kernels round products
        # and means otherwise: several steps of the logits away from the graph, and not as TensorRT rounds either.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        # Its threads wait for work by spinning. Behind a run they would go on for a while, on processors that the next
        # model needs: `validate` asks all of them about a clip in turn.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._failures = (errors.Fail, errors.InvalidArgument, errors.RuntimeException)
        unreadable = (
            UnicodeDecodeError,  # an error that quotes a damaged file
            errors.InvalidProtobuf,
            errors.InvalidGraph,
            errors.NoSuchFile,
            *self._failures,
        )
        try:
            self._session: Any = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except errors.NotImplemented as error:
            reason = first_line(error)
            raise NotKnownHere(
                f"ONNX Runtime does not know all of {path}: {reason}", hint="run it on a Jetson"
            ) from error
        except unreadable as error:
            raise BundleError(
                f"ONNX Runtime cannot load {path}: {first_line(error)}", hint="export the bundle again"
            ) from error
        self.runtime = f"onnxruntime {onnxruntime.__version__}"
        takes, gives = self._session.get_inputs(), self._session.get_outputs()
        if ([each.name for each in takes], [each.name for each in gives]) != ([INPUT], [OUTPUT]):
            names = [" and ".join(each.name for each in some) for some in (takes, gives)]
            raise BundleError(
                f"{path} takes {names[0]} and gives {names[1]}, where a bundle's takes {INPUT} and gives {OUTPUT}",
                hint="export the bundle again",
            )
        (clip,), (logits,) = takes, gives
        self.inputs: tuple[TensorSpec, ...] = (_spec(INPUT, clip, drop=0),)
        self.outputs: tuple[TensorSpec, ...] = (_spec(OUTPUT, logits, drop=1),)

    def run(self, clip: NDArray[Any]) -> NDArray[Any]:
        """Logits float32 [classes] of `clip: uint8 [T, H, W, C] RGB`.

        Raises:
            DataError: the clip has another shape or type, or the runner is closed.
            BundleError: the file loads, and does not run.
        """
        self.inputs[0].check(clip)
        if self._session is None:
            raise DataError("the model is closed")
        try:
            logits: NDArray[Any] = self._session.run(None, {INPUT: np.ascontiguousarray(clip)})[0][0]
        except self._failures as error:
            raise BundleError(
                f"ONNX Runtime cannot run the file: {first_line(error)}", hint="export the bundle again"
            ) from error
        return logits

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._session = None


def _spec(name: str, described: Any, *, drop: int) -> TensorSpec:
    """The tensor's name, type and shape without the first `drop` axes; an axis of any size is -1."""
    shape = tuple(axis if isinstance(axis, int) else -1 for axis in described.shape[drop:])
    return TensorSpec(name=name, dtype=_DTYPES.get(described.type, described.type), shape=shape)


def check(
    model: onnx.ModelProto, *, allow_fallback: bool = False, kept_float: frozenset[str] = frozenset()
) -> tuple[str, ...]:
    """What in `model` TensorRT would refuse, or compute in float where INT8 was meant, if a fallback is allowed.

    `kept_float`: the layers that are in float on purpose.

    Raises:
        LoweringError: the file is not valid, or there is a fault and no fallback is allowed.
    """
    import onnx
    from onnx.shape_inference import InferenceError, infer_shapes

    try:
        onnx.checker.check_model(model)
        inferred = infer_shapes(model, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, InferenceError) as error:
        message = f"the ONNX file is not valid: {first_line(error)}"
        raise LoweringError(message, stage="check", runtime=tensorrt_onnx.version()) from error
    return settle(tensorrt_rules.faults(inferred, kept_float), allow_fallback=allow_fallback)


def _faults(program: ExportedProgram, precision: Precision) -> Iterator[LoweringError]:
    yield from placement.zero_points(program, "TensorRT")
    yield from placement.faults(program, "TensorRT")
    yield from values.weight_grids(program, "TensorRT")
    if precision in _FLOAT16:
        yield from values.ranges_beyond_float16(program, "TensorRT in float16")


RUNTIME = TensorRT()
