"""TensorRT's rules for a Q/DQ file: the project's own graphs keep them, and a file that breaks one is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from d3d_edge import target
from d3d_edge.errors import LoweringError, MissingDependency
from d3d_edge.runtimes import tensorrt
from tests import networks

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.slow

JETSON = target.load("jetson")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("jetson")
    tensorrt.RUNTIME.lower(networks.quantized(), path, JETSON)
    return path


@pytest.fixture
def model(folder: Path) -> onnx.ModelProto:
    return onnx.load(folder / tensorrt.MODEL)


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


def test_the_affine_scheme_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoweringError, match=r"zero point.*scheme: symmetric"):
        tensorrt.RUNTIME.lower(networks.quantized("affine"), tmp_path, JETSON)
    assert not any(tmp_path.iterdir())


def test_a_float_network_has_no_quantization(tmp_path: Path) -> None:
    facts = tensorrt.RUNTIME.lower(networks.float_program(), tmp_path, JETSON).facts
    assert facts["quantize_operators"] == facts["dequantize_operators"] == 0


def test_a_planted_zero_point_is_refused(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    zero_point = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[2])
    zero_point.CopyFrom(onnx.helper.make_tensor(zero_point.name, onnx.TensorProto.INT8, zero_point.dims, [3]))
    with pytest.raises(LoweringError, match="zero point other than 0"):
        tensorrt.check(model)


def test_a_planted_float_input_is_refused(model: onnx.ModelProto) -> None:
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    dequantize = next(node for node in model.graph.node if node.output[0] == conv.input[0])
    quantize = next(node for node in model.graph.node if node.output[0] == dequantize.input[0])
    conv.input[0] = quantize.input[0]
    with pytest.raises(LoweringError, match="is not quantized"):
        tensorrt.check(model)


def test_a_planted_fifth_axis_is_refused(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(onnx.helper.make_tensor("axes", onnx.TensorProto.INT64, [3], [0, 1, 2]))
    logits = model.graph.output[0].name
    model.graph.node.append(onnx.helper.make_node("Unsqueeze", [logits, "axes"], ["planted"]))
    with pytest.raises(LoweringError, match="5 axes"):
        tensorrt.check(model)


def test_a_planted_dynamic_shape_is_refused(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "frames"
    with pytest.raises(LoweringError):
        tensorrt.check(model)


def test_an_invalid_file_is_refused(model: onnx.ModelProto) -> None:
    model.graph.node[-1].op_type = "NoSuchOperator"
    with pytest.raises(LoweringError, match="not valid"):
        tensorrt.check(model)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"d3d-edge\[jetson\]"):
        tensorrt.RUNTIME.check_lower()
    with pytest.raises(MissingDependency, match="onnxruntime"):
        tensorrt.RUNTIME.check_run()
