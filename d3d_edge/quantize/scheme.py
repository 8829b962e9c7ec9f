"""The quantizer of this project: which tensors of a rank-4 network become INT8, and with which observer.

It annotates; the graph is changed by `quantize.pt2e` only. It is a `Quantizer` of torchao, not a configured
XNNPACKQuantizer, so that quantization-aware training imports no runtime, and because one graph serves every target:

* a weight is quantized per output channel, an activation per tensor, and a bias not at all (runtimes derive it);
* every input of a convolution, of a concatenation and of a gate's product is quantized, and every output of one,
  which for a convolution followed by a ReLU is the ReLU's: nothing stands between the two;
* tensors that differ in order or selection only (views, permutations, max pools, zero pads, slices) share one scale,
  and so do the inputs and the output of a concatenation: no value is rounded twice;
* a mean has a scale of its own, as averages are far smaller than what they average; a sigmoid is computed in float;
* normalising the uint8 frames is computed in float, and its result quantized at once, so that what stacks and pads
  frames for the first convolution moves bytes;
* logits, which a last convolution of one position gives, are not rounded: nothing reads them in INT8, and two classes
  whose logits would round to one step could not be told apart.

Schemes: `symmetric` has zero point 0 everywhere, which TensorRT demands. `affine` gives activations a zero point, and
with it twice the resolution after a ReLU.
"""

from __future__ import annotations

from d3d_edge.quantize import torchao_unlogged  # noqa: F401

# isort: split
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e import PartialWrapper
from torchao.quantization.pt2e.quantizer import (
    QuantizationAnnotation,
    QuantizationSpec,
    QuantizationSpecBase,
    Quantizer,
    SharedQuantizationSpec,
)

from d3d_edge.calibset import Observer
from d3d_edge.quantize.groups import CONVOLUTIONS, REARRANGING, groups_of, is_of_one_position, kept_in_float
from d3d_edge.quantize.observer import GroupMovingAverage, Histogram, MinMax, PerChannelMinMax, PerChannelNewest
from d3d_edge.quantize.origin import keep_float as note_float
from d3d_edge.quantize.ranges import GroupPercentile, LeastSquares
from d3d_edge.quantize.rounding import EdgeFakeQuantize
from d3d_edge.target import Scheme

FOLLOWING: frozenset[Observer] = frozenset({"minmax", "moving_average"})
"""Observers that can follow the activations through training. The others look at a whole histogram for a range, which
would be searched anew at every step: their ranges are found before training and stay."""

ANNOTATION = "quantization_annotation"
"""Where torchao looks for a node's annotation, in `Node.meta`."""

ACTIVATION_STEP_MIN = 2.0**-12
"""Smallest scale of an activation, as in ExecuTorch's XNNPACK quantizer: XNNPACK limits the ratio of scales."""
WEIGHT_STEP_MIN = 2.0**-20
"""Smallest scale of a weight. Larger would cost precision: a folded kernel may be as small as 1e-2 throughout."""

_aten = torch.ops.aten
_PRODUCTS = frozenset({_aten.mul.Tensor, _aten.add.Tensor})


class EdgeQuantizer(Quantizer):  # type: ignore[misc]
    """Annotates a graph by the rules above.

    `observer` is how an activation's range is found; `percentile` belongs to the observer of that name. Under `qat`,
    an observer that is not among `FOLLOWING` is replaced by the moving average. Groups that `keep_float` names are left
    alone: what enters them is rounded only where an INT8 operator wrote it, and what leaves them where one reads it.
    """

    def __init__(
        self,
        scheme: Scheme,
        observer: Observer,
        *,
        percentile: float | None = None,
        keep_float: Iterable[str] = (),
        qat: bool,
    ) -> None:
        self._kept = tuple(keep_float)
        self.activation = _activation_spec(scheme, _observer(observer, percentile, qat), qat)
        self.weight = _weight_spec(qat)

    def annotate(self, model: GraphModule) -> GraphModule:
        """Annotate every node that is to be quantized. Returns `model`.

        Raises:
            RecipeError: `keep_float` names no part of the network, or all of it.
        """
        entries, inside = _quantized_region(model)
        convolutions = [node for node in model.graph.nodes if node.target in CONVOLUTIONS]
        read = {source for conv in convolutions for source in conv.all_input_nodes}
        feeding = _reached(reversed(model.graph.nodes), read, lambda node: node.users)
        groups = groups_of(model)
        kept = kept_in_float(groups.values(), self._kept)
        for node in model.graph.nodes:
            if groups.get(node) in kept:
                note_float(node)
                continue
            if node in entries:
                _annotate(node, {}, self.activation)
            if node not in inside or ANNOTATION in node.meta:
                continue
            if node.target in CONVOLUTIONS:
                self._annotate_convolution(node, gives_logits=node not in feeding and is_of_one_position(node))
            elif node.target is _aten.cat.default:
                self._annotate_cat(node)
            elif node.target in _PRODUCTS or node.target is _aten.mean.dim:
                _annotate(node, dict.fromkeys(node.all_input_nodes, self.activation), self.activation)
            elif node.target in REARRANGING and _is_quantized(node.args[0]):
                source = node.args[0]
                _annotate(node, {source: SharedQuantizationSpec(source)}, SharedQuantizationSpec((source, node)))
        return model

    def validate(self, model: GraphModule) -> None:
        """Nothing to check: an operator without a rule stays float, and lowering says what it cannot take."""

    def _annotate_convolution(self, conv: Node, *, gives_logits: bool) -> None:
        source, weight = conv.args[0], conv.args[1]
        if gives_logits:
            _annotate(conv, {source: self.activation, weight: self.weight}, None)
            return
        users = list(conv.users)
        relu = users[0] if len(users) == 1 and users[0].target in (_aten.relu.default, _aten.relu_.default) else None
        _annotate(conv, {source: self.activation, weight: self.weight}, None if relu else self.activation)
        if relu:
            _annotate(relu, {}, self.activation)

    def _annotate_cat(self, cat: Node) -> None:
        first, *others = cat.all_input_nodes
        shared = SharedQuantizationSpec((first, cat))
        _annotate(cat, {first: self.activation, **dict.fromkeys(others, shared)}, shared)


def _annotate(node: Node, inputs: dict[Any, QuantizationSpecBase | None], output: QuantizationSpecBase | None) -> None:
    node.meta[ANNOTATION] = QuantizationAnnotation(input_qspec_map=inputs, output_qspec=output, _annotated=True)


def _is_quantized(node: Any) -> bool:
    annotation = node.meta.get(ANNOTATION) if isinstance(node, Node) else None
    return annotation is not None and annotation.output_qspec is not None


def _quantized_region(model: GraphModule) -> tuple[set[Node], set[Node]]:
    """The float nodes whose values reach the first convolution rearranged only; and the nodes to quantize after them.

    Those have a convolution after or at them, and an entry or a convolution before or at them.
    """
    convolutions = {node for node in model.graph.nodes if node.target in CONVOLUTIONS}
    sources: set[Node] = set()
    pending = [node.args[0] for node in convolutions]
    while pending:
        node = pending.pop()
        if node not in sources:
            sources.add(node)
            if node.target in REARRANGING or node.target is _aten.cat.default:
                pending.extend(node.all_input_nodes)
    behind = _reached(model.graph.nodes, convolutions, lambda node: node.all_input_nodes)
    entries = {node for node in sources if node.target in _PRODUCTS} - behind
    behind |= _reached(model.graph.nodes, entries, lambda node: node.all_input_nodes) - entries
    return entries, behind & _reached(reversed(model.graph.nodes), convolutions, lambda node: node.users)


def _reached(nodes: Iterable[Node], starts: set[Node], neighbours: Callable[[Node], Iterable[Node]]) -> set[Node]:
    """`starts`, and all of `nodes` that follow one by `neighbours`."""
    reached = set(starts)
    for node in nodes:
        if not reached.isdisjoint(neighbours(node)):
            reached.add(node)
    return reached


def _observer(observer: Observer, percentile: float | None, qat: bool) -> Callable[..., Any]:
    """What makes an observer of activations, given eps and what torchao adds."""
    if qat and observer not in FOLLOWING:
        return GroupMovingAverage
    if observer == "percentile":
        if percentile is None:
            raise ValueError("the observer 'percentile' needs a percentile")
        return partial(GroupPercentile, percentile)
    classes: dict[Observer, Callable[..., Any]] = {
        "minmax": MinMax,
        "moving_average": GroupMovingAverage,
        "histogram": Histogram,
        "mse": LeastSquares,
    }
    return classes[observer]


def _activation_spec(scheme: Scheme, chosen: Callable[..., Any], qat: bool) -> QuantizationSpec:
    # Not FusedMovingAvgObsFakeQuantize: its kernel gives a range without negative values (after a ReLU) the zero point
    # -128 in the symmetric scheme too.
    constructor = (
        EdgeFakeQuantize.with_args(observer=chosen, eps=ACTIVATION_STEP_MIN)
        if qat
        else PartialWrapper(partial(chosen, eps=ACTIVATION_STEP_MIN))
    )
    return QuantizationSpec(
        dtype=torch.int8,
        quant_min=-128,
        quant_max=127,
        qscheme=torch.per_tensor_symmetric if scheme == "symmetric" else torch.per_tensor_affine,
        observer_or_fake_quant_ctr=constructor,
    )


def _weight_spec(qat: bool) -> QuantizationSpec:
    constructor = (
        EdgeFakeQuantize.with_args(observer=PerChannelNewest, averaging_constant=1.0, eps=WEIGHT_STEP_MIN)
        if qat
        else PerChannelMinMax.with_args(eps=WEIGHT_STEP_MIN)
    )
    return QuantizationSpec(
        dtype=torch.int8,
        quant_min=-127,
        quant_max=127,
        qscheme=torch.per_channel_symmetric,
        ch_axis=0,
        observer_or_fake_quant_ctr=constructor,
    )
