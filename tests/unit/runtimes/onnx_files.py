"""Nodes and constants of an ONNX file, for tests that plant something in one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx


def first(model: onnx.ModelProto, operator: str, layer: str = "") -> Any:
    return next(node for node in model.graph.node if node.op_type == operator and node.name.startswith(layer))


def constant(model: onnx.ModelProto, name: str) -> Any:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)
