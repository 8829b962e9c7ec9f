"""What is lowered to TensorRT: one valid ONNX file, its nodes named after layers; and what cannot be is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from d3d_edge import target
from d3d_edge.errors import LoweringError, MissingDependency, RecipeError
from d3d_edge.quantize import graph_files
from d3d_edge.runtimes import tensorrt, tensorrt_rules
from tests import networks
from tests.unit.runtimes import onnx_plants as plants
from tests.unit.runtimes.onnx_files import constant, first

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.slow

JETSON = target.load("jetson")


def test_the_file_is_alone_and_valid(folder: Path, model: onnx.ModelProto) -> None:
    assert [path.name for path in folder.iterdir()] == [tensorrt.MODEL]
    onnx.checker.check_model(model, full_check=True)
    assert [opset.version for opset in model.opset_import if opset.domain == ""] == [JETSON.options["opset"]]
    assert {node.domain for node in model.graph.node} == {""}


def test_input_and_output_are_named(model: onnx.ModelProto) -> None:
    assert [value.name for value in model.graph.input] == ["clip"]
    assert [value.name for value in model.graph.output] == ["logits"]


def test_weights_are_stored_as_int8(model: onnx.ModelProto) -> None:
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    of = {node.output[0]: node for node in model.graph.node}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 6
    for node in convolutions:
        weight = of[node.input[1]]
        assert weight.op_type == "DequantizeLinear"
        assert constants[weight.input[0]].data_type == onnx.TensorProto.INT8
        assert len(constants[weight.input[1]].dims) == 1


def test_the_file_holds_no_paths(folder: Path) -> None:
    content = (folder / tensorrt.MODEL).read_bytes()
    assert b".py" not in content
    assert len(content) < 40_000


def test_an_opset_that_pytorch_does_not_write_is_refused(tmp_path: Path) -> None:
    old = JETSON.model_copy(update={"options": {"opset": 17}})
    with pytest.raises(RecipeError, match="opset is 17, which PyTorch cannot write: it wrote 18"):
        tensorrt.RUNTIME.lower(networks.stem(), tmp_path, old, precision="int8")
    assert not list(tmp_path.iterdir())


def test_the_affine_scheme_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoweringError, match=r"zero point.*scheme: symmetric"):
        tensorrt.RUNTIME.lower(networks.quantized("affine"), tmp_path, JETSON, precision="int8")
    assert not any(tmp_path.iterdir())


def test_a_float_network_has_no_quantization(tmp_path: Path) -> None:
    facts = tensorrt.RUNTIME.lower(networks.float_program(), tmp_path, JETSON, precision="int8").facts
    assert facts["quantize_operators"] == facts["dequantize_operators"] == 0


def test_an_operator_that_onnx_has_not_is_named_with_its_layer(tmp_path: Path) -> None:
    graph_files.save(networks.quantized(), tmp_path / "graph.pt2")
    program = graph_files.load(tmp_path / "graph.pt2")  # one of its own, to plant a fault in
    relu = next(node for node in program.graph.nodes if node.target is torch.ops.aten.relu.default)
    with program.graph.inserting_after(relu):
        strange = program.graph.call_function(torch.ops.aten.erfinv.default, (relu,))
    strange.meta = dict(relu.meta)
    relu.replace_all_uses_with(strange)
    strange.args = (relu,)
    with pytest.raises(LoweringError, match=r"does not know.*layer stem, operator \S*erf_inv.*operators that ONNX has"):
        tensorrt.RUNTIME.lower(program, tmp_path, JETSON, precision="int8")


def test_nodes_are_named_after_their_layers(model: onnx.ModelProto) -> None:
    layers = [node.name.partition("/")[0] for node in model.graph.node if node.op_type == "Conv"]
    found = [name for name, part in networks.small().named_modules() if isinstance(part, nn.Conv2d)]
    assert sorted(layers) == sorted(found)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"d3d-edge\[jetson\]"):
        tensorrt.RUNTIME.check_lower()
    with pytest.raises(MissingDependency, match="onnxruntime"):
        tensorrt.RUNTIME.check_run()


@pytest.mark.parametrize("training", [0, 1])
def test_a_batch_norm_that_makes_its_statistics_is_refused(training: int) -> None:
    make, types = onnx.helper, onnx.TensorProto
    names = ["logits", "mean", "variance"] if training else ["logits"]
    norm = make.make_node(
        "BatchNormalization", ["frames", *4 * ["ones"]], names, name="stem/bn", training_mode=training
    )
    cast = make.make_node("Cast", ["clip"], ["frames"], name="stem/cast", to=types.FLOAT)
    takes = make.make_tensor_value_info("clip", types.UINT8, [1, 3])
    gives = make.make_tensor_value_info("logits", types.FLOAT, [1, 3])
    ones = make.make_tensor("ones", types.FLOAT, [3], [1.0] * 3)
    graph = make.make_graph([cast, norm], "planted", [takes], [gives], [ones])
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", JETSON.options["opset"])])
    said = tensorrt.check(model, allow_fallback=True)
    assert len(said) == training
    assert all("in training mode" in text and "layer stem, operator BatchNormalization" in text for text in said)


@pytest.mark.parametrize("operator", ["Add", "Mul", "BatchNormalization"])
def test_rounding_between_what_scales_a_convolution_and_its_relu_is_refused(
    operator: str, model: onnx.ModelProto
) -> None:
    relu = first(model, "Relu", "temporal.spatial/")
    convolution = next(node for node in model.graph.node if relu.input[0] in node.output)
    weight = next(node for node in model.graph.node if convolution.input[1] in node.output)
    channels = onnx.numpy_helper.to_array(constant(model, weight.input[0])).shape[0]
    count = 4 if operator == "BatchNormalization" else 1
    values = np.full((channels,) if count == 4 else (1, channels, 1, 1), 0.5, np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(values, "half"))
    scaled = onnx.helper.make_node(
        operator, [relu.input[0], *count * ["half"]], ["scaled"], name="temporal.spatial/scaled"
    )
    model.graph.node.insert(list(model.graph.node).index(relu), scaled)
    relu.input[0] = "scaled"
    assert tensorrt.check(model) == ()
    plants.add_rounded(model, "scaled", "again", before=relu)
    relu.input[0] = "again"
    with pytest.raises(
        LoweringError, match=rf"stands between {scaled.name} and {relu.name} \[.*layer temporal.spatial,"
    ):
        tensorrt.check(model)


def test_rounding_without_a_zero_point_is_of_uint8_and_is_refused(model: onnx.ModelProto) -> None:
    quantize = first(model, "QuantizeLinear", "pool/")
    del quantize.input[2:], model.graph.value_info[:]
    for node in model.graph.node:
        if quantize.output[0] in node.input:
            del node.input[2:]
    with pytest.raises(LoweringError, match=r"is not of type int8 \[.*layer pool, operator QuantizeLinear"):
        tensorrt.check(model)


def test_a_tensor_of_which_nothing_but_its_type_is_known_has_no_static_shape() -> None:
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["clip"], ["logits"], name="stem/relu")],
        "planted",
        [value("clip", onnx.TensorProto.FLOAT, [1, 3])],
        [value("logits", onnx.TensorProto.FLOAT, None)],
    )
    (found,) = tensorrt_rules.shapes_are_static(tensorrt_rules.File(onnx.helper.make_model(graph)))
    assert "the tensor logits has no static shape" in str(found)
