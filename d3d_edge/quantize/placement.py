"""Where quantize and dequantize stand in a graph, and what keeps a runtime from fusing them. Refuses; changes nothing.

A pair that is not fused is worse than none: the operator computes in float, between two passes over its tensors.
The rules are those that XNNPACK, Core ML and TensorRT share; what one of them alone asks for stands with its runtime.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Set
from itertools import chain
from typing import Any

import torch
from torch._ops import HigherOrderOperator
from torch.export import ExportedProgram
from torch.fx import Node

from d3d_edge.errors import LoweringError
from d3d_edge.quantize.groups import CONVOLUTIONS, REARRANGING
from d3d_edge.quantize.nodes import (
    DEQUANTIZE,
    DEQUANTIZE_CHANNELS,
    DEQUANTIZE_TENSOR,
    QUANTIZE,
    QUANTIZE_CHANNELS,
    QUANTIZE_TENSOR,
    constants,
    refusal,
)
from d3d_edge.quantize.origin import is_kept_float
from d3d_edge.quantize.values import no_numbers

_aten = torch.ops.aten
_PER_TENSOR = frozenset({QUANTIZE_TENSOR, DEQUANTIZE_TENSOR})
_PER_CHANNEL = frozenset({QUANTIZE_CHANNELS, DEQUANTIZE_CHANNELS})
_WEIGHTED = CONVOLUTIONS | {
    *(_aten.convolution.default, _aten.conv1d.default, _aten.conv1d.padding, _aten.conv3d.default),
    *(_aten.conv_transpose1d.default, _aten.conv_transpose2d.input, _aten.linear.default),
}
_CHAINS = (
    *(_aten.scaled_dot_product_attention.default, _aten.bilinear.default, _aten.matrix_power.default),
    *(_aten.linalg_multi_dot.default, _aten.chain_matmul.default, _aten.lstm.input, _aten.gru.input),
    *(_aten.rnn_tanh.input, _aten.rnn_relu.input),
)
"""Products of matrices, of which one takes what another made: nothing rounds that."""
_PRODUCTS: dict[Any, int] = {
    **dict.fromkeys((_aten.matmul.default, _aten.linalg_matmul.default, _aten.mm.default, _aten.bmm.default), 0),
    **dict.fromkeys((_aten.mv.default, _aten.dot.default, _aten.inner.default, _aten.tensordot.default), 0),
    **dict.fromkeys((_aten.gru_cell.default, _aten.lstm_cell.default), 0),
    **dict.fromkeys((_aten.rnn_tanh_cell.default, _aten.rnn_relu_cell.default), 0),
    **dict.fromkeys(_CHAINS, 0),
    **dict.fromkeys((_aten.addmm.default, _aten.addmv.default, _aten.addbmm.default, _aten.baddbmm.default), 1),
    _aten.einsum.default: 1,
}
"""Products of matrices, any of which may be an activation, and where the first stands among the arguments."""
_ROUNDED_ANEW = "quantize the run again with this version, whose quantizer rounds both"
_AS_A_CONVOLUTION = "write it as a 2D convolution, both of whose inputs the quantizer rounds"
_FACTORS = ("first factor", "second factor", "third factor")
FOLLOWERS = frozenset(
    {
        *(_aten.relu.default, _aten.relu6.default, _aten.hardtanh.default, _aten.clamp.default),
        *(_aten.relu_.default, _aten.relu6_.default, _aten.hardtanh_.default, _aten.clamp_.default),
        *(_aten.clamp_min.default, _aten.clamp_min_.default, _aten.threshold.default, _aten.threshold_.default),
        *(_aten.clip.default, _aten.clip_.default),
        _aten.batch_norm.default,
    }
)
"""What every runtime computes together with the convolution before it."""
MOVING = REARRANGING - {
    *(_aten.pad.default, _aten.constant_pad_nd.default, _aten.max_pool2d.default, _aten.relu.default),
} | {
    *(_aten.movedim.int, _aten.movedim.intlist, _aten.moveaxis.int, _aten.moveaxis.intlist),
    *(_aten.swapaxes.default, _aten.swapdims.default, _aten.t.default, _aten.unflatten.int, _aten.squeeze.default),
}
"""Operators that neither add a value nor compare two."""
_SCALING = frozenset(
    {
        *(_aten.add.Tensor, _aten.sub.Tensor, _aten.mul.Tensor, _aten.div.Tensor),
        *(_aten.add_.Tensor, _aten.sub_.Tensor, _aten.mul_.Tensor, _aten.div_.Tensor),
    }
)
_ACTIVATION_RANGE = (-128, 127, torch.int8)
_WEIGHT_RANGES = (_ACTIVATION_RANGE, (-127, 127, torch.int8))

MAX_RANK = 4
"""Axes of a tensor. Convolutions and pools over more have no INT8 form, or no kernel at all, on the targets."""


def is_quantized(program: ExportedProgram) -> bool:
    """Whether anything in `program` is quantized."""
    return any(node.target in QUANTIZE for node in program.graph.nodes)


def faults(program: ExportedProgram, runtime: str) -> Iterator[LoweringError]:
    """What in `program` would not be fused, or not be computed, by `runtime`; each names its layer and operator."""
    quantized = is_quantized(program)
    yield from many_axes(program, runtime)
    yield from no_numbers(program, runtime)
    for node in program.graph.nodes:
        for found in (
            _branching(node),
            _of_no_fixed_shape(node),
            _per_channel_elsewhere(node),
            _per_channel_of_an_activation(node),
            _read_as_integers(node),
            _parted_from_relu(node),
            _no_scale(node),
            _another_range(node),
            _read_by_another_grid(node),
            _moved_to_another_grid(node),
        ):
            if found:
                yield refusal(node, *found, runtime=runtime)
        if quantized and not is_kept_float(node):
            hint = _ROUNDED_ANEW if node.target in CONVOLUTIONS else _AS_A_CONVOLUTION
            for name, value in _factors(node):
                if isinstance(value, Node) and value.target not in DEQUANTIZE:
                    message = f"the {name} {value.name} is not quantized, so the operator computes in float"
                    yield refusal(node, message, hint, runtime=runtime)
            if _multiplies_again(node):
                message = f"{node.name} multiplies what it made itself, which is not quantized, so it computes in float"
                yield refusal(node, message, hint, runtime=runtime)


def many_axes(program: ExportedProgram, runtime: str) -> Iterator[LoweringError]:
    """The tensors of more than MAX_RANK axes."""
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor) and value.dim() > MAX_RANK:
            message = f"the tensor {node.name} has {value.dim()} axes, at most {MAX_RANK} are lowered"
            # What is given has no layer; its reader does.
            blamed = next(iter(node.users), node) if node.op == "placeholder" else node
            yield refusal(blamed, message, "use the rank-4 layers of d3d_edge.models.layers", runtime=runtime)


def _factors(node: Node) -> Iterable[tuple[str, Any]]:
    """What `node` multiplies and sums, which is nothing but for convolutions and products of matrices."""
    if node.target in _WEIGHTED:
        return zip(("input", "weight"), node.args, strict=False)
    first = _PRODUCTS.get(node.target)
    if first is None:
        return ()
    # Some take a list of them.
    lists = (given if isinstance(given, list | tuple) else (given,) for given in node.args[first:])
    return zip(_FACTORS, chain.from_iterable(lists), strict=False)


def _multiplies_again(node: Node) -> bool:
    """Whether one of its products takes what another made, as none of only two factors does."""
    if node.target not in _CHAINS:
        return False
    if isinstance(node.args[0], list | tuple):
        return len(node.args[0]) > 2
    return node.target is not _aten.matrix_power.default or node.args[1] not in (0, 1, 2)


def zero_points(program: ExportedProgram, runtime: str) -> Iterator[LoweringError]:
    """The activations with a zero point other than 0, for a runtime that takes none."""
    for node in program.graph.nodes:
        if node.target is QUANTIZE_TENSOR and node.args[2] != 0:
            message = f"{node.name} has the zero point {node.args[2]}, and {runtime} takes only 0"
            yield refusal(node, message, "quantize with scheme: symmetric", runtime=runtime)


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


def _branching(node: Node) -> tuple[str, str] | None:
    """Nothing here looks into the graphs between which torch.cond and the like choose."""
    if not isinstance(node.target, HigherOrderOperator):
        return None
    return f"{node.name} chooses between graphs, of which none is checked", "compute both, and take torch.where"


def _of_no_fixed_shape(node: Node) -> tuple[str, str] | None:
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or all(isinstance(size, int) for size in value.shape):
        return None
    return (
        f"the tensor {node.name} has no static shape: {list(value.shape)}",
        "export the network for one clip shape",
    )


def _per_channel_of_an_activation(node: Node) -> tuple[str, str] | None:
    if node.target not in _PER_CHANNEL:
        return None
    source = node.args[0]
    while isinstance(source, Node) and source.target in QUANTIZE:
        source = source.args[0]
    if isinstance(source, Node) and source.op == "placeholder":
        return None
    return (
        f"{node.name} has one scale per channel of an activation; only weights have",
        "use one scale per activation",
    )


def _read_as_integers(node: Node) -> tuple[str, str] | None:
    """Runtimes know a pair: who reads what was rounded otherwise computes apart from it."""
    reader = next((user for user in node.users if user.target not in DEQUANTIZE), None)
    if node.target not in QUANTIZE or reader is None:
        return None
    return (
        f"{reader.name} reads the integers of {node.name}, which only dequantize fuses with",
        f"dequantize in front of {reader.name}",
    )


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
    if node.target is not QUANTIZE_TENSOR:
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
    for rounded in (user for scaled in _scaled(node) for user in _behind(scaled) if user.target in QUANTIZE):
        for after in _behind(rounded, MOVING | QUANTIZE | DEQUANTIZE):
            if after.target in FOLLOWERS:
                return (
                    f"{rounded.name} and what reads it stand between {node.name} and {after.name}, else one kernel",
                    "quantize what comes after the pair instead: a relu that alone reads the convolution",
                )
    return None


def _scaled(node: Node) -> Iterator[Node]:
    """`node`, and what adds constants to its values or multiplies them, such as a batch norm."""
    yield node
    for user in _behind(node):
        constants = [arg for arg in user.args[:2] if not isinstance(arg, Node) or arg.op in ("placeholder", "get_attr")]
        if user.target is _aten.batch_norm.default or (user.target in _SCALING and len(constants) == 1):
            yield from _scaled(user)


def _behind(node: Node, through: Set[Any] = MOVING) -> Iterator[Node]:
    """What reads the values of `node`, also `through` operators that keep them: once they are moved, or rounded."""
    for user in node.users:
        yield user
        if user.target in through:
            yield from _behind(user, through)
