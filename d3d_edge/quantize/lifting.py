"""A graph of operators as an exported program, without tracing it: its weights become inputs. Changes no operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import ExportedProgram, ExportGraphSignature, ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import InputKind, InputSpec, OutputKind, OutputSpec, TensorArgument
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg
from torch.utils._pytree import tree_structure

from d3d_edge.quantize.origin import layer_notes
from d3d_edge.signals import held_back

_PREFIX = {InputKind.PARAMETER: "p_", InputKind.BUFFER: "b_"}
"""What torch.export begins the name of an input with that is a weight."""


@held_back()  # torch 2.13 keeps stacks of modes while it works shapes out, which an exception of a signal would part
def lifted(graph: GraphModule, sample: Tensor) -> ExportedProgram:
    """What `torch.export` gives for `graph`, of one input and one output, that it has captured before.

    Names, order, shapes and strides are the same. Tracing takes three to four times as long: it is made to follow the
    Python of a network, which a captured graph no longer has. The checks that it adds to casts are left out.

    `sample` has the shape and type of the input; its values do not matter.
    """
    program = Graph()
    mode = FakeTensorMode(allow_non_fake_inputs=True, static_shapes=True)
    inputs: list[InputSpec] = []

    def given(name: str, value: Tensor, kind: InputKind, target: str | None = None) -> Node:
        node = program.placeholder(name)
        node.meta["val"] = mode.from_tensor(value, static_shapes=True)
        persistent = True if kind is InputKind.BUFFER else None
        inputs.append(InputSpec(kind, TensorArgument(node.name), target, persistent))
        return node

    held: list[tuple[InputKind, str, Tensor]] = [
        *((InputKind.PARAMETER, *named) for named in graph.named_parameters()),
        *((InputKind.BUFFER, *named) for named in graph.named_buffers()),
    ]
    weights = {
        target: given(_PREFIX[kind] + target.replace(".", "_").lower(), value, kind, target)
        for kind, target, value in held
    }
    (clip,) = graph.graph.find_nodes(op="placeholder")
    lifted_nodes = {clip: given(clip.name, sample, InputKind.USER_INPUT)}
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            lifted_nodes[node] = weights[node.target]
        elif node.op == "call_function":
            lifted_nodes[node] = _again(program, node, lifted_nodes.__getitem__)
    (logits,) = graph.graph.output_node().all_input_nodes
    result = lifted_nodes[logits]
    program.output((result,))
    _note_values(program, mode)
    signature = ModuleCallSignature([], [], tree_structure(((0,), {})), tree_structure(0), [clip.name])
    return ExportedProgram(
        root={},
        graph=program,
        graph_signature=ExportGraphSignature(
            inputs, [OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(result.name), None)]
        ),
        state_dict={target: value for _, target, value in held},
        range_constraints={},
        module_call_graph=[ModuleCallEntry("", signature)],
        example_inputs=((sample,), {}),
        constants={},
    )


def _again(program: Graph, node: Node, place: Callable[[Node], Node]) -> Node:
    """The operator of `node` in another graph, named as torch.export names it; of its notes, those of its layer."""
    args, kwargs = map_arg(node.args, place), map_arg(node.kwargs, place)
    operator: Any = node.target
    again = program.create_node("call_function", operator, args, kwargs, name=operator._opname)
    again.meta.update(layer_notes(node))
    return again


def _note_values(program: Graph, mode: FakeTensorMode) -> None:
    """Note the shape and type of what each operator gives."""

    def value(node: Node) -> Any:
        return node.meta["val"]

    with mode, torch.no_grad():
        for node in program.nodes:
            if node.op == "call_function":
                node.meta["val"] = node.target(*map_arg(node.args, value), **map_arg(node.kwargs, value))
