"""What would make a .pte file slow on a phone, or keep it from running there. Part of the ExecuTorch runtime.

ExecuTorch lowers what XNNPACK does not take to its portable kernels, without a word: they are slow for whatever sums
many products, and for some operators there is none, which shows when the app loads the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from d3d_edge.errors import LoweringError
from d3d_edge.quantize.groups import CONVOLUTIONS
from d3d_edge.quantize.nodes import DEQUANTIZE, QUANTIZE, constant, constants, refusal
from d3d_edge.quantize.placement import FOLLOWERS
from d3d_edge.runtimes.xnnpack_classifier import is_classifier

LIBRARY = "executorch.extension.pybindings._portable_lib"
"""The runtime itself. `executorch.runtime` is a thin layer on it, and imports ExecuTorch's whole compiler for the class
of one warning (executorch 1.4, `portable_lib`), which takes twice as long as all else that a bundle needs to be run."""

RANK_4 = "use the rank-4 layers of d3d_edge.models.layers"

_REMEDIES = {
    r"conv\w*3d|pool\w*3d": RANK_4,
    r"conv": "XNNPACK takes 2D convolutions with constant weights, as the layers of d3d_edge.models.layers are",
    r"avg_pool": "XNNPACK takes count_include_pad=False and ceil_mode=False only, over more than one element",
    r"pool": "XNNPACK takes 2D max pools of one output, with a stride no larger than the kernel",
    r"amax|amin": "XNNPACK has no such operator: a 2D max pool over the whole map gives the largest",
    r"linear|bmm|\bmm\b|addmm|matmul": "write it as a 1x1 convolution, layers.conv2d",
    r"quantize_per|dequantize_per": "let every neighbour of the pair be one that XNNPACK has in INT8, or quantize none",
}
"""Operators that must not be left outside a delegate, by a pattern of their names, and what to do about each."""


_SUMMING = CONVOLUTIONS | {torch.ops.aten.conv1d.default, torch.ops.aten.linear.default}
_SUM_MAX, _DISTANCE_MAX = 2**31 - 1, 255
"""Of int32, in which XNNPACK adds an INT8 convolution's products and its bias; of an INT8 input from its zero point."""
_RATIO_MAX = 256
"""Of an INT8 sum's step and its output's: XNNPACK creates no operator of it (src/operators/convolution-nhwc.c)."""


def calls(program: ExportedProgram) -> list[tuple[Node, str]]:
    """The operators of a lowered program that are not in a delegate, with their names."""
    nodes = [node for node in program.graph.nodes if node.op == "call_function"]
    named = [(node, str(getattr(node.target, "__name__", node.target))) for node in nodes]
    return [(node, name) for node, name in named if "call_delegate" not in name and name != "getitem"]


def large_biases(program: ExportedProgram, runtime: str) -> Iterator[LoweringError]:
    """The biases that do not fit, beside its largest sum, into the int32 that an INT8 convolution sums in."""
    held = constants(program)
    for node in program.graph.nodes:
        if node.target not in _SUMMING or len(node.args) < 3 or node.args[2] is None or is_classifier(node):
            continue
        frames, weights, bias = node.args[:3]
        if not DEQUANTIZE.issuperset((frames.target, weights.target)):
            continue
        integers, scales, added = (constant(given, held) for given in (*weights.args[:2], bias))
        if integers is None or scales is None or added is None:
            continue
        steps = added.double().abs() / (scales.double() * frames.args[1])
        sums = steps + _DISTANCE_MAX * integers.long().abs().flatten(1).sum(1)
        worst = int(sums.argmax())
        if float(sums[worst]) > _SUM_MAX:
            message = (
                f"the bias of channel {worst}, {float(added[worst]):.3g}, is {float(steps[worst]):.3g} of its INT8 "
                "steps, and XNNPACK sums in int32"
            )
            hint = "its inputs or weights are almost zero: leave it in float, quantize.keep_float in the recipe"
            yield refusal(node, message, hint, runtime=runtime)


def far_scales(program: ExportedProgram, runtime: str) -> Iterator[LoweringError]:
    """The scales of convolutions and joins with which XNNPACK would not load the file, naming no operator."""
    held = constants(program)
    for node in program.graph.nodes:
        for rounded in _roundings(node):
            if node.target is torch.ops.aten.cat.default:
                for source in node.args[0]:
                    if source.target in DEQUANTIZE and source.args[1:3] != rounded.args[1:3]:
                        message = (
                            f"{node.name} takes {source.name} by scale and zero point {source.args[1]} and "
                            f"{source.args[2]} to {rounded.args[1]} and {rounded.args[2]}, and XNNPACK to the same only"
                        )
                        yield refusal(node, message, "quantize the run again", runtime=runtime)
            elif node.target in _SUMMING and DEQUANTIZE.issuperset(given.target for given in node.args[:2]):
                scales = constant(node.args[1].args[1], held)
                ratio = 0.0 if scales is None else float(scales.max()) * node.args[0].args[1] / rounded.args[1]
                if ratio >= _RATIO_MAX:
                    message = (
                        f"the scale of {rounded.name}, {rounded.args[1]:.3g}, is {ratio:.3g} times smaller than a step "
                        f"of {node.name}'s sum, and XNNPACK takes less than {_RATIO_MAX}"
                    )
                    yield refusal(node, message, "quantize the run again", runtime=runtime)


def _roundings(node: Node) -> Iterator[Node]:
    """What rounds the output of `node`, or that of the ReLU behind it."""
    for user in node.users:
        if user.target in QUANTIZE:
            yield user
        elif user.target in FOLLOWERS:
            yield from (after for after in user.users if after.target in QUANTIZE)


def undelegated(program: ExportedProgram, runtime: str) -> Iterator[LoweringError]:
    """Convolutions, pools, products of matrices and Q/DQ that XNNPACK left out."""
    for node, name in calls(program):
        remedy = next((text for pattern, text in _REMEDIES.items() if re.search(pattern, name)), None)
        if remedy:
            what = "the pair is not fused" if "quantize_per" in name else "it would run on a slow kernel, or on none"
            yield refusal(node, f"XNNPACK does not take {node.name}: {what}", remedy, runtime=runtime, stage="delegate")


def without_kernel(program: ExportedProgram, plan: Any, known: set[str], runtime: str) -> Iterator[LoweringError]:
    """Operators of the execution `plan`, emitted from `program`, that are not among the `known` kernels."""
    nodes = {str(getattr(getattr(node.target, "_schema", None), "name", "")): node for node in program.graph.nodes}
    for operator in plan.operators:
        name = f"{operator.name}.{operator.overload}" if operator.overload else str(operator.name)
        if name not in known:
            message = f"the runtime in the app has no kernel for {name}"
            hint = f"write the layer with other operators; {RANK_4}"
            node = nodes.get(operator.name)
            if node is None:
                yield LoweringError(message, stage="kernels", operator=name, runtime=runtime, hint=hint)
            else:
                yield refusal(node, message, hint, runtime=runtime, stage="kernels")


def kernels() -> set[str]:
    """Names of the kernels in ExecuTorch's runtime of this version, portable and optimized, quantized and its own.

    The Android package, org.pytorch:executorch-android, links the same libraries (executorch, extension/android).
    """
    library = import_module(LIBRARY)
    import_module("executorch.kernels.quantized")  # It registers the quantized ones.
    return set(library._get_operator_names())
