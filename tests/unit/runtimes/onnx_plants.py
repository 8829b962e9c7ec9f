"""Constants and inputs for nodes of an ONNX file that tests plant a fault in, and a product of matrices to plant."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.unit.runtimes.onnx_files import first

onnx = pytest.importorskip("onnx")


def set_constant(model: onnx.ModelProto, node: Any, place: int, value: Any) -> None:
    """Give `node` a constant of its own."""
    model.graph.initializer.append(onnx.numpy_helper.from_array(value, f"planted_{place}"))
    node.input[place] = f"planted_{place}"


def hold_constant(model: onnx.ModelProto, node: Any, place: int, **value: Any) -> None:
    """Give `node` what a Constant node of its own holds."""
    held = f"held_{place}"
    model.graph.node.insert(0, onnx.helper.make_node("Constant", [], [held], name=held, **value))
    node.input[place] = held


def set_scales(model: onnx.ModelProto, node: onnx.NodeProto, count: int) -> None:
    """Give `node` a scale per channel."""
    set_constant(model, node, 1, np.full(count, 0.1, np.float32))
    set_constant(model, node, 2, np.zeros(count, np.int8))


def read_float(model: onnx.ModelProto, node: Any, place: int) -> None:
    """Let `node` read what was quantized, before it was."""
    dequantize = next(one for one in model.graph.node if node.input[place] in one.output)
    quantize = next(one for one in model.graph.node if dequantize.input[0] in one.output)
    node.input[place] = quantize.input[0]


def add_cast(model: onnx.ModelProto, kind: int) -> None:
    """Cast what a ReLU gives to another type."""
    output = first(model, "Relu", "temporal.spatial/").output[0]
    model.graph.node.append(onnx.helper.make_node("Cast", [output], ["cast"], name="temporal.spatial/cast", to=kind))


def add_rounded(model: onnx.ModelProto, source: str, result: str, before: Any | None = None) -> None:
    """Let `result` be what a Q/DQ pair makes of `source`, as the last nodes or those before one."""
    nodes = model.graph.node
    at = len(nodes) if before is None else list(nodes).index(before)
    grid = first(model, "QuantizeLinear").input[1:]
    rounded = f"{result}_rounded"
    parts = (("DequantizeLinear", rounded, result), ("QuantizeLinear", source, rounded))
    for operator, read, made in parts:
        nodes.insert(at, onnx.helper.make_node(operator, [read, *grid], [made], name=f"planted/{made}"))


def add_product(model: onnx.ModelProto, operator: str, axis: int, **attributes: int) -> None:
    """Let `product` [1, 7] be the logits [1, 5] times an INT8 weight with a scale per index of `axis`."""
    weight = np.ones((7, 5) if attributes.get("transB") else (5, 7), np.int8)
    read = onnx.helper.make_node("DequantizeLinear", ["", "", ""], ["weight"], name="product/weight", axis=axis)
    set_constant(model, read, 0, weight)
    set_scales(model, read, weight.shape[axis])
    add_rounded(model, "logits", "factor")
    product = onnx.helper.make_node(operator, ["factor", "weight"], ["product"], name="product/product", **attributes)
    model.graph.node.extend((read, product))


def add_bias(model: onnx.ModelProto, source: str) -> str:
    """Add a constant to `source`; the name of what that gives."""
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0.5), "bias"))
    model.graph.node.append(onnx.helper.make_node("Add", [source, "bias"], ["biased"], name=f"{source}/biased"))
    return "biased"
