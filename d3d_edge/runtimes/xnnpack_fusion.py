"""Leaves out what an XNNPACK delegate does around its operators for nothing: conversions, copies and padded copies.

ExecuTorch writes zero pads and sigmoids of INT8 tensors as float operators between two conversions, which XNNPACK does
not need, and pads as copies, which a convolution does not need. In the stem, a pad of float frames took a third of the
time of a whole quarter-width network. Must not change a value that is computed. For executorch 1.4.
"""

from __future__ import annotations

import copy
from typing import Any

from d3d_edge.runtimes.xnnpack_graph import (
    NOT_EXTERNAL,
    alike,
    drop_unused,
    inputs,
    is_external,
    is_int8,
    kind,
    tensor_of,
    values_of,
)

_CONVOLUTIONS = ("XNNConv2d", "XNNDepthwiseConv2d")


def fuse(graph: Any) -> None:
    """Edit an `XNNGraph` in place."""
    for step in (
        _pool_on_one_grid,
        _without_conversions,
        _convert_once,
        _slice_once,
        _pad_inside_convolutions,
        _without_views,
    ):
        step(graph, values_of(graph))
        drop_unused(graph, values_of(graph))


def _pool_on_one_grid(graph: Any, values: dict[int, Any]) -> None:
    """Let an INT8 max pool keep the scale of what it reads, and convert its result. XNNPACK has no other.

    ExecuTorch writes one with two scales for a pool that is kept in float between INT8 operators. The largest of some
    values is rounded to the second grid as each of them would be.
    """
    from executorch.backends.xnnpack.serialization.xnnpack_graph_schema import XNNConvert

    for node in list(graph.xnodes):
        call = node.xnode_union
        if kind(call) != "XNNMaxPooling2d" or alike(values, call.input_id, call.output_id):
            continue
        source, result = values[call.input_id], values[call.output_id]
        if not (is_int8(source) and is_int8(result)):
            continue
        between = copy.deepcopy(next(value for value in graph.xvalues if value.xvalue_union is result))
        pooled = between.xvalue_union
        pooled.quant_params = copy.deepcopy(source.quant_params)
        tensor = tensor_of(pooled)
        tensor.id_out = max(values) + 1
        tensor.flags, tensor.external_id = 0, NOT_EXTERNAL
        graph.xvalues.append(between)
        values[tensor.id_out] = pooled
        convert = copy.deepcopy(node)
        convert.xnode_union, convert.output_min_max = XNNConvert(tensor.id_out, call.output_id, 0), None
        call.output_id = tensor.id_out
        graph.xnodes.insert(graph.xnodes.index(node) + 1, convert)


def _without_conversions(graph: Any, values: dict[int, Any]) -> None:
    """Give zero pads and sigmoids the INT8 tensors between whose conversions they stand."""
    producers, readers = _neighbours(graph)
    idle = []
    for node in graph.xnodes:
        call = node.xnode_union
        if kind(call) not in ("XNNStaticConstantPad", "XNNSigmoid"):
            continue
        before, after = producers.get(call.input_id), readers.get(call.output_id, [])
        if kind(before) != "XNNConvert" or [kind(reader) for reader in after] != ["XNNConvert"]:
            continue
        source, result = before.input_id, after[0].output_id
        if not all(is_int8(values[value]) for value in (source, result)):
            continue
        # A pad moves bytes, so they must mean the same; a sigmoid of bytes is a table.
        if kind(call) == "XNNSigmoid" or (call.padding_value == 0 and alike(values, source, result)):
            call.input_id, call.output_id = source, result
            idle.append(after[0])
    _drop(graph, idle)


def _convert_once(graph: Any, values: dict[int, Any]) -> None:
    """Turn bytes into INT8 of the same scale at once. All are whole steps, so no rounding is met on the way."""
    producers, _ = _neighbours(graph)
    for node in graph.xnodes:
        call = node.xnode_union
        before: Any = producers.get(call.input_id) if kind(call) == "XNNConvert" else None
        if kind(before) != "XNNConvert" or not is_int8(values[call.output_id]):
            continue
        source, result = values[before.input_id], values[call.output_id]
        if tensor_of(source).datatype.name != "xnn_datatype_quint8" or kind(tensor_of(source)) == kind(source):
            continue
        if source.quant_params.scale == result.quant_params.scale:
            call.input_id = before.input_id


def _slice_once(graph: Any, values: dict[int, Any]) -> None:
    """Let a slice of a slice read what that one reads."""
    producers, _ = _neighbours(graph)
    for node in graph.xnodes:
        call = node.xnode_union
        before = producers.get(getattr(call, "input_id", None))
        if kind(call) == "XNNStaticSlice" and kind(before) == "XNNStaticSlice" and alike_each(values, before, call):
            call.offsets = [one + other for one, other in zip(before.offsets, call.offsets, strict=True)]
            call.input_id = before.input_id


def _pad_inside_convolutions(graph: Any, values: dict[int, Any]) -> None:
    """Let a convolution of a zero-padded tensor pad it itself, on the fly."""
    producers, _ = _neighbours(graph)
    for node in graph.xnodes:
        call = node.xnode_union
        pad: Any = producers.get(call.input1_id) if kind(call) in _CONVOLUTIONS else None
        if kind(pad) != "XNNStaticConstantPad" or pad.padding_value != 0 or not alike_each(values, pad):
            continue
        (rows, top, left, channels), (more_rows, bottom, right, more_channels) = pad.pre_paddings, pad.post_paddings
        if any((rows, channels, more_rows, more_channels)):
            continue
        for side, pixels in (("top", top), ("left", left), ("bottom", bottom), ("right", right)):
            setattr(call, f"padding_{side}", getattr(call, f"padding_{side}") + pixels)
        call.input1_id = pad.input_id


def _without_views(graph: Any, values: dict[int, Any]) -> None:
    """Let a 1x1 convolution between a view and the view back compute in the one that there was.

    XNNPACK copies a view that several operators read, as the first branch of an Inception block and its gate do.
    """
    producers, readers = _neighbours(graph)
    idle = []
    for node in graph.xnodes:
        call = node.xnode_union
        before: Any = producers.get(call.input1_id) if _is_pointwise(call) else None
        after = readers.get(call.output_id, []) if before else []
        if kind(before) != "XNNStaticReshape" or [kind(reader) for reader in after] != ["XNNStaticReshape"]:
            continue
        source, seen, result = (
            list(tensor_of(values[value]).dims) for value in (before.input_id, call.input1_id, after[0].output_id)
        )
        if source[3:] == seen[3:] and source[:3] == result[:3] and alike_each(values, before, after[0]):
            call.input1_id, call.output_id = before.input_id, after[0].output_id
            idle.append(after[0])
    _drop(graph, idle)


def _drop(graph: Any, idle: list[Any]) -> None:
    graph.xnodes = [node for node in graph.xnodes if not any(node.xnode_union is call for call in idle)]


def _is_pointwise(call: Any) -> bool:
    if kind(call) != "XNNConv2d":
        return False
    sizes = [getattr(call, f"{what}_{axis}") for what in ("kernel", "subsampling") for axis in ("height", "width")]
    pads = [getattr(call, f"padding_{side}") for side in ("top", "right", "bottom", "left")]
    return sizes == [1, 1, 1, 1] and not any(pads)


def alike_each(values: dict[int, Any], *calls: Any) -> bool:
    """Whether each of the nodes writes the type, scale and zero point that it reads."""
    return all(alike(values, call.input_id, call.output_id) for call in calls)


def _neighbours(graph: Any) -> tuple[Any, dict[int, list[Any]]]:
    """The node that makes each value, and those that read it; none is listed for a value that leaves the graph."""
    values = values_of(graph)
    producers = {node.xnode_union.output_id: node.xnode_union for node in graph.xnodes}
    readers: dict[int, list[Any]] = {}
    for call in producers.values():
        for field in inputs(call):
            value = getattr(call, field)
            if value in values and not is_external(values[value]):
                readers.setdefault(value, []).append(call)
    return producers, readers
