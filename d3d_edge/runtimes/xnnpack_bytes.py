"""Lets an XNNPACK delegate take the bytes of frames, and normalise them as bytes.

ExecuTorch knows int8 only, so it would turn uint8 frames into floats before the delegate, by a portable kernel that
took 2.3 of 2.8 ms for 16x112x112 on one thread. XNNPACK has a type for them. Where the normalised frames are INT8,
their floats are not needed either. Must not change a value that is computed. For executorch 1.4.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Graph, Node

from d3d_edge.quantize.nodes import DEQUANTIZE_TENSOR, QUANTIZE_TENSOR, constants
from d3d_edge.quantize.passes import with_graph

_aten = torch.ops.aten

_NORMALISING = (_aten.mul.Tensor, _aten.add.Tensor, _aten.sub.Tensor, _aten.div.Tensor)

MARGIN = 2.0**-11
"""Least distance, in INT8 steps, of every normalised byte from the middle between two steps, for it to be summed in
INT8. XNNPACK's factors have 20 bits: 255 steps are off by less than a quarter of this."""
RATIO_MIN, RATIO_MAX = 2.0**-10, 2.0**8
"""Of the scales of an INT8 sum's inputs to its output's, for XNNPACK to compute it."""


def with_bytes_quantized(program: ExportedProgram) -> ExportedProgram:
    """`program` with its bytes taken for quantized numbers, which they are, and normalised as such if possible."""
    graph = copy.deepcopy(program.graph_module)
    for node in graph.graph.find_nodes(op="call_function", target=_aten.to.dtype):
        is_cast = node.args[0].meta["val"].dtype is torch.uint8 and node.args[1:] == (torch.float32,)
        if is_cast and not _rounded_as_they_are(node):
            node.target = DEQUANTIZE_TENSOR
            node.args = (node.args[0], 1.0, 0, 0, 255, torch.uint8)
            _normalise(graph.graph, node, constants(program))
    return with_graph(program, graph)


def _rounded_as_they_are(frames: Node) -> bool:
    """Whether INT8 is made of bytes by what computes nothing, such as a move. XNNPACK moves from INT8 to INT8 only."""
    return any(
        reader.target is QUANTIZE_TENSOR
        for user in frames.users
        if user.target not in _NORMALISING
        for reader in user.users
    )


def _normalise(graph: Graph, frames: Node, constants: dict[str, Tensor]) -> None:
    """Give dequantized bytes the scale that they are multiplied with, and sum them with their offset in INT8."""
    product = _only_user(frames, _aten.mul.Tensor)
    scale = None if product is None else _number(product, frames, constants)
    if product is None or scale is None or scale <= 0:
        return
    frames.args = (frames.args[0], scale, *frames.args[2:])
    product.replace_all_uses_with(frames)
    graph.erase_node(product)
    total = _only_user(frames, _aten.add.Tensor)
    rounded = None if total is None else _only_user(total, QUANTIZE_TENSOR)
    offset = None if total is None else _number(total, frames, constants)
    if total is None or rounded is None or not offset or not isinstance(total.args[1], Node):
        return
    offset_step = abs(offset) / 127
    if rounded.args[-1] is not torch.int8 or not sums_in_int8(scale, offset, float(rounded.args[1])):  # type: ignore[arg-type]
        return
    # INT8 bytes are 128 less. The offset is 127 of its own steps.
    for place, source, grid in ((0, frames, (scale, -128)), (1, total.args[1], (offset_step, 0))):
        with graph.inserting_before(total):
            shape = source.meta["val"]
            integers = graph.call_function(QUANTIZE_TENSOR, (source, *grid, -128, 127, torch.int8))
            integers.meta = {**rounded.meta, "val": shape.to(torch.int8)}
            number = graph.call_function(DEQUANTIZE_TENSOR, (integers, *grid, -128, 127, torch.int8))
            number.meta = {**total.meta, "val": shape}
            total.update_arg(place, number)


def sums_in_int8(scale: float, offset: float, step: float) -> bool:
    """Whether every byte * scale + offset, in steps, is rounded as floats are by what XNNPACK sums INT8 with."""
    if not all(RATIO_MIN <= part / step < RATIO_MAX for part in (scale, abs(offset) / 127)):
        return False
    exact = (torch.arange(256, dtype=torch.float64) * scale + offset) / step
    return bool(((exact - exact.floor() - 0.5).abs() > MARGIN).all())


def _only_user(node: Node, target: Any) -> Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].target is target and node in users[0].args[:1] else None


def _number(node: Node, other: Node, constants: dict[str, Tensor]) -> float | None:
    """The number that `node` combines `other` with, if it is one."""
    given = node.args[1]
    if isinstance(given, (int, float)):
        return float(given)
    value = constants.get(given.name) if isinstance(given, Node) and given is not other else None
    return float(value) if value is not None and value.numel() == 1 else None


@contextmanager
def bytes_delegated() -> Iterator[None]:
    """Within, ExecuTorch gives such bytes to XNNPACK, which has had that type (`quint8`) all along."""
    from executorch.backends.xnnpack.operators.node_visitor import NodeVisitor
    from executorch.backends.xnnpack.partition.config.xnnpack_config import XNNPartitionerConfig
    from executorch.backends.xnnpack.serialization.xnnpack_graph_schema import XNNDatatype

    is_valid, datatype = XNNPartitionerConfig._check_inputs_are_valid_dtypes, NodeVisitor.get_serialized_dtype

    def is_valid_or_bytes(self: Any, node: Any, valid: set[torch.dtype]) -> bool:
        takes_bytes = "dequantize_per_tensor" in str(node.target)
        return bool(is_valid(self, node, {*valid, torch.uint8} if takes_bytes else valid))

    def datatype_or_bytes(self: Any, quantized: Any, *args: Any, **options: Any) -> Any:
        if quantized is not None and quantized.dtype is torch.uint8:
            return XNNDatatype.xnn_datatype_quint8
        return datatype(self, quantized, *args, **options)

    with (
        mock.patch.object(XNNPartitionerConfig, "_check_inputs_are_valid_dtypes", is_valid_or_bytes),
        mock.patch.object(NodeVisitor, "get_serialized_dtype", datatype_or_bytes),
    ):
        yield
