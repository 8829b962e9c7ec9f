"""Runs an INT8 graph in PyTorch in a fraction of the time, with the same values. Other graphs run as they are."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from d3d_edge.quantize.groups import REARRANGING
from d3d_edge.quantize.nodes import DEQUANTIZE, DEQUANTIZE_TENSOR, QUANTIZE_TENSOR
from d3d_edge.quantize.quiet import quiet

_aten = torch.ops.aten
# Padding may be by any number, and dropout scales what it leaves. Zero, which a ReLU gives, is on every grid.
_KEEPING = (REARRANGING - {_aten.dropout.default, _aten.pad.default, _aten.constant_pad_nd.default}) | {
    _aten.cat.default
}
"""Operators whose output is on the grid of their inputs."""
_INTEGERS_MAX = 2**16
"""Up to so many of them, float32 holds a product of integer and scale so exactly that rounding finds the integer."""

Grid = tuple[Any, ...]
"""Scale, zero point, lowest and highest integer, and their type, as `quantize_per_tensor` is given them."""


def module_of(program: ExportedProgram) -> GraphModule:
    """`program` as a module that gives the same values. It shares the program's weights, and changes none.

    PyTorch writes a tensor that is rounded as integers and reads it back, in eight passes over memory, each time that
    it is rounded, and reads all INT8 weights for every clip. Here weights are read once. A tensor that is rounded stays
    float, on the same numbers, in four passes, and is left alone where it is on that grid already.
    """
    with quiet("torch.export"):
        module: GraphModule = program.module()
        _read_constants(module)
        if not any(_writes(node) for node in module.graph.nodes):  # into what would be shared
            _stay_float(module)
        module.graph.eliminate_dead_code()
        module.recompile()
    return module


def _read_constants(module: GraphModule) -> None:
    for node in list(module.graph.nodes):
        given = node.all_input_nodes
        if node.target in DEQUANTIZE and all(source.op == "get_attr" for source in given):
            held = {source: operator.attrgetter(source.target)(module) for source in given}
            name = f"read_{node.name}"
            module.register_buffer(name, node.target(*map_arg(node.args, held.__getitem__), **node.kwargs))
            with module.graph.inserting_before(node):
                _replace(node, module.graph.get_attr(name))


def _stay_float(module: GraphModule) -> None:
    on: dict[Node, Grid] = {}
    """The grid that the values of a node are known to be on."""
    for node in list(module.graph.nodes):
        if (grid := _grid_of(node)) is not None:
            source = by = node.args[0].args[0]
            if on.get(source) != grid or _strides(source) != _strides(node):
                with module.graph.inserting_before(node):
                    by = module.graph.call_function(_rounded, (source, *grid[:4]))
                on[by] = grid
            _replace(node, by)
        elif node.target in _KEEPING:
            grids = {on.get(source) for source in node.all_input_nodes}
            if len(grids) == 1 and (same := grids.pop()):
                on[node] = same


def _grid_of(node: Node) -> Grid | None:
    """The grid of a tensor that `node` reads back as it was rounded; None for another node."""
    if node.target is not DEQUANTIZE_TENSOR or node.kwargs:
        return None
    rounded: Any = node.args[0]
    if rounded.target is not QUANTIZE_TENSOR or rounded.args[1:] != node.args[1:]:
        return None
    _, zero_point, lowest, highest, _ = grid = node.args[1:]
    small: Any = highest - lowest < _INTEGERS_MAX and lowest <= zero_point <= highest  # type: ignore[operator]
    given = rounded.args[0].meta.get("val")
    return grid if small and getattr(given, "dtype", None) is torch.float32 else None


def _writes(node: Node) -> bool:
    """Whether `node` changes one of its inputs."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _strides(node: Node) -> tuple[int, ...]:
    """How `node` lies in memory, on which it depends what can be viewed as what: rounding makes a part whole."""
    strides: tuple[int, ...] = node.meta["val"].stride()
    return strides


def _replace(node: Node, by: Node) -> None:
    by.meta.setdefault("val", node.meta.get("val"))
    node.replace_all_uses_with(by)
    node.graph.erase_node(node)


def _rounded(x: Tensor, scale: float, zero_point: int, lowest: int, highest: int) -> Tensor:
    """`x` float32 of any shape as it is after it was quantized and read back."""
    return x.mul(1 / scale).round_().clamp_(lowest - zero_point, highest - zero_point).mul_(scale)
