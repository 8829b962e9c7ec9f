"""What TensorRT 10 and 11 ask of an ONNX file, as NVIDIA documents it, a function each. Part of the TensorRT runtime.

TensorRT itself is on the device; a file that breaks a rule would be refused there, or be computed in float where INT8
was meant. Sources, in the docstrings by number:

[1] TensorRT documentation, Working with Quantized Types: explicit quantization, Q/DQ placement recommendations
[2] TensorRT operator reference, Quantize, Dequantize, Convolution
[3] onnx-tensorrt, docs/operators.md: operators, types and restrictions of the ONNX parser
[4] TensorRT Python API, DataType: what uint8 may be
[5] TensorRT migration guide, 10.x to 11.x: networks are strongly typed, no precision is chosen for you
[6] onnx-tensorrt, onnxOpCheckers.cpp: what the ONNX parser refuses
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from d3d_edge.errors import LoweringError
from d3d_edge.runtimes.tensorrt_file import MOVING, File, fault, number

if TYPE_CHECKING:
    import onnx

MAX_RANK = 4
"""More axes mean a 3D convolution or pool, whose INT8 form TensorRT has for few shapes only."""
OPSETS = range(13, 21)
"""13 is the first with a scale per channel; 20 the last that TensorRT 10.0 reads."""

OPERATORS = frozenset(
    {
        *("Abs", "Add", "AveragePool", "BatchNormalization", "Cast", "Ceil", "Celu", "Clip", "Concat"),
        *("Constant", "Conv", "DepthToSpace", "DequantizeLinear", "Div", "Elu", "Equal", "Erf", "Exp", "Expand"),
        *("Flatten", "Floor", "Gather", "Gemm", "GlobalAveragePool", "GlobalMaxPool", "Greater"),
        *("GreaterOrEqual", "HardSigmoid", "Identity", "LeakyRelu", "Less", "LessOrEqual", "Log", "LogSoftmax"),
        *("MatMul", "Max", "MaxPool", "Mean", "Min", "Mul", "Neg", "Not", "PRelu", "Pad", "Pow"),
        *("QuantizeLinear", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum"),
        *("Relu", "Reshape", "Round", "Selu", "Sigmoid", "Sign", "Slice", "Softmax", "Softplus", "Softsign"),
        *("SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "ThresholdedRelu", "Tile"),
        *("Transpose", "Unsqueeze", "Where"),
    }
)
"""Those of [3] that a network of two-dimensional operators may come to, but for those whose restrictions no rule here
looks at, such as Resize and ConvTranspose."""

_Q, _DQ = "QuantizeLinear", "DequantizeLinear"
_WEIGHTED = ("Conv", "Gemm", "MatMul")
_FLOATS = {1: "float32", 10: "float16"}
"""Of onnx.TensorProto.DataType; so are the next two."""
_UINT8, _INT8 = 2, 3
_FLOAT16 = 10
_TYPES = {*_FLOATS, _UINT8, _INT8, 6, 7, 9, 16}
"""Also int32, int64, bool and bfloat16."""

SMALLEST_NORMAL = {"float16": 2.0**-14, "float32": 2.0**-126}
"""Smaller numbers lose bits, or are taken for zero."""


def opset_is_read(file: File) -> Iterator[LoweringError]:
    """The file is of an operator set that the parser reads. [3]"""
    for opset in file.model.opset_import:
        if opset.domain == "" and opset.version not in OPSETS:
            message = f"the file is of opset {opset.version}, TensorRT 10.0 reads {OPSETS.start} to {OPSETS.stop - 1}"
            yield fault(None, message, "--set opset=20")


def operators_are_read(file: File) -> Iterator[LoweringError]:
    """Every operator is one of ONNX's own that the parser reads. [3]"""
    for node in file.graph.node:
        if node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS:
            yield fault(node, f"TensorRT's parser is not known to read {node.op_type}", "write the layer otherwise")


def shapes_are_static(file: File) -> Iterator[LoweringError]:
    """Every size is a number. TensorRT takes ranges too, for an engine per range; the bundle has one clip shape."""
    for name in {**file.values, **file.producers}:
        shape = file.values[name].shape if name in file.values and file.values[name].HasField("shape") else None
        sizes = None if shape is None else [axis.dim_value if axis.HasField("dim_value") else -1 for axis in shape.dim]
        if name and (sizes is None or min(sizes, default=0) < 0):
            message = f"the tensor {name} has no static shape"
            yield fault(file.producers.get(name), message, "export the network for one clip shape")


def ranks_are_at_most_4(file: File) -> Iterator[LoweringError]:
    """No tensor has more axes than the INT8 kernels of convolutions and pools take. [3]"""
    for name, value in file.values.items():
        if len(value.shape.dim) > MAX_RANK:
            message = f"the tensor {name} has {len(value.shape.dim)} axes, at most {MAX_RANK} are taken"
            # What is given has no layer; its reader does.
            blamed = file.producers.get(name) or next(iter(file.consumers.get(name, [])), None)
            yield fault(blamed, message, "use the rank-4 layers of d3d_edge.models.layers")


def types_are_taken(file: File) -> Iterator[LoweringError]:
    """Every tensor is of a type that TensorRT has, which double is not: it is cast down where that goes. [3] [4]"""
    from onnx import TensorProto

    for name, value in file.values.items():
        if value.elem_type not in _TYPES:
            kind = TensorProto.DataType.Name(value.elem_type).lower()
            message = f"the tensor {name} is {kind}, which TensorRT has not"
            yield fault(file.producers.get(name), message, "compute in float32")


def uint8_is_cast_at_once(file: File) -> Iterator[LoweringError]:
    """uint8 is a type of inputs and outputs only, and is cast to float where it enters. [4]

    What is rounded to it, or read as rounded, has a rule of its own.
    """
    ends = {value.name for value in (*file.graph.input, *file.graph.output)}
    kinds = {name: value.elem_type for name, value in file.values.items()}
    kinds |= {name: tensor.data_type for name, tensor in file.constants.items()}
    for name in (name for name, kind in kinds.items() if kind == _UINT8):
        for node in file.consumers.get(name, []):
            if node.op_type in (_Q, _DQ):
                continue
            if name not in ends:
                message = f"{node.name} reads {name}; uint8 can only be an input or output of the network"
                yield fault(node, message, "compute in float32")
            elif node.op_type != "Cast" or number(node, "to", 0) not in _FLOATS:
                message = f"{node.name} reads the bytes of {name}; uint8 can only be cast to float"
                yield fault(node, message, "begin the network with clip.to(torch.float32)")


def zero_points_are_zero(file: File) -> Iterator[LoweringError]:
    """Quantization is symmetric: a zero point holds zeros only. [2]"""
    for node in file.of(_Q, _DQ):
        points = file.array(node.input[2]) if len(node.input) > 2 else None
        if points is not None and points.any():
            yield fault(node, f"{node.name} has a zero point other than 0", "quantize with scheme: symmetric")


def quantized_is_int8(file: File) -> Iterator[LoweringError]:
    """Quantized values are int8; uint8 cannot represent them. [2] [4]"""
    for node in file.of(_Q, _DQ):
        point = file.constants.get(node.input[2]) if len(node.input) > 2 else None
        if point is None or point.data_type != _INT8:
            yield fault(node, f"{node.name} is not of type int8", "quantize to int8, from -128 to 127")


def scales_are_constant_and_positive(file: File) -> Iterator[LoweringError]:
    """A scale is known when the engine is built, finite and positive. [2] One too small to keep its bits is as zero."""
    for node in file.of(_Q, _DQ):
        scale = file.array(node.input[1])
        if scale is None:
            yield fault(node, f"the scale of {node.name} is computed, not constant", "quantize the run again")
            continue
        wrong = scale[~((scale >= SMALLEST_NORMAL.get(str(scale.dtype), 0.0)) & (scale < math.inf))]
        if wrong.size:
            message = f"a scale of {node.name}, {wrong.flat[0]:.3g}, is no normal {scale.dtype}"
            yield fault(node, message, "calibrate on more clips, or use --precision int8")


def scales_per_channel_are_of_weights(file: File) -> Iterator[LoweringError]:
    """Activations have one scale; weights may have one per output channel of the operator that reads them. [1] [2]"""
    for node in file.of(_Q, _DQ):
        scale = file.array(node.input[1])
        if scale is None or scale.size == 1:
            continue
        if node.input[0] not in file.constants:
            yield fault(node, f"{node.name} has a scale per channel of an activation", "use one scale per activation")
            continue
        sizes = list(file.constants[node.input[0]].dims) or [1]
        axis = number(node, "axis", 1)
        axis += len(sizes) if axis < 0 else 0
        name = node.output[0]
        channels = {_output_axis(reader, name, len(sizes)) for reader in file.consumers.get(name, [])} or {0}
        wrong = sorted(channels - {axis})
        if wrong:
            message = f"{node.name} has one scale per index of axis {axis}, output channels are axis {wrong[0]}"
            yield fault(node, message, f"quantize weights per output channel: ch_axis={wrong[0]}")
        elif scale.size != sizes[axis]:
            message = f"{node.name} has {scale.size} scales for {sizes[axis]} output channels"
            yield fault(node, message, "quantize the run again")


def _output_axis(reader: onnx.NodeProto, weight: str, axes: int) -> int:
    """Which axis of its `weight`, of so many `axes`, are the output channels of `reader`."""
    is_factor = reader.op_type in ("Gemm", "MatMul") and reader.input[1] == weight
    return axes - 1 if is_factor and not number(reader, "transB", 0) else 0


def rounded_values_are_only_dequantized(file: File) -> Iterator[LoweringError]:
    """Only DequantizeLinear reads what a QuantizeLinear wrote: TensorRT moves and fuses the two as a pair. [1]"""
    outputs = {value.name for value in file.graph.output}
    for node in file.of(_Q):
        name = node.output[0]
        for reader in file.consumers.get(name, []):
            if reader.op_type != _DQ:
                message = f"{reader.name} reads {name} as {node.name} rounded it, with no DequantizeLinear between"
                yield fault(reader, message, "write the operator on what is dequantized")
        if name in outputs:
            yield fault(node, f"the output {name} is given as {node.name} rounded it", "dequantize it first")


def values_are_read_as_they_were_rounded(file: File) -> Iterator[LoweringError]:
    """A DequantizeLinear reads constants, or what a QuantizeLinear of the same scale wrote. [1]"""
    for node in file.of(_DQ):
        name = node.input[0]
        if name in file.constants:
            continue
        rounding = file.producers.get(name)
        if rounding is None or rounding.op_type != _Q:
            yield fault(node, f"{node.name} reads {name}, which no QuantizeLinear made", "quantize the run again")
            continue
        written, read = (file.array(pair.input[1]) for pair in (rounding, node))
        if written is not None and read is not None and (written.shape != read.shape or (written != read).any()):
            message = f"{node.name} has another scale than {rounding.name}, whose values it reads"
            yield fault(node, message, "quantize the run again")


def inputs_are_quantized(file: File) -> Iterator[LoweringError]:
    """What a weighted operator, a join, a gate's product or a sum reads comes from DequantizeLinear, or is float. [1]

    Layers that the recipe left in float are meant to be. What has a constant is normalisation, which is float.
    """
    if not file.is_quantized():
        return
    products = (node for node in file.of("Mul", "Add") if not any(name in file.constants for name in node.input))
    for node in (*file.of(*_WEIGHTED, "Concat"), *products):
        if node.name.partition("/")[0] in file.kept_float:
            continue
        for name in node.input[:2] if node.op_type in _WEIGHTED else node.input:
            if name not in file.producers or file.producers[name].op_type != _DQ:
                message = f"the input {name} of {node.name} is not quantized"
                yield fault(node, message, "quantize the run again with this version, whose quantizer rounds both")


def relu_follows_its_convolution(file: File) -> Iterator[LoweringError]:
    """No Q/DQ stands between a weighted operator and its batch norm or ReLU, which TensorRT fuses into it. [1]"""
    for node in (scaled for weighted in file.of(*_WEIGHTED) for scaled in file.scaled(weighted)):
        for quantize in (user for user in file.behind(node) if user.op_type == _Q):
            for after in file.behind(quantize, (*MOVING, _Q, _DQ)):
                if after.op_type in ("Relu", "Clip", "BatchNormalization"):
                    message = f"{quantize.name} stands between {node.name} and {after.name}"
                    yield fault(node, message, "quantize what comes after the pair instead")


def pools_give_no_places(file: File) -> Iterator[LoweringError]:
    """The second output of a MaxPool, where each maximum stood, is not given. [3]"""
    for node in file.of("MaxPool"):
        if len(node.output) > 1 and node.output[1]:
            message = f"{node.name} gives {node.output[1]}, the places of its maxima"
            yield fault(node, message, "let it give values only")


def batch_norms_are_trained(file: File) -> Iterator[LoweringError]:
    """A batch norm has its statistics, and makes none. [6] (DEFINE_OP_CHECKER of BatchNormalization)"""
    for node in file.of("BatchNormalization"):
        if number(node, "training_mode", 0) or any(node.output[1:]):
            message = f"{node.name} is in training mode: it makes its statistics of the clip itself"
            yield fault(node, message, "export the network in evaluation mode: network.eval()")


def pools_are_dense(file: File) -> Iterator[LoweringError]:
    """A pool reads neighbours: its dilations are 1. [6] (poolingCheckHelper)"""
    for node in file.of("MaxPool", "AveragePool"):
        dilations = [list(attribute.ints) for attribute in node.attribute if attribute.name == "dilations"]
        if any(step != 1 for found in dilations for step in found):
            yield fault(node, f"{node.name} has the dilations {dilations[0]}, only 1 is taken", "pool with dilation=1")


def constants_are_finite(file: File) -> Iterator[LoweringError]:
    """A weight or bias is a number: TensorRT takes any, and answers with none. Scales have a rule of their own."""
    from onnx import numpy_helper

    scales = {node.input[1] for node in file.of(_Q, _DQ)}
    for name, tensor in file.constants.items():
        if tensor.data_type in _FLOATS and name not in scales and not np.isfinite(numpy_helper.to_array(tensor)).all():
            reader = next(iter(file.consumers.get(name, [])), None)
            message = f"the constant {name} holds what is no finite number"
            yield fault(reader, message, "train again, with a lower learning_rate in the recipe")


def float_types_are_of_one_kind(file: File) -> Iterator[LoweringError]:
    """Strong typing computes in the types of the file: in a float16 network, a float32 tensor inside is a slow island.

    [5] Only the output may be float32, and the cast that makes it.
    """
    inside = {name: v.elem_type for name, v in file.values.items() if v.elem_type in _FLOATS}
    if _FLOAT16 not in inside.values():
        return
    outputs = {value.name for value in file.graph.output}
    for name, kind in inside.items():
        if kind != _FLOAT16 and name not in outputs:
            message = f"the tensor {name} is {_FLOATS[kind]} in a float16 network"
            yield fault(file.producers.get(name), message, "report this: export should have converted it")


RULES: tuple[Callable[[File], Iterator[LoweringError]], ...] = (
    opset_is_read,
    operators_are_read,
    shapes_are_static,
    ranks_are_at_most_4,
    types_are_taken,
    uint8_is_cast_at_once,
    zero_points_are_zero,
    quantized_is_int8,
    scales_are_constant_and_positive,
    scales_per_channel_are_of_weights,
    rounded_values_are_only_dequantized,
    values_are_read_as_they_were_rounded,
    inputs_are_quantized,
    relu_follows_its_convolution,
    pools_give_no_places,
    batch_norms_are_trained,
    pools_are_dense,
    constants_are_finite,
    float_types_are_of_one_kind,
)


def faults(model: onnx.ModelProto, kept_float: frozenset[str] = frozenset()) -> Iterator[LoweringError]:
    """What in `model`, after `infer_shapes`, breaks a rule; `kept_float`: layers that are in float on purpose."""
    file = File(model, kept_float)
    for rule in RULES:
        yield from rule(file)
