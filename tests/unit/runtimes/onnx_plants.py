"""Constants of their own for nodes of an ONNX file, and other inputs, for tests that plant a fault in one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

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
