"""An ONNX file as the rules of TensorRT read it, and what they say of a node. Part of the TensorRT runtime."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

from d3d_edge.errors import LoweringError

if TYPE_CHECKING:
    import onnx

MOVING = ("Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
"""Operators that neither add a value nor compare two."""

_SCALING = ("Add", "Sub", "Mul", "Div")

_NUMBERS = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
"""What a Constant may hold in the place of a tensor, and the type that ONNX gives it."""


class File:
    """An ONNX model and what its rules look up; `infer_shapes` must have been run over it."""

    def __init__(self, model: onnx.ModelProto, kept_float: frozenset[str] = frozenset()) -> None:
        self.kept_float = kept_float
        self.model, self.graph = model, model.graph
        self.producers = {name: node for node in model.graph.node for name in node.output}

    @cached_property
    def constants(self) -> dict[str, onnx.TensorProto]:
        """The tensors that are known from the file: initializers, and what Constant nodes hold."""
        from onnx import helper, numpy_helper

        found = {tensor.name: tensor for tensor in self.graph.initializer}
        for node in self.of("Constant"):
            (name,), (attribute,) = node.output, node.attribute
            if attribute.name == "value":
                found[name] = attribute.t
            elif attribute.name in _NUMBERS:
                numbers = np.asarray(helper.get_attribute_value(attribute), _NUMBERS[attribute.name])
                found[name] = numpy_helper.from_array(numbers, name)
        return found

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
        """Type and shape of each value that is not an initializer."""
        every = (*self.graph.input, *self.graph.value_info, *self.graph.output)
        return {value.name: value.type.tensor_type for value in every}

    def of(self, *operators: str) -> Iterator[Any]:
        """The nodes of these operators."""
        return (node for node in self.graph.node if node.op_type in operators)

    def scaled(self, node: Any) -> Iterator[Any]:
        """`node`, and what adds constants to its values or multiplies them: a batch norm, or the bias of a MatMul."""
        yield node
        for user in self.behind(node):
            constants = sum(name in self.constants for name in user.input)
            if user.op_type == "BatchNormalization" or (user.op_type in _SCALING and constants == 1):
                yield from self.scaled(user)

    def array(self, name: str) -> Any | None:
        """The constant of that name as an array."""
        from onnx import numpy_helper

        return numpy_helper.to_array(self.constants[name]) if name in self.constants else None

    def is_quantized(self) -> bool:
        """Whether anything is quantized."""
        return any(True for _ in self.of("QuantizeLinear"))


def number(node: Any, attribute: str, default: int) -> int:
    """That attribute of `node`, or what it is where the node has none."""
    return next((found.i for found in node.attribute if found.name == attribute), default)


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
