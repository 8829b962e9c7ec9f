"""Lets an XNNPACK delegate give logits that are not rounded, from a classifier whose weights stay INT8.

A quantized graph ends in a convolution that reads INT8 and gives floats. XNNPACK has none: its INT8 convolutions round
their sums to INT8 as well. It has a product of floats with INT8 weights, which ExecuTorch never asks for. Must not
change a value that is computed, but for the rounding of floats. For executorch 1.4.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node

from d3d_edge.quantize.groups import CONVOLUTIONS, is_of_one_position
from d3d_edge.quantize.nodes import DEQUANTIZE_CHANNELS, QUANTIZE_TENSOR
from d3d_edge.quantize.passes import with_graph
from d3d_edge.runtimes.xnnpack_graph import kind, tensor_of, values_of

_RELU = frozenset({torch.ops.aten.relu.default, torch.ops.aten.relu_.default})
_NAMED = 2**64 - 1
"""The offset of a constant that is found by its name."""


class Weights(NamedTuple):
    """Those of a classifier."""

    integers: bytes
    """INT8 [O, I]"""
    scales: bytes
    """float32 [O]"""


def with_float_weights(program: ExportedProgram) -> tuple[ExportedProgram, dict[bytes, Weights]]:
    """`program` with classifiers of float weights, which XNNPACK takes; and by these, as bytes, what they were.

    A classifier is a 1x1 convolution of INT8 weights whose sums are not rounded.
    """
    graph = copy.deepcopy(program.graph_module)
    edited = with_graph(program, graph)
    found: dict[bytes, Weights] = {}
    for node in graph.graph.nodes:
        if not is_classifier(node):
            continue
        weight = node.args[1]
        names = [_name(edited, given) for given in weight.args[:2]]
        integers, scales = (edited.state_dict[name] for name in names)
        floats = (integers.float() * scales.float().reshape(-1, 1, 1, 1)).contiguous()
        found[_bytes(floats)] = Weights(_bytes(integers), _bytes(scales.float()))
        edited.state_dict[names[0]] = floats
        held = weight.args[0]
        held.meta = {**held.meta, "val": weight.meta["val"]}
        weight.replace_all_uses_with(held)
        graph.graph.erase_node(weight)
    graph.recompile()
    return edited, found


def narrow(graph: Any, weights: dict[bytes, Weights], named: dict[str, bytes]) -> None:
    """Give the classifiers in an `XNNGraph` their INT8 `weights` back, in place; `named` has its constants."""
    from executorch.backends.xnnpack.serialization.xnnpack_graph_schema import (
        PerChannelQuant,
        XNNDatatype,
        XNNFullyConnected,
        XNNQuantizedTensorValue,
    )

    values = values_of(graph)
    for node in graph.xnodes:
        call = node.xnode_union
        stored: Any = values.get(call.filter_id) if kind(call) == "XNNConv2d" else None
        own = None if stored is None else weights.get(_constant(graph, stored, named))
        if own is None:
            continue
        bias: Any = values.get(call.bias_id)
        scales = np.frombuffer(own.scales, np.float32)
        # The kernel adds the bias to the sums of integers, and multiplies both by the scale (XNNPACK,
        # FullyConnectedOperatorTester::TestF32QC8W).
        if bias is not None:
            added = np.frombuffer(_constant(graph, bias, named), np.float32) / scales
            bias.constant_buffer_idx = _store(graph, f"bias of the classifier {bias.id_out}", added.tobytes(), named)
        stored.datatype = XNNDatatype.xnn_datatype_qcint8
        stored.dims = [len(scales), len(own.integers) // len(scales)]
        stored.num_dims = len(stored.dims)
        stored.constant_buffer_idx = _store(graph, f"weights of the classifier {stored.id_out}", own.integers, named)
        at = _store(graph, f"scales of the classifier {stored.id_out}", own.scales, named)
        params = PerChannelQuant(scale=[], channel_dim=0, scale_buffer_idx=at, num_scales=len(scales))
        holder = next(value for value in graph.xvalues if value.xvalue_union is stored)
        holder.xvalue_union = XNNQuantizedTensorValue(tensor_value=stored, quant_params=params)
        node.xnode_union = XNNFullyConnected(call.input1_id, call.filter_id, call.bias_id, call.output_id, call.flags)


def _constant(graph: Any, value: Any, named: dict[str, bytes]) -> bytes:
    return named.get(graph.constant_data[tensor_of(value).constant_buffer_idx].named_key, b"")


def _store(graph: Any, name: str, data: bytes, named: dict[str, bytes]) -> int:
    """Add a constant to an `XNNGraph`. Its number there."""
    from executorch.backends.xnnpack.serialization.xnnpack_graph_schema import ConstantDataOffset

    named[name] = data
    graph.constant_data.append(ConstantDataOffset(offset=_NAMED, size=len(data), named_key=name))
    return len(graph.constant_data) - 1


def is_classifier(node: Any) -> bool:
    """Whether `node` of a quantized graph is one: its bias stays float as well."""
    if node.target not in CONVOLUTIONS or node.args[1].target is not DEQUANTIZE_CHANNELS:
        return False
    return not _is_rounded(node) and is_of_one_position(node)


def _is_rounded(conv: Node) -> bool:
    readers = [after for user in conv.users for after in (user, *(user.users if user.target in _RELU else ()))]
    return any(reader.target is QUANTIZE_TENSOR for reader in readers)


def _name(program: ExportedProgram, node: Any) -> str:
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    return str(names[node.name])


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().numpy().tobytes()
