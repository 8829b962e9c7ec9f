"""TensorRT's rules for a Q/DQ file: the project's own graphs keep them, and a file that breaks one is refused."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from d3d_edge.errors import LoweringError
from d3d_edge.runtimes import tensorrt, tensorrt_rules
from tests.unit.runtimes import onnx_plants as plants
from tests.unit.runtimes.onnx_files import constant, first

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.slow


def plant_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 21


def plant_operator(model: onnx.ModelProto) -> None:
    first(model, "Relu", "temporal.spatial/").op_type = "Shrink"


def plant_dynamic_shape(model: onnx.ModelProto) -> None:
    model.graph.input.append(onnx.helper.make_tensor_value_info("planted", onnx.TensorProto.FLOAT, ["clips", 3]))


def plant_size_below_zero(model: onnx.ModelProto) -> None:
    model.graph.input.append(onnx.helper.make_tensor_value_info("planted", onnx.TensorProto.FLOAT, [-1, 3]))


def plant_axis(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(onnx.helper.make_tensor("axes", onnx.TensorProto.INT64, [1], [0]))
    pool = first(model, "MaxPool", "pool/")
    model.graph.node.append(onnx.helper.make_node("Unsqueeze", [pool.output[0], "axes"], ["p"], name="pool/planted"))


def plant_computed_shape(model: onnx.ModelProto) -> None:
    """Nobody knows even the number of axes of what a computed shape makes."""
    output = model.graph.output[0].name
    model.graph.node.append(onnx.helper.make_node("Cast", [output], ["sizes"], name="logits/sizes", to=7))
    model.graph.node.append(onnx.helper.make_node("Squeeze", ["sizes"], ["flat"], name="logits/flat"))
    model.graph.node.append(onnx.helper.make_node("Reshape", [output, "flat"], ["shaped"], name="logits/planted"))


def plant_double(model: onnx.ModelProto) -> None:
    plants.add_cast(model, onnx.TensorProto.DOUBLE)


def plant_uint16(model: onnx.ModelProto) -> None:
    plants.add_cast(model, onnx.TensorProto.UINT16)


def plant_bytes(model: onnx.ModelProto) -> None:
    model.graph.node.append(onnx.helper.make_node("Relu", ["clip"], ["planted"], name="stem/planted"))


def plant_bytes_as_numbers(model: onnx.ModelProto) -> None:
    first(model, "Cast").input[0] = "numbers"
    model.graph.node.insert(0, onnx.helper.make_node("Cast", ["clip"], ["numbers"], name="stem/planted", to=6))


def plant_bytes_inside(model: onnx.ModelProto) -> None:
    plants.add_cast(model, onnx.TensorProto.UINT8)
    model.graph.node.append(onnx.helper.make_node("Cast", ["cast"], ["back"], name="temporal.spatial/back", to=1))


def plant_table_of_bytes(model: onnx.ModelProto) -> None:
    table = onnx.helper.make_node("Gather", ["", ""], ["row"], name="stem/table")
    plants.set_constant(model, table, 0, np.zeros((2, 3), np.uint8))
    plants.set_constant(model, table, 1, np.int64(1))
    model.graph.node.append(table)


def plant_zero_point(model: onnx.ModelProto) -> None:
    plants.set_constant(model, first(model, "QuantizeLinear", "pool/"), 2, np.int8(3))


def plant_uint8(model: onnx.ModelProto) -> None:
    quantize = first(model, "QuantizeLinear", "pointwise.spatial/")
    del model.graph.value_info[:]  # Which say int8.
    plants.set_constant(model, quantize, 2, np.uint8(0))
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] == quantize.output[0]:
            node.input[2] = "planted_2"


def plant_tiny_scale(model: onnx.ModelProto) -> None:
    plants.set_constant(model, first(model, "QuantizeLinear", "pool/"), 1, np.float32(1e-39))


def plant_endless_scale(model: onnx.ModelProto) -> None:
    plants.set_constant(model, first(model, "QuantizeLinear", "pool/"), 1, np.float32("inf"))


def plant_scale_that_is_no_number(model: onnx.ModelProto) -> None:
    plants.set_constant(model, first(model, "QuantizeLinear", "pool/"), 1, np.float32("nan"))


def plant_node_whose_scale_is_no_number(model: onnx.ModelProto) -> None:
    plants.hold_constant(model, first(model, "QuantizeLinear", "pool/"), 1, value_float=float("nan"))


def plant_node_whose_zero_point_is_not_zero(model: onnx.ModelProto) -> None:
    point = onnx.numpy_helper.from_array(np.int8(3))
    plants.hold_constant(model, first(model, "QuantizeLinear", "pool/"), 2, value=point)


def plant_node_whose_bias_is_no_number(model: onnx.ModelProto) -> None:
    plants.hold_constant(model, first(model, "Conv", "temporal.spatial.conv/"), 2, value_floats=[float("nan")] * 16)


def plant_other_scale(model: onnx.ModelProto) -> None:
    plants.set_constant(model, first(model, "DequantizeLinear", "pool/"), 1, np.float32(7))


def plant_cast_for_quantize(model: onnx.ModelProto) -> None:
    quantize = first(model, "QuantizeLinear", "pool/")
    quantize.op_type = "Cast"
    del quantize.input[1:]
    del quantize.attribute[:]
    quantize.attribute.append(onnx.helper.make_attribute("to", onnx.TensorProto.INT8))


def plant_relu_of_rounded_values(model: onnx.ModelProto) -> None:
    rounded = first(model, "QuantizeLinear", "pool/").output[0]
    model.graph.node.append(onnx.helper.make_node("Relu", [rounded], ["planted"], name="pool/planted"))


def plant_rounded_output(model: onnx.ModelProto) -> None:
    rounded = first(model, "QuantizeLinear", "pool/").output[0]
    model.graph.output.append(next(value for value in model.graph.value_info if value.name == rounded))


def plant_float_branch(model: onnx.ModelProto) -> None:
    plants.read_float(model, first(model, "Concat"), 1)


def plant_float_gate(model: onnx.ModelProto) -> None:
    plants.read_float(model, first(model, "Mul", "temporal.self_gating/"), 1)


def plant_scale_per_activation_channel(model: onnx.ModelProto) -> None:
    plants.set_scales(model, first(model, "QuantizeLinear", "pool/"), 8)


def plant_scale_per_input(model: onnx.ModelProto) -> None:
    node = first(model, "DequantizeLinear", "pointwise.spatial.conv/")
    plants.set_scales(model, node, 8)
    next(attribute for attribute in node.attribute if attribute.name == "axis").i = 1


def plant_float_input(model: onnx.ModelProto) -> None:
    plants.read_float(model, first(model, "Conv", "temporal.spatial.conv/"), 0)


def plant_rounding_before_relu(model: onnx.ModelProto) -> None:
    relu = first(model, "Relu", "temporal.spatial/")
    plants.add_rounded(model, relu.input[0], "p2", before=relu)
    relu.input[0] = "p2"


def plant_rounding_and_moves_before_relu(model: onnx.ModelProto) -> None:
    plant_rounding_before_relu(model)
    relu = first(model, "Relu", "temporal.spatial/")
    at = list(model.graph.node).index(relu)
    for place, (source, result) in enumerate((("p2", "p3"), ("p3", "p4"))):
        moved = onnx.helper.make_node("Transpose", [source], [result], name=f"planted/{result}", perm=[0, 1, 3, 2])
        model.graph.node.insert(at + place, moved)
    relu.input[0] = "p4"


def plant_rounding_twice_before_relu(model: onnx.ModelProto) -> None:
    plant_rounding_before_relu(model)
    relu = first(model, "Relu", "temporal.spatial/")
    plants.add_rounded(model, "p2", "p4", before=relu)
    relu.input[0] = "p4"


def plant_too_few_scales(model: onnx.ModelProto) -> None:
    plants.set_scales(model, first(model, "DequantizeLinear", "pointwise.spatial.conv/"), 5)


def plant_bias_that_is_no_number(model: onnx.ModelProto) -> None:
    plants.set_constant(model, first(model, "Conv", "temporal.spatial.conv/"), 2, np.full(16, np.nan, np.float32))


def plant_float_sum(model: onnx.ModelProto) -> None:
    gate = first(model, "Mul", "temporal.self_gating/")
    gate.op_type = "Add"
    plants.read_float(model, gate, 1)


def plant_places_of_maxima(model: onnx.ModelProto) -> None:
    first(model, "MaxPool", "pool/").output.append("places")


def plant_dilated_pool(model: onnx.ModelProto) -> None:
    pool = first(model, "MaxPool", "pool/")
    (dilations,) = (attribute for attribute in pool.attribute if attribute.name == "dilations")
    (pads,) = (attribute for attribute in pool.attribute if attribute.name == "pads")
    dilations.ints[:] = [2, 2]
    pads.ints[:] = [side + 1 for side in pads.ints]


@pytest.mark.parametrize(
    ("plant", "said"),
    [
        (plant_opset, "of opset 21, TensorRT 10.0 reads 13 to 20"),
        (plant_operator, r"not known to read Shrink.*layer temporal.spatial, operator Shrink"),
        (plant_dynamic_shape, "the tensor planted has no static shape"),
        (plant_size_below_zero, "the tensor planted has no static shape"),
        (plant_computed_shape, r"shaped has no static shape.*layer logits, operator Reshape.*one clip shape"),
        (plant_double, r"cast is double, which TensorRT has not.*layer temporal.spatial, operator Cast.*float32"),
        (plant_uint16, r"cast is uint16, which TensorRT has not.*layer temporal.spatial, operator Cast"),
        (plant_axis, r"the tensor p has 5 axes.*layer pool, operator Unsqueeze"),
        (plant_bytes, r"uint8 can only be cast to float.*layer stem, operator Relu"),
        (plant_bytes_as_numbers, r"the bytes of clip; uint8 can only be cast to float.*layer stem, operator Cast"),
        (plant_bytes_inside, r"back reads cast; uint8 can only be an input or output.*layer temporal.spatial"),
        (plant_table_of_bytes, r"uint8 can only be an input or output.*layer stem, operator Gather.*in float32"),
        (plant_zero_point, r"a zero point other than 0.*layer pool, operator QuantizeLinear.*scheme: symmetric"),
        (plant_uint8, r"is not of type int8.*layer pointwise.spatial, operator QuantizeLinear"),
        (plant_tiny_scale, r"is no normal float32.*layer pool, operator QuantizeLinear"),
        (plant_endless_scale, r"is no normal float32.*layer pool, operator QuantizeLinear"),
        (plant_scale_that_is_no_number, r"is no normal float32.*layer pool, operator QuantizeLinear"),
        (plant_node_whose_scale_is_no_number, r"is no normal float32.*layer pool, operator QuantizeLinear"),
        (plant_node_whose_zero_point_is_not_zero, r"a zero point other than 0.*layer pool, operator QuantizeLinear"),
        (plant_node_whose_bias_is_no_number, r"held_2 holds what is no finite number.*layer temporal.spatial.conv"),
        (plant_other_scale, r"has another scale than \S+, whose values.*layer pool, operator DequantizeLinear"),
        (plant_cast_for_quantize, r"which no QuantizeLinear made.*layer pool, operator DequantizeLinear"),
        (plant_relu_of_rounded_values, r"with no DequantizeLinear between.*layer pool, operator Relu"),
        (plant_rounded_output, r"the output \S+ is given as \S+ rounded it.*layer pool, operator QuantizeLinear"),
        (plant_float_branch, r"the input \S+ of \S+ is not quantized.*layer temporal, operator Concat"),
        (plant_float_gate, r"the input \S+ of \S+ is not quantized.*layer temporal.self_gating, operator Mul"),
        (plant_scale_per_activation_channel, r"per channel of an activation.*layer pool, operator QuantizeLinear"),
        (plant_scale_per_input, r"per index of axis 1.*layer pointwise.spatial.conv, operator DequantizeLinear"),
        (plant_float_input, r"the input \S+ of \S+ is not quantized.*layer temporal.spatial.conv, operator Conv"),
        (plant_rounding_and_moves_before_relu, r"stands between \S+ and \S+ \[.*temporal.spatial.conv, operator Conv"),
        (plant_too_few_scales, r"has 5 scales for 16 output.*layer pointwise.spatial.conv, operator DequantizeLinear"),
        (plant_bias_that_is_no_number, r"no finite number.*layer temporal.spatial.conv, operator Conv"),
        (plant_float_sum, r"the input \S+ of \S+ is not quantized.*layer temporal.self_gating, operator Add"),
        (plant_places_of_maxima, r"gives places, the places of its maxima.*layer pool, operator MaxPool"),
        (plant_dilated_pool, r"has the dilations \[2, 2\], only 1.*layer pool, operator MaxPool.*dilation=1"),
        (plant_rounding_twice_before_relu, r"stands between \S+ and \S+ \[.*temporal.spatial.conv, operator Conv"),
        (plant_rounding_before_relu, r"stands between \S+ and \S+ \[.*layer temporal.spatial.conv, operator Conv"),
    ],
    ids=lambda value: value.__name__.removeprefix("plant_") if callable(value) else "",
)
def test_a_planted_breach_of_a_rule_is_refused_and_named(
    plant: Callable[[onnx.ModelProto], None], said: str, model: onnx.ModelProto
) -> None:
    plant(model)
    with pytest.raises(LoweringError, match=said) as caught:
        tensorrt.check(model)
    assert "\n" not in str(caught.value)
    assert re.search(said, tensorrt.check(model, allow_fallback=True)[0])


products = pytest.mark.parametrize(
    ("operator", "channels", "attributes"), [("MatMul", 1, {}), ("Gemm", 1, {}), ("Gemm", 0, {"transB": 1})]
)


@products
@pytest.mark.parametrize("biased", [False, True])
def test_rounding_between_a_product_of_matrices_and_its_relu_is_refused(
    operator: str, channels: int, attributes: dict[str, int], biased: bool, model: onnx.ModelProto
) -> None:
    plants.add_product(model, operator, channels, **attributes)
    made = plants.add_bias(model, "product") if biased else "product"
    plants.add_rounded(model, made, "again")
    model.graph.node.append(onnx.helper.make_node("Relu", ["again"], ["planted"], name="planted/relu"))
    with pytest.raises(LoweringError, match=rf"again_rounded stands between product/{made} and planted/relu"):
        tensorrt.check(model)


@products
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_a_matrix_has_a_scale_per_output_channel_of_what_reads_it(
    operator: str, channels: int, attributes: dict[str, int], axis: int, model: onnx.ModelProto
) -> None:
    plants.add_product(model, operator, axis, **attributes)
    said = f"product/weight has one scale per index of axis {axis % 2}, output channels are axis {channels}"
    refused = tensorrt.check(model, allow_fallback=True)
    assert not refused if axis % 2 == channels else refused[0].startswith(said)


def test_a_layer_that_is_float_on_purpose_is_let_pass(model: onnx.ModelProto) -> None:
    plant_float_input(model)
    assert tensorrt.check(model, kept_float=frozenset({"temporal.spatial.conv"})) == ()
    with pytest.raises(LoweringError, match="is not quantized"):
        tensorrt.check(model, kept_float=frozenset({"temporal"}))


def test_what_a_constant_node_holds_is_constant(model: onnx.ModelProto) -> None:
    pair = [first(model, operator, "pool/") for operator in ("QuantizeLinear", "DequantizeLinear")]
    for place, name in enumerate(pair[0].input[1:], 1):
        value = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(constant(model, name)))
        for node in pair:
            node.input[place] = name + "_held"
        model.graph.node.insert(0, onnx.helper.make_node("Constant", [], [name + "_held"], name=name, value=value))
    assert tensorrt.check(model) == ()


def test_every_rule_says_where_it_comes_from_and_is_broken_above() -> None:
    assert all(re.search(r"\[\d\]|TensorRT", rule.__doc__ or "") for rule in tensorrt_rules.RULES)
    planted = [name for name in globals() if name.startswith("plant_")]
    # That of float types is broken in test_tensorrt_float16.py, where there is a file of float16.
    assert len(planted) >= len(tensorrt_rules.RULES) - 1


def test_an_invalid_file_is_refused(model: onnx.ModelProto) -> None:
    model.graph.node[-1].op_type = "NoSuchOperator"
    with pytest.raises(LoweringError, match="not valid"):
        tensorrt.check(model)
