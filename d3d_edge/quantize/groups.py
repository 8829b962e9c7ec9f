"""The groups of operators that are quantized, measured or left in float together, found in a graph by its modules.

A group is what a user can name: the stem, one spatial or temporal convolution with its ReLU, one gate, one pool, one
concatenation, the classifier. Operators that only rearrange belong to none: they follow what they rearrange.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch.fx import GraphModule, Node

from d3d_edge.errors import RecipeError
from d3d_edge.resources import near_miss
from d3d_edge.sensitivity import Kind

_aten = torch.ops.aten
CONVOLUTIONS = frozenset({_aten.conv2d.default, _aten.conv2d.padding})
REARRANGING = frozenset(
    {
        _aten.permute.default,
        _aten.view.default,
        _aten.reshape.default,
        _aten.flatten.using_ints,
        _aten.transpose.int,
        _aten.unsqueeze.default,
        _aten.squeeze.dim,
        _aten.squeeze.dims,
        _aten.slice.Tensor,
        _aten.narrow.default,
        _aten.clone.default,
        _aten.contiguous.default,
        _aten.pad.default,
        _aten.constant_pad_nd.default,
        _aten.max_pool2d.default,
        _aten.dropout.default,
        _aten.relu.default,
    }
)
"""Operators whose output values are input values, or zero. A ReLU that follows a convolution is not treated as one."""
_POOLS = frozenset({_aten.max_pool2d.default})
_COMPUTING = (
    CONVOLUTIONS
    | _POOLS
    | {
        _aten.relu.default,
        _aten.relu_.default,
        _aten.cat.default,
        _aten.mean.dim,
        _aten.avg_pool2d.default,
        _aten.mul.Tensor,
        _aten.add.Tensor,
        _aten.sigmoid.default,
    }
)
_KINDS: dict[str, Kind] = {
    "SpatialConv": "spatial",
    "StackedConv": "spatial",
    "TemporalConv": "temporal",
    "SelfGating": "gate",
    "MaxPool": "pool",
}
"""Layers of `models.layers` and `models.pools`, by class name."""
_WRAPPER = "net."
"""Where `models.recogniser` holds the network."""


@dataclass(frozen=True, order=True)
class Group:
    """Operators that go together."""

    name: str
    """The path of their module in the network; BLOCK.join and BLOCK.pool are those that a block does itself."""
    kind: Kind

    def is_named(self, name: str) -> bool:
        """Whether `name` is this group, its kind, or a part of the network that holds it."""
        return name in (self.name, self.kind) or self.name.startswith(name + ".")


def groups_of(graph: GraphModule) -> dict[Node, Group]:
    """The group of every operator that computes, in the order of the graph.

    What stands alone belongs to the next convolution: normalisation to the stem, the last mean to the classifier.
    """
    found: dict[Node, Group] = {}
    first: str | None = None
    for node in graph.graph.nodes:
        if node.op == "call_function" and node.target in _COMPUTING and (group := _own(node)):
            if first is None and node.target in CONVOLUTIONS:
                first = group.name
            found[node] = group
    found = {node: Group(group.name, "stem") if group.name == first else group for node, group in found.items()}
    for node in reversed(graph.graph.nodes):
        if node not in found and node.op == "call_function" and (after := _next(node, found)):
            found[node] = after
    return {node: found[node] for node in graph.graph.nodes if node in found and node.target in _COMPUTING}


def _own(node: Node) -> Group | None:
    """The group that a node's modules say; None for what stands alone."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    for path, kind in reversed(stack):
        if layer := _KINDS.get(str(kind).rpartition(".")[2].rstrip("'>")):
            return Group(path.removeprefix(_WRAPPER), layer)
    path = stack[-1][0].removeprefix(_WRAPPER) if stack else ""
    path = "" if path == _WRAPPER[:-1] else path
    if node.target in CONVOLUTIONS:
        return Group(path, "head")
    if node.target is _aten.cat.default:
        return Group(f"{path}.join".lstrip("."), "join")
    if node.target in _POOLS:
        return Group(f"{path}.pool".lstrip("."), "pool")
    return None


def _next(node: Node, found: dict[Node, Group]) -> Group | None:
    return next((found[user] for user in node.users if user in found), None)


def kept_in_float(groups: Iterable[Group], names: Iterable[str]) -> frozenset[Group]:
    """The groups that `names` name: a group, a kind, or a part of the network with all its groups.

    Raises:
        RecipeError: a name is none of these, or they name all that is quantized.
    """
    groups, names = tuple(groups), tuple(names)
    for name in names:
        if not any(group.is_named(name) for group in groups):
            part = name.partition(".")[0]
            inside = [group.name for group in groups if group.name.startswith(part + ".")]
            kinds = {group.kind for group in groups}
            known = sorted(inside or {group.name.partition(".")[0] for group in groups} | kinds)
            raise RecipeError(f"quantize.keep_float: the network has no part {name!r}; {near_miss(name, known)}")
    kept = frozenset(group for group in groups if any(group.is_named(name) for name in names))
    # A pool follows what it pools.
    if kept and all(group in kept or group.kind == "pool" for group in groups):
        raise RecipeError(
            "quantize.keep_float leaves nothing in INT8",
            hint="take a name out of it, or leave quantization out: d3d-edge export --precision float32 or float16",
        )
    return kept


def is_of_one_position(conv: Node) -> bool:
    """Whether a convolution is a product of one position's channels with a matrix, as a classifier is."""
    source, weight = (node.meta["val"].shape for node in conv.all_input_nodes[:2])
    answer = conv.meta["val"].shape
    one = tuple(source[2:]) == tuple(weight[2:]) == tuple(answer[2:]) == (1, 1)  # more where it pads
    return one and bool(source[1] == weight[1])
