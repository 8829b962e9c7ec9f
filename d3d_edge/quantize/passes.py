"""Edits of a captured graph before and after it is quantized, each in place. Must not know a scheme or an observer."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram, ExportGraphSignature
from torch.fx import GraphModule, Node

from d3d_edge.errors import DataError
from d3d_edge.quantize.groups import CONVOLUTIONS
from d3d_edge.quantize.nodes import DEQUANTIZE_TENSOR, QUANTIZE_TENSOR

_aten = torch.ops.aten


def round_weights(graph: GraphModule) -> None:
    """Round the weights of convolutions and linear layers to 255 steps per output channel. Changes `graph`."""
    for node in graph.graph.nodes:
        if node.target in (*CONVOLUTIONS, _aten.linear.default) and node.args[1].op == "get_attr":
            owner, _, name = node.args[1].target.rpartition(".")
            weight = graph.get_parameter(node.args[1].target).detach()
            scales = weight.abs().flatten(1).amax(1).clamp_min(torch.finfo(torch.float32).tiny) / 127
            grid = (scales, torch.zeros_like(scales, dtype=torch.int32), 0, -127, 127)
            rounded = torch.fake_quantize_per_channel_affine(weight, *grid)
            # Not in place: the graph shares its parameters with the program that it was made of.
            setattr(graph.get_submodule(owner), name, nn.Parameter(rounded))


class InFloat16(torch.fx.Interpreter):
    """Runs a graph with its weights, and every number between two operators, rounded to float16."""

    beyond: tuple[Node, float] | None = None
    """The first node, and its largest number, that was finite and is none in float16."""

    def run_node(self, n: Node) -> Any:
        """The value of a node, rounded where it is float32."""
        value = super().run_node(n)
        if not isinstance(value, torch.Tensor) or value.dtype != torch.float32:
            return value
        rounded = value.half().float()
        if self.beyond is None and not rounded.isfinite().all() and value.isfinite().all():
            self.beyond = n, float(value.abs().max())
        return rounded


def drop_device_checks(graph: GraphModule) -> None:
    """Remove what torch.export adds to a cast: that its input is on the device of the sample, where training is not."""
    for node in graph.graph.find_nodes(op="call_function", target=_aten._assert_tensor_metadata.default):
        graph.graph.erase_node(node)
    graph.recompile()


def drop_identities(graph: GraphModule) -> None:
    """Remove dropout, which is nothing outside training, and the second rounding to the same scale around it."""
    for node in graph.graph.find_nodes(op="call_function", target=_aten.dropout.default):
        node.replace_all_uses_with(node.args[0])
        graph.graph.erase_node(node)
    for node in graph.graph.find_nodes(op="call_function", target=QUANTIZE_TENSOR):
        rounded = node.args[0]
        if rounded.target is DEQUANTIZE_TENSOR and rounded.args[1:] == node.args[1:]:
            node.replace_all_uses_with(rounded.args[0])
    graph.graph.eliminate_dead_code()
    graph.recompile()


def round_biases(graph: GraphModule) -> None:
    """Round the biases of convolutions to float16, which Core ML stores them in: every runtime then adds the same.

    Raises:
        DataError: one is larger than a float16 can be.
    """
    for node in graph.graph.nodes:
        if node.target in CONVOLUTIONS and len(node.args) > 2 and node.args[2] is not None:
            owner, _, attribute = str(node.args[2].target).rpartition(".")
            bias = getattr(graph.get_submodule(owner), attribute)
            half = bias.data.half().to(bias.dtype)
            if not half.isfinite().all():
                raise DataError(
                    f"a bias of {owner} is {float(bias.data.abs().max()):.3g}, and the largest float16 is "
                    f"{torch.finfo(torch.float16).max:.0f}",
                    hint="train again, with a lower learning_rate in the recipe or a higher weight_decay",
                )
            bias.data = half


def drop_unread(graph: GraphModule) -> None:
    """Remove the float weights that torchao leaves beside their INT8 copies, which nothing reads."""
    read = {node.target for node in graph.graph.find_nodes(op="get_attr")}
    for name, _ in [*graph.named_parameters(), *graph.named_buffers()]:
        if name not in read:
            owner, _, attribute = name.rpartition(".")
            delattr(graph.get_submodule(owner), attribute)


def core_aten(node: Node) -> tuple[Any, tuple[Any, ...], dict[str, Any]] | None:
    """Operator, arguments and options in core ATen of what `node` computes; None where it stays as it is.

    Those few that a network of `models` has. Torch's own `run_decompositions` knows all, and traces the whole graph
    anew to write these in another way.
    """
    args: tuple[Any, ...] = node.args
    if node.target is _aten.to.dtype and len(args) < 5:  # The fifth asks for another order in memory.
        return _aten._to_copy.default, args[:1], {"dtype": args[1]}
    if node.target is _aten.flatten.using_ints:
        return _aten.view.default, (args[0], list(node.meta["val"].shape)), {}
    if node.target is _aten.narrow.default:
        x, axis, start, length = args
        return _aten.slice.Tensor, (x, axis, start, start + length), {}
    if node.target is _aten.pad.default and args[2:3] in ((), ("constant",)):  # Others repeat what they pad.
        value = args[3] if len(args) > 3 else None
        return _aten.constant_pad_nd.default, (*args[:2], value or 0.0), {}
    if node.target is _aten.max_pool2d.default and not (len(args) > 2 and args[2]):  # The stride is the kernel's size.
        return node.target, (*args[:2], args[1], *args[3:]), dict(node.kwargs)
    return None


def with_graph(
    program: ExportedProgram, graph: GraphModule, signature: ExportGraphSignature | None = None
) -> ExportedProgram:
    """`program` computed by an edited copy of its graph, with the same inputs, outputs and weights.

    `signature` is the program's with names that the copy gives. ExecuTorch adds the numbers of a graph to its weights,
    so these are listed anew: `program` goes to other targets too.
    """
    return ExportedProgram(
        root=graph,
        graph=graph.graph,
        graph_signature=signature or program.graph_signature,
        state_dict=dict(program.state_dict),
        range_constraints=program.range_constraints,
        module_call_graph=program.module_call_graph,
        example_inputs=program.example_inputs,
        constants=dict(program.constants),
        verifiers=program.verifiers,
    )
