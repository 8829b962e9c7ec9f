"""Nodes of a graph: those that round, what others hold, and how a fault of one is told, by layer and operator."""

from __future__ import annotations

import re
from typing import Any

import torch
import torch.ao.quantization.fx._decomposed  # It registers the operators that quantize and dequantize.
from torch.export import ExportedProgram
from torch.fx import Node

from d3d_edge.errors import LoweringError
from d3d_edge.quantize.origin import layer_of

_stored = torch.ops.quantized_decomposed
QUANTIZE_TENSOR, DEQUANTIZE_TENSOR = _stored.quantize_per_tensor.default, _stored.dequantize_per_tensor.default
QUANTIZE_CHANNELS, DEQUANTIZE_CHANNELS = _stored.quantize_per_channel.default, _stored.dequantize_per_channel.default
QUANTIZE = frozenset({QUANTIZE_TENSOR, QUANTIZE_CHANNELS})
"""What rounds."""
DEQUANTIZE = frozenset({DEQUANTIZE_TENSOR, DEQUANTIZE_CHANNELS})
"""What reads rounded numbers."""


def constants(program: ExportedProgram) -> dict[str, torch.Tensor]:
    """The constants of `program`, by the name of the node that gives each."""
    signature = program.graph_signature
    held = {**program.state_dict, **program.constants}
    names = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    return {node: held[name] for node, name in names.items() if isinstance(held.get(name), torch.Tensor)}


def constant(given: Any, held: dict[str, torch.Tensor]) -> torch.Tensor | None:
    """The constant that an operator is given, be it held or a number; None where it is neither, or not given."""
    if isinstance(given, Node):
        return held.get(given.name)
    return None if given is None else torch.tensor(given)


def refusal(node: Node, message: str, hint: str, *, runtime: str, stage: str = "check") -> LoweringError:
    """`message` about `node`, with its layer and operator."""
    # ExecuTorch wraps an operator, and prints its schema after its name.
    operator = str(node.target).removeprefix("<EdgeOpOverload: ").partition(">: schema")[0]
    return LoweringError(message, stage=stage, layer=layer_of(node), operator=operator, runtime=runtime, hint=hint)


def _is_named(operator: str, message: str) -> bool:
    """Whether a message names an operator: it may do so by what PyTorch calls torch.special's without that word."""
    return any(re.search(rf"\b{re.escape(name)}", message) for name in {operator, operator.replace("special_", "")})


def blamed(program: ExportedProgram, message: str) -> tuple[str, str]:
    """Layer and operator of the first node of `program` that a tool's error message names, or empty."""
    calls = (node for node in program.graph.nodes if node.op == "call_function")
    named = (
        node for node in calls if _is_named(str(node.target), message) or re.search(rf"node {node.name}\b", message)
    )
    node = next(named, None)
    return ("", "") if node is None else (layer_of(node), str(node.target))
