"""TensorRT: lowers to an ONNX file with explicit INT8 quantization (Q/DQ) for a Jetson; runs it by ONNX Runtime here.

The engine is built from the file on the device, to whose GPU and TensorRT version it is tied. What TensorRT asks of
such a file is checked here: zero points 0, static shapes, four axes at most, and quantized inputs of every convolution.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from d3d_edge.bundle import Bundle
from d3d_edge.errors import BundleError, DataError, LoweringError, MissingDependency, RecipeError
from d3d_edge.files import size_of
from d3d_edge.quantize.pt2e import origins_shared
from d3d_edge.runner import TensorSpec, Where
from d3d_edge.runtimes import Lowered
from d3d_edge.target import Target

if TYPE_CHECKING:
    import onnx

MODEL = "model.onnx"
INPUT, OUTPUT = "clip", "logits"
"""Names in the file, for the app."""

OPSET = 20
"""What TensorRT 10.0 and later read; `opset` among the target's options takes another."""
MAX_RANK = 4
"""More axes mean a 3D convolution or pool, whose INT8 form TensorRT has for few shapes only."""

_EXTRA = "jetson"
_LOWERING = ("onnx", "onnxscript")
_QUANTIZE = torch.ops.quantized_decomposed.quantize_per_tensor.default
_DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}


class TensorRT:
    """The runtime `tensorrt`; see `d3d_edge.runtimes.Runtime`."""

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

    def lower(self, program: ExportedProgram, folder: Path, target: Target) -> Lowered:
        """Write `model.onnx`, weights inside, of `clip: uint8 [T, H, W, C]` to `logits: float32 [1, classes]`.

        Raises:
            MissingDependency: onnx or onnxscript is missing.
            RecipeError: the target's options are wrong.
            LoweringError: a zero point is not 0 (scheme affine), or the file breaks another rule of TensorRT's.
        """
        self.check_lower()
        _refuse_zero_points(program)
        opset = target.options.get("opset", OPSET)
        if isinstance(opset, bool) or not isinstance(opset, int):
            raise RecipeError(f"the target {target.name}: options.opset is {opset!r}, not a number")
        model = _to_onnx(program, opset)
        check(model)
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
        )

    def open(self, bundle: Bundle, *, threads: int = 0) -> OnnxRunner:
        """Load a bundle's ONNX file into ONNX Runtime, on this machine's CPU.

        Raises:
            MissingDependency: onnxruntime is missing.
            BundleError: the file cannot be loaded.
        """
        self.check_run()
        return OnnxRunner(bundle.model_path, threads)


class OnnxRunner:
    """A loaded ONNX file; see `d3d_edge.runner.Runner`."""

    where = Where.HOST_RUNTIME

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as errors

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        # What the file says, computed in float between the rounded values. ONNX Runtime's INT8 kernels round products
        # and means otherwise: several steps of the logits away from the graph, and not as TensorRT rounds either.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        unreadable = tuple(
            getattr(errors, name)
            for name in (
                "Fail",
                "InvalidProtobuf",
                "InvalidGraph",
                "InvalidArgument",
                "NoSuchFile",
                "NotImplemented",
                "RuntimeException",
            )
        )
        try:
            self._session: Any = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except unreadable as error:
            raise BundleError(
                f"ONNX Runtime cannot load {path}: {str(error).splitlines()[0]}", hint="export the bundle again"
            ) from error
        self.runtime = f"onnxruntime {onnxruntime.__version__}"
        (clip,), (logits,) = self._session.get_inputs(), self._session.get_outputs()
        self.inputs = (TensorSpec(name=INPUT, dtype=_DTYPES.get(clip.type, clip.type), shape=tuple(clip.shape)),)
        self.outputs = (
            TensorSpec(name=OUTPUT, dtype=_DTYPES.get(logits.type, logits.type), shape=tuple(logits.shape[1:])),
        )

    def run(self, clip: NDArray[Any]) -> NDArray[Any]:
        """Logits float32 [classes] of `clip: uint8 [T, H, W, C] RGB`.

        Raises:
            DataError: the clip has another shape or type, or the runner is closed.
        """
        wanted = self.inputs[0]
        if str(clip.dtype) != wanted.dtype or clip.shape != wanted.shape:
            raise DataError(f"the model takes {wanted.dtype} {wanted.shape}, the clip is {clip.dtype} {clip.shape}")
        if self._session is None:
            raise DataError("the model is closed")
        logits: NDArray[Any] = self._session.run(None, {INPUT: np.ascontiguousarray(clip)})[0][0]
        return logits

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._session = None


def check(model: onnx.ModelProto) -> None:
    """Refuse a model that TensorRT would refuse, or would compute in float where INT8 was meant.

    Raises:
        LoweringError: naming the first node or tensor at fault.
    """
    import onnx
    from onnx.shape_inference import InferenceError, infer_shapes

    try:
        onnx.checker.check_model(model)
        inferred = infer_shapes(model, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, InferenceError) as error:
        raise _error(f"the ONNX file is not valid: {str(error).splitlines()[0]}", "check") from error
    for value in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output):
        axes = value.type.tensor_type.shape.dim
        if len(axes) > MAX_RANK:
            raise _error(f"the tensor {value.name} has {len(axes)} axes, at most {MAX_RANK} are taken", "check")
        if not all(axis.HasField("dim_value") for axis in axes):
            raise _error(f"the tensor {value.name} has no static shape", "check")
    _check_quantization(model)


def _check_quantization(model: onnx.ModelProto) -> None:
    from onnx import TensorProto, numpy_helper

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        zero_point = constants.get(node.input[2]) if len(node.input) > 2 else None
        if zero_point is None or zero_point.data_type != TensorProto.INT8:
            raise _error(f"{node.name} is not of type int8", "check", node.op_type)
        if numpy_helper.to_array(zero_point).any():
            raise _error(f"{node.name} has a zero point other than 0", "check", node.op_type)
    if not any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        return
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            for name in node.input[:2]:
                if name not in producers or producers[name].op_type != "DequantizeLinear":
                    raise _error(f"the input {name} of {node.name} is not quantized", "check", node.op_type)


def _refuse_zero_points(program: ExportedProgram) -> None:
    for node in program.graph.nodes:
        if node.target is _QUANTIZE and node.args[2] != 0:
            raise LoweringError(
                f"{node.name} has the zero point {node.args[2]}, and TensorRT takes only 0",
                stage="check",
                operator="quantize_per_tensor",
                runtime="TensorRT",
                hint="quantize with scheme: symmetric",
            )


def _to_onnx(program: ExportedProgram, opset: int) -> onnx.ModelProto:
    from torch.onnx import OnnxExporterError

    with _quiet():
        try:
            exported = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=opset,
                input_names=[INPUT],
                output_names=[OUTPUT],
                external_data=False,
                verbose=False,
            )
        except OnnxExporterError as error:
            raise _error(f"the graph cannot be written as ONNX: {str(error).splitlines()[0]}", "to ONNX") from error
    if exported is None:
        raise _error("the graph cannot be written as ONNX", "to ONNX")
    model: onnx.ModelProto = exported.model_proto
    # The exporter notes on each node where in the Python source it came from: machine paths, several times the weights.
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    for part in (
        *model.graph.node,
        *model.graph.input,
        *model.graph.output,
        *model.graph.value_info,
        *model.graph.initializer,
    ):
        del part.metadata_props[:]
        part.doc_string = ""
    return model


def _error(message: str, stage: str, operator: str = "") -> LoweringError:
    return LoweringError(message, stage=stage, operator=operator, runtime=f"onnx {metadata.version('onnx')}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes on missing torchvision operators and torch's on its own deprecations."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), origins_shared():
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        log.setLevel(level)


RUNTIME = TensorRT()
