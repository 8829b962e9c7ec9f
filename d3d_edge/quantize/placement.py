"""Where quantize and dequantize stand in a graph, and what keeps a runtime from fusing them. Refuses; changes nothing.

A pair that is not fused is worse than none: the operator computes in float, between two passes over its tensors.
The rules are those that XNNPACK, Core ML and TensorRT share; what one of them alone asks for stands with its runtime.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Set
from typing import Any

import torch
import torch.ao.quantization.fx._decomposed  # It registers the operators that quantize and dequantize.
from torch.export import ExportedProgram
from torch.fx import Node

from d3d_edge.errors import LoweringError
from d3d_edge.quantize.groups import CONVOLUTIONS, REARRANGING
from d3d_edge.quantize.origin import is_kept_float, layer_of

_aten = torch.ops.aten
_stored = torch.ops.quantized_decomposed
QUANTIZE = frozenset({_stored.quantize_per_tensor.default, _stored.quantize_per_channel.default})
"""What rounds."""
DEQUANTIZE = frozenset({_stored.dequantize_per_tensor.default, _stored.dequantize_per_channel.default})
"""What reads rounded numbers."""
_PER_TENSOR = frozenset({_stored.quantize_per_tensor.default, _stored.dequantize_per_tensor.default})
_PER_CHANNEL = frozenset({_stored.quantize_per_channel.default, _stored.dequantize_per_channel.default})
_WEIGHTED = CONVOLUTIONS | {
    *(_aten.convolution.default, _aten.conv1d.default, _aten.conv1d.padding, _aten.conv3d.default),
    *(_aten.conv_transpose1d.default, _aten.conv_transpose2d.input, _aten.linear.default),
}
_PRODUCTS: dict[Any, int] = {
    **dict.fromkeys((_aten.matmul.default, _aten.linalg_matmul.default, _aten.mm.default, _aten.bmm.default), 0),
    **dict.fromkeys((_aten.mv.default, _aten.dot.default, _aten.inner.default, _aten.tensordot.default), 0),
    **dict.fromkeys((_aten.scaled_dot_product_attention.default, _aten.bilinear.default), 0),
    **dict.fromkeys((_aten.addmm.default, _aten.addmv.default, _aten.addbmm.default, _aten.baddbmm.default), 1),
    _aten.einsum.default: 1,
}
"""Products of matrices, any of which may be an activation, and where the first stands among the arguments."""
_FACTORS = ("first factor", "second factor", "third factor")
FOLLOWERS = frozenset(
    {
        *(_aten.relu.default, _aten.relu6.default, _aten.hardtanh.default, _aten.clamp.default),
        *(_aten.relu_.default, _aten.relu6_.default, _aten.hardtanh_.default, _aten.clamp_.default),
        *(_aten.clamp_min.default, _aten.clamp_min_.default, _aten.threshold.default, _aten.threshold_.default),
        _aten.batch_norm.default,
    }
)
"""What every runtime computes together with the convolution before it."""
MOVING = REARRANGING - {
    *(_aten.pad.default, _aten.constant_pad_nd.default, _aten.max_pool2d.default, _aten.relu.default),
}
"""Operators that neither add a value nor compare two."""
_ACTIVATION_RANGE = (-128, 127, torch.int8)
_WEIGHT_RANGES = (_ACTIVATION_RANGE, (-127, 127, torch.int8))
_FLOAT16_MAX = torch.finfo(torch.float16).max

MAX_RANK = 4
"""Axes of a tensor. Convolutions and pools over more have no INT8 form, or no kernel at all, on the targets."""


def is_quantized(program: ExportedProgram) -> bool:
    """Whether anything in `program` is quantized."""
    return any(node.target in QUANTIZE for node in program.graph.nodes)


def faults(program: ExportedProgram, runtime: str) -> Iterator[LoweringError]:
    """What in `program` would not be fused, or not be computed, by `runtime`; each names its layer and operator."""
    quantized = is_quantized(program)
    yield from many_axes(program, runtime)
    yield from _no_numbers(program, runtime)
    for node in program.graph.nodes:
        for found in (
            _per_channel_elsewhere(node),
            _parted_from_relu(node),
            _no_scale(node),
            _another_range(node),
            _read_by_another_grid(node),
            _moved_to_another_grid(node),
        ):
            if found:
                yield refusal(node, *found, runtime=runtime)
        if quantized and not is_kept_float(node):
            for name, value in _factors(node):
                if isinstance(value, Node) and value.target not in DEQUANTIZE:
                    yield refusal(
                        node,
                        f"the {name} {value.name} is not quantized, so the operator computes in float",
                        "quantize the run again with this version, whose quantizer rounds both"
                        if node.target in CONVOLUTIONS
                        else "write it as a 2D convolution, both of whose inputs the quantizer rounds",
                        runtime=runtime,
                    )


def many_axes(program: ExportedProgram, runtime: str) -> Iterator[LoweringError]:
    """The tensors of more than MAX_RANK axes."""
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor) and value.dim() > MAX_RANK:
            message = f"the tensor {node.name} has {value.dim()} axes, at most {MAX_RANK} are lowered"
            yield refusal(node, message, "use the rank-4 layers of d3d_edge.models.layers", runtime=runtime)


def _factors(node: Node) -> Iterable[tuple[str, Any]]:
    """What `node` multiplies and sums, which is nothing but for convolutions and products of matrices."""
    if node.target in _WEIGHTED:
        return zip(("input", "weight"), node.args, strict=False)
    first = _PRODUCTS.get(node.target)
    if first is None:
        return ()
    factors = node.args[first:]
    if factors and isinstance(factors[0], list | tuple):  # einsum's
        factors = tuple(factors[0])
    return zip(_FACTORS, factors, strict=False)


def zero_points(program: ExportedProgram, runtime: str) -> Iterator[LoweringError]:
    """The activations with a zero point other than 0, for a runtime that takes none."""
    for node in program.graph.nodes:
        if node.target is _stored.quantize_per_tensor.default and node.args[2] != 0:
            message = f"{node.name} has the zero point {node.args[2]}, and {runtime} takes only 0"
            yield refusal(node, message, "quantize with scheme: symmetric", runtime=runtime)


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
        per_channel = node.target in _PER_CHANNEL and node.args[3] == 0
        if scales is not None and per_channel and scales.numel() != len(weight):
            message = f"the weight {node.args[0]} has {scales.numel()} scales for {len(weight)} output channels"
            yield refusal(node, message, "quantize the run again", runtime=runtime)


def shared_weights(program: ExportedProgram, runtime: str) -> Iterator[LoweringError]:
    """The weights and biases that several operators read, for a runtime that packs each for one of them."""
    held = constants(program)
    for node in program.graph.find_nodes(op="placeholder"):
        if node.name not in held:
            continue
        read = [user for user in node.users if user.target in DEQUANTIZE and user.args[0] is node]
        users = dict.fromkeys(user for source in (node, *read) for user in source.users)
        readers = [user for user in users if user.target in _WEIGHTED or user.target in _PRODUCTS]
        for reader in readers[1:]:
            message = f"the constant {node.name} is also {readers[0].name}'s, and {runtime} packs it for one operator"
            yield refusal(reader, message, "give every operator weights of its own", runtime=runtime)


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
    """The constant that an operator is given, be it held or a number."""
    return held.get(given.name) if isinstance(given, Node) else torch.tensor(given)


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
        if node.target is not _stored.quantize_per_tensor.default:
            continue
        scale, point, least, most = node.args[1:5]
        largest = max(most - point, point - least) * scale
        if _FLOAT16_MAX < largest < math.inf:
            message = f"{node.name} rounds to numbers up to {largest:.3g}, and {runtime} computes to {_FLOAT16_MAX:.0f}"
            yield refusal(node, message, "only a target that computes in float32 takes it", runtime=runtime)


def _no_numbers(program: ExportedProgram, runtime: str) -> Iterator[LoweringError]:
    for name, value, reader in _float_constants(program):
        if not bool(value.isfinite().all()):
            message = f"the constant {name} holds what is no finite number"
            yield refusal(reader, message, "train again, with a lower learning_rate in the recipe", runtime=runtime)


def _float_constants(program: ExportedProgram) -> Iterator[tuple[str, torch.Tensor, Node]]:
    """Name, value and first reader of the weights and biases that are not quantized."""
    held = constants(program)
    for node in program.graph.find_nodes(op="placeholder"):
        reader = next((user for user in node.users if user.target not in DEQUANTIZE), None)
        if reader and node.name in held and held[node.name].is_floating_point():
            yield node.name, held[node.name], reader


def refusal(node: Node, message: str, hint: str, *, runtime: str, stage: str = "check") -> LoweringError:
    """`message` about `node`, with its layer and operator."""
    # ExecuTorch wraps an operator, and prints its schema after its name.
    operator = str(node.target).removeprefix("<EdgeOpOverload: ").partition(">: schema")[0]
    return LoweringError(message, stage=stage, layer=layer_of(node), operator=operator, runtime=runtime, hint=hint)


def blamed(program: ExportedProgram, message: str) -> tuple[str, str]:
    """Layer and operator of the first node of `program` that a tool's error message names, or empty."""
    calls = (node for node in program.graph.nodes if node.op == "call_function")
    named = (node for node in calls if str(node.target) in message or re.search(rf"node {node.name}\b", message))
    node = next(named, None)
    return ("", "") if node is None else (layer_of(node), str(node.target))


def _per_channel_elsewhere(node: Node) -> tuple[str, str] | None:
    if node.target not in _PER_CHANNEL or node.args[3] == 0:
        return None
    return (
        f"{node.name} has one scale per index of axis {node.args[3]}; only axis 0, the output channels, is fused",
        "quantize weights per output channel: ch_axis=0",
    )


def _no_scale(node: Node) -> tuple[str, str] | None:
    if node.target not in _PER_TENSOR or not isinstance(node.args[1], float) or 0 < node.args[1] < math.inf:
        return None
    return f"{node.name} has the scale {node.args[1]}", "quantize the run again"


def _read_by_another_grid(node: Node) -> tuple[str, str] | None:
    """Other numbers come back than were rounded: by the ratio of the scales, or moved."""
    written = node.args[0] if node.target in DEQUANTIZE else None
    if not isinstance(written, Node) or written.target not in QUANTIZE or written.args[1:] == node.args[1:]:
        return None
    return (
        f"{written.name} rounds by scale and zero point {written.args[1]} and {written.args[2]}, and {node.name} reads "
        f"it by {node.args[1]} and {node.args[2]}",
        "quantize the run again",
    )


def _moved_to_another_grid(node: Node) -> tuple[str, str] | None:
    """Core ML drops the second rounding of what was only moved, and XNNPACK does not load such a file."""
    if node.target is not _stored.quantize_per_tensor.default:
        return None
    source = node.args[0]
    while isinstance(source, Node) and source.target in MOVING:
        source = source.args[0]
    if not isinstance(source, Node) or source.target not in DEQUANTIZE or source is node.args[0]:
        return None
    if source.args[1:3] == node.args[1:3]:
        return None
    return (
        f"{node.name} rounds by scale and zero point {node.args[1]} and {node.args[2]} what {source.name} read by "
        f"{source.args[1]} and {source.args[2]}, and which was only moved between",
        "quantize the run again",
    )


def _another_range(node: Node) -> tuple[str, str] | None:
    """Runtimes clip to the whole range of the type, whatever the graph says."""
    if node.target not in (*_PER_TENSOR, *_PER_CHANNEL):
        return None
    found = tuple(node.args[3:] if node.target in _PER_TENSOR else node.args[4:])
    is_weight = isinstance(node.args[0], Node) and node.args[0].op == "placeholder"
    if found in (_WEIGHT_RANGES if is_weight else (_ACTIVATION_RANGE,)):
        return None
    return f"{node.name} rounds to {found}, and every runtime to {_ACTIVATION_RANGE}", "quantize the run again"


def _parted_from_relu(node: Node) -> tuple[str, str] | None:
    """A convolution, rounded, then its ReLU or batch norm: the three cannot be one kernel any more."""
    if node.target not in _WEIGHTED:
        return None
    for rounded in (user for user in _behind(node) if user.target in QUANTIZE):
        for after in _behind(rounded, MOVING | QUANTIZE | DEQUANTIZE):
            if after.target in FOLLOWERS:
                return (
                    f"{rounded.name} and what reads it stand between {node.name} and {after.name}, else one kernel",
                    "quantize what comes after the pair instead: a relu that alone reads the convolution",
                )
    return None


def _behind(node: Node, through: Set[Any] = MOVING) -> Iterator[Node]:
    """What reads the values of `node`, also `through` operators that keep them: once they are moved, or rounded."""
    for user in node.users:
        yield user
        if user.target in through:
            yield from _behind(user, through)
