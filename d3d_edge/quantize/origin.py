"""Which layer of the network an operator of a graph comes from, so that a refusal can name it. Changes no computation.

A program's own record of that, where in whose source each operator stood, is larger than the weights and private. What
is kept is the path of the module alone, such as Mixed_3b.Branch_1.Conv2d_0b_3x3.spatial.conv, in the one note that
torch.export saves and that every pass over a graph copies.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.export import ExportedProgram
from torch.fx import Node, config
from torch.fx.traceback import NodeSource

_NOTE, _KEY, _FLOAT = "custom", "layer", "float"
_STACK = "nn_module_stack"
_OWN = ("stack_trace", _STACK, "source_fn_stack", "from_node")
"""What torch notes of an operator's origin."""

_WRAPPER = "net"
"""The part of `models.recogniser.Recogniser` whose layers they are; without it, names are those of the weights."""


def keep_layers(program: ExportedProgram) -> None:
    """Replace torch's notes on `program`'s operators by the layer of each."""
    layers = {node.name: layer_of(node) for node in program.graph.nodes}
    for node in program.graph.nodes:
        # What quantization put in belongs to the layer whose values, or whose weights, it rounds.
        near = (*node.all_input_nodes, *node.users)
        layers[node.name] = layers[node.name] or next((layers[one.name] for one in near if layers[one.name]), "")
    for node in program.graph.nodes:
        kept_float = is_kept_float(node)
        for note in (*_OWN, _NOTE):
            node.meta.pop(note, None)
        if layers[node.name] and node.op == "call_function":
            node.meta[_NOTE] = {_KEY: layers[node.name]} | ({_FLOAT: True} if kept_float else {})


def layer_notes(node: Node) -> dict[str, Any]:
    """Of the notes on `node`, those that its layer is told by."""
    return {note: node.meta[note] for note in (_NOTE, _STACK) if note in node.meta}


def keep_float(node: Node) -> None:
    """Note that `node` is left in float on purpose: what refuses a float operator in a quantized graph lets it pass."""
    node.meta[_NOTE] = {**node.meta.get(_NOTE, {}), _FLOAT: True}


def is_kept_float(node: Node) -> bool:
    """Whether `keep_float` noted so."""
    return bool(node.meta.get(_NOTE, {}).get(_FLOAT))


def kept_float_layers(program: ExportedProgram) -> frozenset[str]:
    """The layers of the operators of `program` that were left in float on purpose."""
    return frozenset(layer_of(node) for node in program.graph.nodes if is_kept_float(node))


def layer_of(node: Node) -> str:
    """The layer that `node` comes from: what `keep_layers` or else torch noted; empty where neither did."""
    kept = node.meta.get(_NOTE, {}).get(_KEY)
    if kept:
        return str(kept)
    paths = [path for path, _ in node.meta.get(_STACK, {}).values()]
    return str(paths[-1]).removeprefix(f"{_WRAPPER}.") if paths else ""


@contextmanager
def sources_left_out() -> Iterator[None]:
    """Trace graphs without noting, for every node, the lines of source of all that called it.

    torch looks them up while it traces, a fifth to a quarter of the time of a capture, and `keep_layers` drops them.
    """
    before = getattr(config, "do_not_emit_stack_traces", False)  # older torch has no such switch
    config.do_not_emit_stack_traces = True
    try:
        yield
    finally:
        config.do_not_emit_stack_traces = before


@contextmanager
def origins_shared() -> Iterator[None]:
    """Trace graphs without copying, for every node of every pass, the chain of nodes that it came from.

    torch 2.13 deep-copies these `NodeSource`s, a fifth of the time to lower a network. Nothing changes one once it is
    made, so sharing them is the same.
    """
    if "__deepcopy__" in vars(NodeSource):
        yield
        return
    NodeSource.__deepcopy__ = lambda self, memo: self  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del NodeSource.__deepcopy__  # type: ignore[attr-defined]
