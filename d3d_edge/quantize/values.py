"""The numbers that a graph holds and makes, where a runtime cannot hold them. Refuses; changes nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from d3d_edge.errors import LoweringError
from d3d_edge.quantize.nodes import DEQUANTIZE, DEQUANTIZE_CHANNELS, QUANTIZE_TENSOR, constant, constants, refusal

_FLOAT16_MAX = torch.finfo(torch.float16).max


def weight_grids(program: ExportedProgram, runtime: str) -> Iterator[LoweringError]:
    """The weights with a zero point other than 0, which no runtime takes, and those with scales that are none."""
    held = constants(program)
    for node in program.graph.nodes:
        if node.target not in DEQUANTIZE or (weight := constant(node.args[0], held)) is None:
            continue
        scales, points = (constant(given, held) for given in node.args[1:3])
        if points is not None and bool(points.any()):
            message = f"the weight {node.args[0]} has a zero point other than 0"
            yield refusal(node, message, "quantize weights symmetrically", runtime=runtime)
        if scales is not None and not bool((scales.isfinite() & (scales > 0)).all()):
            message = f"the weight {node.args[0]} has a scale that is not finite and above 0"
            yield refusal(node, message, "quantize the run again", runtime=runtime)
        per_channel = node.target is DEQUANTIZE_CHANNELS and node.args[3] == 0
        if scales is not None and per_channel and scales.numel() != len(weight):
            message = f"the weight {node.args[0]} has {scales.numel()} scales for {len(weight)} output channels"
            yield refusal(node, message, "quantize the run again", runtime=runtime)


def no_numbers(program: ExportedProgram, runtime: str) -> Iterator[LoweringError]:
    """The weights and biases of which some are no finite number."""
    for name, value, reader in _float_constants(program):
        if not bool(value.isfinite().all()):
            message = f"the constant {name} holds what is no finite number"
            yield refusal(reader, message, "train again, with a lower learning_rate in the recipe", runtime=runtime)


def beyond_float16(program: ExportedProgram, runtime: str) -> Iterator[LoweringError]:
    """The weights and biases that are infinite in float16, for a runtime that stores them so."""
    for name, value, reader in _float_constants(program):
        largest = float(value.abs().max()) if value.numel() else 0.0
        if _FLOAT16_MAX < largest < math.inf:
            message = f"the constant {name} holds {largest:.3g}, and {runtime} stores at most {_FLOAT16_MAX:.0f}"
            yield refusal(reader, message, "only a target that computes in float32 takes it", runtime=runtime)
    held = constants(program)
    for node in program.graph.nodes:
        weight = constant(node.args[0], held) if node.target in DEQUANTIZE else None
        if weight is not None and weight.numel():
            channels = weight.shape[0] if weight.dim() else 1
            steps, scales = weight.long().abs().reshape(channels, -1).amax(1), constant(node.args[1], held)
            if scales is not None and scales.numel() in (1, channels):
                largest = float((steps * scales).max())
                if _FLOAT16_MAX < largest < math.inf:
                    message = f"the weight {node.args[0]} means {largest:.3g}, and {runtime} takes {_FLOAT16_MAX:.0f}"
                    yield refusal(node, message, "quantize the run again", runtime=runtime)


def ranges_beyond_float16(program: ExportedProgram, runtime: str) -> Iterator[LoweringError]:
    """The activations whose largest rounded values are infinite in float16, for a runtime that computes so."""
    for node in program.graph.nodes:
        if node.target is not QUANTIZE_TENSOR:
            continue
        scale, point, least, most = node.args[1:5]
        largest = max(most - point, point - least) * scale
        if _FLOAT16_MAX < largest < math.inf:
            message = f"{node.name} rounds to numbers up to {largest:.3g}, and {runtime} computes to {_FLOAT16_MAX:.0f}"
            yield refusal(node, message, "only a target that computes in float32 takes it", runtime=runtime)


def _float_constants(program: ExportedProgram) -> Iterator[tuple[str, torch.Tensor, Node]]:
    """Name, value and first reader of the weights and biases that are not quantized."""
    held = constants(program)
    for node in program.graph.find_nodes(op="placeholder"):
        reader = next((user for user in node.users if user.target not in DEQUANTIZE), None)
        if reader and node.name in held and held[node.name].is_floating_point():
            yield node.name, held[node.name], reader
