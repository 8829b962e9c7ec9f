"""The float parts of an ONNX file as float16, for a strongly typed TensorRT network. Part of the TensorRT runtime.

TensorRT 11 chooses no precision, and neither does a strongly typed network of 10.x: it computes in the types of the
file. So INT8 between Q/DQ, and float16 elsewhere, is written into the file. Its output stays float32, for the app.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from d3d_edge.runtimes.tensorrt_file import fault
from d3d_edge.runtimes.tensorrt_rules import SMALLEST_NORMAL

if TYPE_CHECKING:
    import onnx

LARGEST = float(np.finfo(np.float16).max)
_SUFFIX = "_float16"


def convert(model: onnx.ModelProto) -> None:
    """Make every float32 constant and cast of `model` float16, in place, and cast its outputs back to float32.

    Raises:
        LoweringError: a constant is larger than a float16 can be.
    """
    from onnx import TensorProto, helper, numpy_helper

    _raise_small_scales(model)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            value = numpy_helper.to_array(tensor)
            _refuse_large(model, tensor.name, value)
            tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float16), tensor.name))
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "output_dtype") and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
            elif attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT:
                value = numpy_helper.to_array(attribute.t)
                _refuse_large(model, node.output[0], value)
                attribute.t.CopyFrom(numpy_helper.from_array(value.astype(np.float16), attribute.t.name))
    del model.graph.value_info[:]  # Inferred anew, by the check.
    for output in model.graph.output:
        if output.type.tensor_type.elem_type != TensorProto.FLOAT:
            continue
        for node in model.graph.node:
            for place, name in enumerate(node.output):
                if name == output.name:
                    node.output[place] = name + _SUFFIX
        cast = helper.make_node("Cast", [output.name + _SUFFIX], [output.name], to=TensorProto.FLOAT)
        cast.name = f"{output.name}/cast"
        model.graph.node.append(cast)


def _refuse_large(model: onnx.ModelProto, name: str, value: NDArray[Any]) -> None:
    largest = float(np.abs(value).max(initial=0.0))
    if LARGEST < largest < np.inf:
        reader = next((node for node in model.graph.node if name in node.input), None)
        message = f"the constant {name} holds {largest:.3g}, and float16 goes to {LARGEST:.0f}"
        raise fault(reader, message, "--precision float32 or int8")


def _raise_small_scales(model: onnx.ModelProto) -> None:
    """Round INT8 weights again where their scale is no normal float16: those of a channel that is almost zero."""
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    # Before any is changed: equal scales may be one constant, which several nodes read.
    before = {name: numpy_helper.to_array(tensor).copy() for name, tensor in tensors.items()}
    least = SMALLEST_NORMAL["float16"]
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in tensors:
            continue
        weight, scale = (before[name] for name in node.input[:2])
        if not (scale < least).any():
            continue
        ratio = np.minimum(scale / np.float32(least), 1.0).reshape(-1, *[1] * (weight.ndim - 1))
        rounded = np.rint(weight * ratio).astype(weight.dtype)
        tensors[node.input[0]].CopyFrom(numpy_helper.from_array(rounded, node.input[0]))
        tensors[node.input[1]].CopyFrom(numpy_helper.from_array(np.maximum(scale, np.float32(least)), node.input[1]))
