"""Puts changes of view in an XNNPACK delegate where they cost nothing.

XNNPACK reshapes in place where one operator reads the result, and one the source; else it copies. So what several
operators read is left in the view that it has: a 1x1 convolution takes either view, and the two halves of a pool over
space and time may be in either order. Must not change a value that is computed. For executorch 1.4.
"""

from __future__ import annotations

import copy
from typing import Any

from d3d_edge.runtimes.xnnpack_graph import alike, inputs, is_external, kind, simplify, tensor_of, values_of


def move_views(graph: Any) -> None:
    """Edit an `XNNGraph` in place."""
    values, readers = values_of(graph), _readers(graph)
    for node in list(graph.xnodes):
        view = node.xnode_union
        if kind(view) != "XNNStaticReshape" or len(readers.get(view.output_id, [])) < 2:
            continue
        if not _keeps_channels(values, view):
            continue
        for reader in readers[view.output_id]:
            if _is_pointwise(reader):
                _convolve_before(graph, values, view, reader)
            elif _is_same_pool(reader):
                _pool_time_first(graph, values, readers, view, reader)
    simplify(graph)


def _convolve_before(graph: Any, values: dict[int, Any], view: Any, convolution: Any) -> None:
    """Convolve what is viewed, and view the result."""
    result = convolution.output_id
    convolution.input1_id = view.input_id
    convolution.output_id = _value(graph, values, like=result, area=view.input_id)
    _insert(graph, _view(graph, values, convolution.output_id, result), after=convolution)


def _pool_time_first(graph: Any, values: dict[int, Any], readers: dict[int, list[Any]], view: Any, space: Any) -> None:
    """Of a pool of frames, a view and a pool over time, do the last first, where its view is that of the source."""
    back = _only(readers, space)
    time = _only(readers, back) if kind(back) == "XNNStaticReshape" else None
    if time is None or not _is_same_pool(time) or not alike(values, view.input_id, time.output_id):
        return
    if list(tensor_of(values[time.input_id]).dims) != list(tensor_of(values[view.input_id]).dims):
        return
    pooled = _value(graph, values, like=time.output_id, area=view.input_id)
    frames = _value(graph, values, like=space.input_id, area=space.input_id)
    time.input_id, result, time.output_id = view.input_id, time.output_id, pooled
    space.input_id = frames
    back.output_id = result
    node = _taken(graph, time)
    _insert(graph, node, before=space)
    _insert(graph, _view(graph, values, pooled, frames), before=space)


def _readers(graph: Any) -> dict[int, list[Any]]:
    """The nodes that read each value that stays inside of the graph."""
    values, readers = values_of(graph), dict[int, list[Any]]()
    for node in graph.xnodes:
        for field in inputs(node.xnode_union):
            value = getattr(node.xnode_union, field)
            if value in values and not is_external(values[value]):
                readers.setdefault(value, []).append(node.xnode_union)
    return readers


def _only(readers: dict[int, list[Any]], call: Any) -> Any:
    """The one node that reads what `call` writes, if it is one."""
    found = readers.get(call.output_id, [])
    return found[0] if len(found) == 1 else None


def _keeps_channels(values: dict[int, Any], view: Any) -> bool:
    before, after = (list(tensor_of(values[value]).dims) for value in (view.input_id, view.output_id))
    return len(before) == len(after) == 4 and before[3] == after[3]


def _is_pointwise(call: Any) -> bool:
    if kind(call) != "XNNConv2d" or call.groups != 1:
        return False
    ones = [getattr(call, f"{what}_{axis}") for what in ("kernel", "subsampling") for axis in ("height", "width")]
    return set(ones) == {1} and not any(getattr(call, f"padding_{side}") for side in ("top", "right", "bottom", "left"))


def _is_same_pool(call: Any) -> bool:
    """Whether it is a max pool whose output is as large as its input."""
    if kind(call) != "XNNMaxPooling2d" or {call.stride_height, call.stride_width} != {1}:
        return False
    down, across = call.padding_top + call.padding_bottom, call.padding_left + call.padding_right
    return bool((down, across) == (call.pooling_height - 1, call.pooling_width - 1))


def _value(graph: Any, values: dict[int, Any], *, like: int, area: int) -> int:
    """A new value, of the type and channels of one and the other axes of another."""
    made = copy.deepcopy(next(value for value in graph.xvalues if tensor_of(value.xvalue_union).id_out == like))
    tensor = tensor_of(made.xvalue_union)
    tensor.dims = [*tensor_of(values[area]).dims[:3], tensor.dims[3]]
    tensor.id_out = max(values) + 1
    values[tensor.id_out] = made.xvalue_union
    graph.xvalues.append(made)
    return int(tensor.id_out)


def _view(graph: Any, values: dict[int, Any], source: int, result: int) -> Any:
    """A node that writes one value as the other."""
    model = next(node for node in graph.xnodes if kind(node.xnode_union) == "XNNStaticReshape")
    made = copy.deepcopy(model)
    dims = list(tensor_of(values[result]).dims)
    call = made.xnode_union
    call.num_dims, call.new_shape, call.input_id, call.output_id = len(dims), dims, source, result
    return made


def _taken(graph: Any, call: Any) -> Any:
    node = next(node for node in graph.xnodes if node.xnode_union is call)
    graph.xnodes = [other for other in graph.xnodes if other is not node]
    return node


def _insert(graph: Any, node: Any, *, before: Any = None, after: Any = None) -> None:
    calls = [other.xnode_union for other in graph.xnodes]
    place = next(place for place, call in enumerate(calls) if call is before or call is after)
    graph.xnodes.insert(place + (after is not None), node)
