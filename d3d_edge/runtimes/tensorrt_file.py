"""An ONNX file as the rules of TensorRT read it, and what they say of a node. Part of the TensorRT runtime."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from importlib import metadata
from typing import TYPE_CHECKING, Any

from d3d_edge.errors import LoweringError

if TYPE_CHECKING:
    import onnx

MOVING = ("Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
"""Operators that neither add a value nor compare two."""


class File:
    """An ONNX model and what its rules look up; `infer_shapes` must have been run over it."""

    def __init__(self, model: onnx.ModelProto, kept_float: frozenset[str] = frozenset()) -> None:
        self.kept_float = kept_float
        self.model, self.graph = model, model.graph
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.producers = {name: node for node in model.graph.node for name in node.output}

    @cached_property
    def consumers(self) -> dict[str, list[Any]]:
        """The nodes that read each value."""
        found: dict[str, list[Any]] = {}
        for node in self.graph.node:
            for name in node.input:
                found.setdefault(name, []).append(node)
        return found

    def behind(self, node: Any, through: tuple[str, ...] = MOVING) -> Iterator[Any]:
        """The nodes that read the first value of `node`, also `through` operators that keep it."""
        for user in self.consumers.get(node.output[0], []):
            yield user
            if user.op_type in through:
                yield from self.behind(user, through)

    @cached_property
    def values(self) -> dict[str, Any]:
        """Type and shape of each value that is not a constant."""
        every = (*self.graph.input, *self.graph.value_info, *self.graph.output)
        return {value.name: value.type.tensor_type for value in every}

    def of(self, *operators: str) -> Iterator[Any]:
        """The nodes of these operators."""
        return (node for node in self.graph.node if node.op_type in operators)

    def array(self, name: str) -> Any | None:
        """The constant of that name as an array."""
        from onnx import numpy_helper

        return numpy_helper.to_array(self.constants[name]) if name in self.constants else None

    def is_quantized(self) -> bool:
        """Whether anything is quantized."""
        return any(True for _ in self.of("QuantizeLinear"))


def fault(node: Any | None, message: str, hint: str) -> LoweringError:
    """`message` about `node`, whose name begins with its layer."""
    layer, _, rest = node.name.partition("/") if node is not None else ("", "", "")
    return LoweringError(
        message,
        stage="check",
        layer=layer if rest else "",
        operator=node.op_type if node is not None else "",
        runtime=f"TensorRT, onnx {metadata.version('onnx')}",
        hint=hint,
    )
