"""Simplifies the graph of an XNNPACK delegate: moves of memory that undo each other are left out.

ExecuTorch computes convolutions channels-last and, around every view, moves the tensor to channels-first and back. The
rank-4 network's changes of view are such that all those moves cancel, and a reshape of the same bytes remains.
Must not change a value that is computed. For executorch 1.4, whose own passes merge no two transposes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

ALIGNMENT = 4
"""Bytes: of a float. Executorch aligns to 16, but XNNPACK packs all weights anew before it computes with them."""

NOT_EXTERNAL = 2**32 - 1
"""The external number of a value that neither enters nor leaves: `XNN_INVALID_VALUE_ID`."""

VECTOR = 64
"""Values that are a whole number of vectors on every processor that XNNPACK knows: bytes of AVX-512's, the longest."""

_MOVES = ("XNNStaticTranspose", "XNNStaticReshape")
_PACKED = ("filter_id", "bias_id")
"""The fields in which a node refers to what XNNPACK packs before it computes."""


def simplify(graph: Any) -> None:
    """Merge chains of transposes and of reshapes in an `XNNGraph`, in place, and drop what nothing uses then."""
    values = values_of(graph)
    producers: dict[int, Any] = {}
    same: dict[int, int] = {}
    for node in graph.xnodes:
        call = node.xnode_union
        for field in inputs(call):
            setattr(call, field, same.get(getattr(call, field), getattr(call, field)))
        if kind(call) in _MOVES:
            _merge(call, producers.get(call.input_id), values)
            if _is_idle(call, values):
                same[call.output_id] = call.input_id
        producers[call.output_id] = call
    drop_unused(graph, values)


def embed(graph: Any, named: dict[str, bytes], constants: bytearray) -> set[str]:
    """Append the constants that an `XNNGraph` names to `constants`, in place, and let it refer to them by offset.

    Those that nothing refers to are left out, and so are the scales of biases: see `_share_scales`. Returned are the
    names of those that keep them: XNNPACK reads weights and biases once, and others, such as a PReLU's slopes, whenever
    it computes, when ExecuTorch has freed what the delegate holds.
    """
    _share_scales(graph)
    values = values_of(graph)
    calls = [node.xnode_union for node in graph.xnodes]
    read_always = {
        tensor_of(values[getattr(call, field)]).constant_buffer_idx
        for call in calls
        for field in inputs(call)
        if field not in _PACKED and getattr(call, field) in values
    } - {0}
    offsets: dict[str, int] = {}
    staying: set[str] = set()
    kept = [graph.constant_data[0]]  # Number 0 means that there is none.
    places: dict[int, int] = {0: 0}

    def placed(number: int) -> int:
        if number not in places:
            entry = graph.constant_data[number]
            if number in read_always:
                staying.add(entry.named_key)
            else:
                if entry.named_key not in offsets:
                    constants.extend(bytes(-len(constants) % ALIGNMENT))
                    offsets[entry.named_key] = len(constants)
                    constants.extend(named[entry.named_key])
                entry.offset, entry.named_key = offsets[entry.named_key], None
            places[number] = len(kept)
            kept.append(entry)
        return places[number]

    scales: dict[int, Any] = {}
    for union in values.values():
        tensor_of(union).constant_buffer_idx = placed(tensor_of(union).constant_buffer_idx)
        params = getattr(union, "quant_params", None)
        if getattr(params, "scale_buffer_idx", 0) > 0:
            scales[id(params)] = params  # A bias and a weight may share one.
    for params in scales.values():
        params.scale_buffer_idx = placed(params.scale_buffer_idx)
    graph.constant_data = kept
    return staying


def _share_scales(graph: Any) -> None:
    """Give biases the scales of the weights. XNNPACK wants some, and takes a bias for the integers that it adds.

    It knows their scale, the weights' times the input's; stored, it was as large as the biases. Those of depthwise
    weights lie along another axis than the bias's, which XNNPACK refuses.
    """
    values: Any = values_of(graph)
    for node in graph.xnodes:
        weight, bias = (values.get(getattr(node.xnode_union, f"{name}_id", 0)) for name in ("filter", "bias"))
        scales: Any = getattr(weight, "quant_params", None)
        own = getattr(bias, "quant_params", None)
        if hasattr(scales, "scale_buffer_idx") and scales.channel_dim == getattr(own, "channel_dim", None):
            bias.quant_params = scales


def _merge(call: Any, before: Any, values: dict[int, Any]) -> None:
    """Let `call` take the input of `before`, where both are moves of one kind."""
    if before is None or kind(before) != kind(call) or not alike(values, before.input_id, call.output_id):
        return
    if kind(call) == "XNNStaticTranspose":
        call.perm = [before.perm[axis] for axis in call.perm]
    call.input_id = before.input_id


def _is_idle(call: Any, values: dict[int, Any]) -> bool:
    """Whether the output is the input, byte for byte. An output of the whole graph must be written all the same."""
    if not alike(values, call.input_id, call.output_id) or is_external(values[call.output_id]):
        return False
    if kind(call) == "XNNStaticTranspose":
        return list(call.perm) == sorted(call.perm)
    return list(tensor_of(values[call.input_id]).dims) == list(tensor_of(values[call.output_id]).dims)


def values_of(graph: Any) -> dict[int, Any]:
    """What an `XNNGraph` says of each of its values, by their numbers."""
    return {_tensor(value).id_out: value.xvalue_union for value in graph.xvalues}


def drop_unused(graph: Any, values: dict[int, Any]) -> None:
    """Leave out, in place, the nodes whose results nothing reads, and the values that no node uses."""
    used = {value for value, union in values.items() if is_external(union)}
    kept = []
    for node in reversed(graph.xnodes):
        call = node.xnode_union
        if call.output_id in used:
            used.update(getattr(call, field) for field in inputs(call))
            kept.append(node)
    graph.xnodes = kept[::-1]
    graph.xvalues = [value for value in graph.xvalues if _tensor(value).id_out in used]


def alike(values: dict[int, Any], a: int, b: int) -> bool:
    """Whether two values have the same type, scale and zero point."""
    kinds = [(tensor_of(union).datatype, getattr(union, "quant_params", None)) for union in (values[a], values[b])]
    return bool(kinds[0] == kinds[1])


def stays_inside(graph: Any) -> bool:
    """Whether XNNPACK reads nothing beyond the frames, the unsigned bytes that enter an `XNNGraph`.

    Its kernels load whole vectors, also where an array ends amid one, unless it is known to end with one: a conversion
    goes through it from end to end. What else enters is ExecuTorch's own.
    """
    entering = {number: tensor_of(union) for number, union in values_of(graph).items() if is_external(union)}
    frames = {number: tensor for number, tensor in entering.items() if tensor.datatype.name == "xnn_datatype_quint8"}
    return all(
        kind(node.xnode_union) == "XNNConvert" and math.prod(frames[number].dims) % VECTOR == 0
        for node in graph.xnodes
        for number in (getattr(node.xnode_union, field) for field in inputs(node.xnode_union))
        if number in frames
    )


def is_external(union: Any) -> bool:
    """Whether a value enters or leaves the delegate."""
    return bool(tensor_of(union).flags)


def is_int8(union: Any) -> bool:
    """Whether a value is of signed bytes with one scale."""
    return bool(tensor_of(union).datatype.name == "xnn_datatype_qint8")


def inputs(call: Any) -> Iterator[str]:
    """Names of the fields in which a node refers to the values that it reads."""
    for field in vars(call):
        if field.endswith("_id") and field != "output_id":
            yield field


def kind(call: Any) -> str:
    """The name of a node's class, which is its operator."""
    return type(call).__name__


def _tensor(value: Any) -> Any:
    return tensor_of(value.xvalue_union)


def tensor_of(union: Any) -> Any:
    """The shape and type of a value, quantized or not."""
    return getattr(union, "tensor_value", union)
