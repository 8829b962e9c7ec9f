"""The float parts of an ONNX file as float16, by the types in the file, and weights whose scale that cannot hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torch.export import ExportedProgram

from d3d_edge import target
from d3d_edge.errors import LoweringError
from d3d_edge.runtimes import tensorrt, tensorrt_float16
from tests import networks
from tests.unit.runtimes.onnx_files import constant, first

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.slow

JETSON = target.load("jetson")


@pytest.mark.parametrize(
    ("make", "precision"), [(networks.quantized, "int8+float16"), (networks.float_program, "float16")]
)
def test_float_parts_become_float16_by_the_types_in_the_file(
    make: Callable[[], ExportedProgram], precision: target.Precision, tmp_path: Path
) -> None:
    tensorrt.RUNTIME.lower(make(), tmp_path, JETSON, precision=precision)
    model = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / tensorrt.MODEL), strict_mode=True)
    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    assert onnx.TensorProto.FLOAT not in kinds.values()
    assert onnx.TensorProto.FLOAT not in {tensor.data_type for tensor in model.graph.initializer}
    assert model.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    cast = first(model, "Cast")
    cast.attribute[0].i = onnx.TensorProto.FLOAT
    with pytest.raises(LoweringError, match=r"not valid|is float32 in a float16 network"):
        tensorrt.check(model)


def test_weights_whose_scale_float16_cannot_hold_are_rounded_again(model: onnx.ModelProto) -> None:
    node = first(model, "DequantizeLinear", "stem.conv/")
    weight, scale = (onnx.numpy_helper.to_array(constant(model, name)) for name in node.input[:2])
    small = scale.copy()
    small[0] = 2.0**-16
    constant(model, node.input[1]).CopyFrom(onnx.numpy_helper.from_array(small, node.input[1]))
    tensorrt_float16.convert(model)
    tensorrt.check(model)
    rounded, kept = (onnx.numpy_helper.to_array(constant(model, name)) for name in node.input[:2])
    assert kept[0] == 2.0**-14
    np.testing.assert_array_equal(rounded[0], np.rint(weight[0] / 4))
    np.testing.assert_array_equal(rounded[1:], weight[1:])


def test_a_bias_that_float16_cannot_hold_is_refused_with_its_layer(model: onnx.ModelProto) -> None:
    bias = constant(model, first(model, "Conv", "temporal.spatial.conv/").input[2])
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(16, -1e5, np.float32), bias.name))
    said = r"holds 1e\+05, and float16 goes to 65504 .*layer temporal.spatial.conv, operator Conv.*--precision float32"
    with pytest.raises(LoweringError, match=said):
        tensorrt_float16.convert(model)


def test_an_activation_that_float16_cannot_hold_is_refused_where_it_would_be(tmp_path: Path) -> None:
    program = networks.reopened(networks.quantized())
    for node in program.graph.nodes:
        if "quantize_per_tensor" in node.name:
            node.args = (node.args[0], 600.0, *node.args[2:])
    tensorrt.RUNTIME.lower(program, tmp_path, JETSON, precision="int8")
    with pytest.raises(LoweringError, match=r"numbers up to 7.68e\+04, and TensorRT in float16 computes to 65504"):
        tensorrt.RUNTIME.lower(program, tmp_path, JETSON, precision="int8+float16")


def test_a_scale_that_two_weights_share_is_raised_for_both(model: onnx.ModelProto) -> None:
    one, other = (
        first(model, "DequantizeLinear", f"{layer}/") for layer in ("temporal.spatial.conv", "temporal.temporal.conv")
    )
    scale = onnx.numpy_helper.to_array(constant(model, one.input[1])).copy()
    scale[0] = 2.0**-16
    constant(model, one.input[1]).CopyFrom(onnx.numpy_helper.from_array(scale, one.input[1]))
    other.input[1] = one.input[1]
    before = [onnx.numpy_helper.to_array(constant(model, node.input[0])) for node in (one, other)]
    tensorrt_float16.convert(model)
    for node, weight in zip((one, other), before, strict=True):
        rounded = onnx.numpy_helper.to_array(constant(model, node.input[0]))
        np.testing.assert_array_equal(rounded[0], np.rint(weight[0] / 4))
        np.testing.assert_array_equal(rounded[1:], weight[1:])
