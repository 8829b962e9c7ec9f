"""A float network in, an INT8 graph out: prepare, calibrate or train, convert. Chooses no recipe and trains nothing.

Batch norms are folded into their convolutions before anything is quantized, in calibration and in training alike.
torchao's own way for training keeps them, but replaces their epsilon by 1e-5 and their momentum by 0.1 (torchao 0.18,
`_get_qat_conv_bn_pattern`: "TODO: allow setting eps"), so a network with another epsilon would start training as
another function. Folding is exact, is what is deployed, and makes a training step cheaper. So there are no batch norm
statistics to freeze: `freeze_observers` is the whole end phase.

A prepared graph is an ordinary module. `state_dict()` holds weights, observed ranges and whether observers are on, so
training resumes from a checkpoint by preparing again and loading it, if the `form` is the same. Its clip count is
static: train it for N clips, then `transfer` to a graph of one.
"""

from __future__ import annotations

from d3d_edge.quantize import torchao_unlogged  # noqa: F401

# isort: split
import copy
import logging
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg
from torch.utils._pytree import tree_structure
from torchao.quantization.pt2e import (
    FakeQuantizeBase,
    ObserverBase,
    disable_fake_quant,
    disable_observer,
    enable_fake_quant,
)
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e, prepare_qat_pt2e

from d3d_edge.calibset import Observer
from d3d_edge.errors import LoweringError
from d3d_edge.files import sha256_of_value
from d3d_edge.models.layers import SpatialConv
from d3d_edge.quantize import rounding
from d3d_edge.quantize.groups import CONVOLUTIONS, groups_of, kept_in_float
from d3d_edge.quantize.lifting import lifted
from d3d_edge.quantize.nodes import DEQUANTIZE, QUANTIZE_TENSOR, constant, constants
from d3d_edge.quantize.observer import count_uses
from d3d_edge.quantize.origin import keep_layers, layer_of
from d3d_edge.quantize.passes import drop_device_checks, drop_identities, drop_unread, round_biases
from d3d_edge.quantize.quiet import quiet
from d3d_edge.quantize.scheme import EdgeQuantizer
from d3d_edge.signals import held_back
from d3d_edge.target import Scheme

_aten = torch.ops.aten


def capture(model: nn.Module, sample: Tensor) -> GraphModule:
    """`model` as a graph of operators in evaluation mode, the batch norms of `SpatialConv` folded. It is not changed.

    `sample: uint8 [N*T, H, W, C]` fixes the shape; its values do not matter.
    """
    graph = _traced(_deployed(model), sample).module()
    drop_device_checks(graph)
    return graph


def prepare(
    captured: GraphModule,
    *,
    scheme: Scheme,
    observer: Observer,
    percentile: float | None = None,
    keep_float: Iterable[str] = (),
    qat: bool,
) -> GraphModule:
    """A copy of `captured` that observes (or, under `qat`, fake-quantizes) what its converted form will quantize.

    `percentile` belongs to the observer of that name; `keep_float` names groups that stay float (see `groups`).
    Under `qat`, the ranges of an observer that is not among `scheme.FOLLOWING` come from a graph calibrated without it,
    by `adopt_ranges`. The graph is in evaluation mode; `set_training` switches its dropout.
    """
    quantizer = EdgeQuantizer(scheme, observer, percentile=percentile, keep_float=keep_float, qat=qat)
    with _quiet():
        graph = copy.deepcopy(captured)
        prepared: GraphModule = (prepare_qat_pt2e if qat else prepare_pt2e)(graph, quantizer)
    if qat:
        rounding.skip_repeats(prepared)
    count_uses(prepared)
    return prepared


def check_names(model: nn.Module, sample: Tensor, keep_float: Iterable[str]) -> None:
    """Raises RecipeError where `keep_float` names no part of `model`, or all of it; it is neither run nor changed."""
    kept_in_float(groups_of(_traced(_deployed(model), sample).module()).values(), keep_float)


def calibrate(prepared: GraphModule, clips: Iterable[Tensor]) -> None:
    """Show `clips`, each of the prepared shape, to the observers.

    Under QAT fake quantization is off meanwhile, so that the first ranges are those of the float network.
    """
    set_rounding(prepared, False)
    with torch.no_grad():
        for clip in clips:
            prepared(clip)
    set_rounding(prepared, True)


def adopt_ranges(graph: GraphModule, calibrated: GraphModule) -> None:
    """Give the activations of `graph`, prepared for training, the ranges of `calibrated`, prepared for calibration.

    Ranges of activations no longer move then; those of the weights follow the weights as before.

    Raises:
        ValueError: the two were not prepared from the same network by the same scheme.
    """
    if _computation(graph) != _computation(calibrated):
        raise ValueError("the two graphs do not compute the same operators in the same order")
    for name, fake in graph.named_modules():
        if isinstance(fake, FakeQuantizeBase) and not fake.is_per_channel:
            observer: Any = calibrated.get_submodule(name)
            scale, zero_point = observer.calculate_qparams()
            fake.scale.copy_(scale)
            fake.zero_point.copy_(zero_point)
            fake.disable_observer()


def set_rounding(prepared: GraphModule, on: bool) -> None:
    """Switch the fake quantization of all tensors on or off; observers go on either way. Kept by `state_dict`."""
    prepared.apply(enable_fake_quant if on else disable_fake_quant)


def set_training(prepared: GraphModule, training: bool) -> None:
    """Switch dropout on or off.

    torchao's `move_exported_model_to_train` would also set every dropout probability to 0.5 (torchao 0.18).
    """
    for node in prepared.graph.nodes:
        if node.target is _aten.dropout.default:
            node.args = (*node.args[:2], training)
    prepared.recompile()


def freeze_observers(prepared: GraphModule) -> None:
    """Fix the ranges of all fake quantizers at what they are now. Kept by `state_dict`."""
    prepared.apply(disable_observer)


def transfer(source: GraphModule, destination: GraphModule) -> None:
    """Give `destination` the weights and ranges of `source`, prepared from the same network for another clip count.

    The destination is for use: it rounds, and its own observers are off afterwards, so running it changes no range.

    Raises:
        ValueError: they were not prepared from the same network by the same scheme and observer.
    """
    state = source.state_dict()
    if _computation(source) != _computation(destination) or state.keys() != destination.state_dict().keys():
        raise ValueError("the two graphs do not compute the same operators in the same order")
    # Not all in one `load_state_dict`, which looks through all names once for every module.
    for name, module in destination.named_modules():
        if isinstance(module, FakeQuantizeBase):
            module.load_state_dict(source.get_submodule(name).state_dict())
    with torch.no_grad():
        for name, value in destination.state_dict(keep_vars=True).items():
            value.copy_(state[name])
    set_rounding(destination, True)
    freeze_observers(destination)


def take_weights(graph: GraphModule, source: GraphModule) -> None:
    """Give `graph` the weights of `source`: both captured of one network, and prepared in whatever way, or not."""
    weights = dict(source.named_parameters())
    with torch.no_grad():
        for name, parameter in graph.named_parameters():
            parameter.copy_(weights[name])


def _computation(graph: GraphModule) -> list[tuple[str, ...]]:
    """Operators and the quantizers and weights they read, in order, without what depends on the clip count."""

    def name(node: Node) -> str:
        return rounding.name_of(node) or str(node.target)

    def reads(node: Node) -> list[str]:
        return [name(x) for x in node.all_input_nodes if x.op != "call_function" or rounding.name_of(x)]

    return [(name(node), *reads(node)) for node in graph.graph.nodes if node.op in ("call_function", "call_module")]


def form(prepared: GraphModule) -> str:
    """Hash of what `prepared` computes but for weights and ranges: a state dict is of use in graphs of one form only.

    Names and shapes of weights do not tell: two graphs may both read pixels as channels, each in an order of its own.
    """
    places = {node: f"%{place}" for place, node in enumerate(prepared.graph.nodes)}
    steps = [
        [node.op, str(node.target), str(map_arg(node.args, places.__getitem__)), str(map_arg(node.kwargs, places.get))]
        for node in prepared.graph.nodes
    ]
    weights = [[name, list(value.shape)] for name, value in prepared.named_parameters()]
    rounding = [
        [name, *(str(getattr(module, key, None)) for key in ("dtype", "qscheme", "quant_min", "quant_max", "ch_axis"))]
        for name, module in prepared.named_modules()
        if isinstance(module, FakeQuantizeBase | ObserverBase)
    ]
    return sha256_of_value([steps, weights, rounding])


def convert(prepared: GraphModule, sample: Tensor) -> ExportedProgram:
    """The INT8 graph of a calibrated or trained one, which stays as it is. `sample` is as in `capture`.

    Takes uint8 [T, H, W, C] of one clip and gives float32 [1, classes] if it was prepared for one clip.
    """
    with _quiet():
        converted = copy.deepcopy(prepared).to("cpu")
        rounding.restore(converted)
        set_training(converted, False)
        converted = convert_pt2e(converted)
    drop_identities(converted)
    drop_unread(converted)
    round_biases(converted)
    program = lifted(converted.requires_grad_(False), sample.cpu().contiguous())
    keep_layers(program)
    return program


def export_float(model: nn.Module, sample: Tensor) -> ExportedProgram:
    """The float graph of `model`, batch norms folded as in `capture`: what `convert` gives, without quantization."""
    deployed = _deployed(model)
    program = _traced(deployed.requires_grad_(False), sample)
    drop_identities(program.graph_module)
    keep_layers(program)
    return program


def logit_step(program: ExportedProgram) -> float | None:
    """The most that a logit changes by where one input of the classifier is rounded the other way.

    None if the classifier is float, or reads floats. Runtimes may round a number between two steps either way, and each
    does so here and there, so some of these is what they differ by. Of a graph of older versions, whose logits are
    rounded, their step.
    """
    held = constants(program)
    for node in reversed(program.graph.nodes):
        if node.target is QUANTIZE_TENSOR:
            return float(node.args[1])
        if node.target in CONVOLUTIONS:
            source, weight = node.args[:2]
            if not DEQUANTIZE.issuperset((source.target, weight.target)):
                return None
            integers, scales = (constant(given, held) for given in weight.args[:2])
            if integers is None or scales is None:
                return None
            return float(source.args[1]) * float((integers.float().abs().flatten(1).amax(1) * scales).max())
    return None


def shapes(program: ExportedProgram) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of the uint8 that a graph takes and of the float32 that it gives; a free axis is -1.

    Raises:
        LoweringError: it takes or gives more than one tensor, or another type.
    """
    signature = program.graph_signature
    counts = len(signature.user_inputs), len(signature.user_outputs)
    if counts != (1, 1):
        raise LoweringError(
            f"the graph takes {counts[0]} tensors and gives {counts[1]}; a model takes clips and gives logits",
            stage="check",
            hint="let the network give its logits alone",
        )
    if (program.call_spec.in_spec, program.call_spec.out_spec) != (tree_structure(((0,), {})), tree_structure(0)):
        raise LoweringError(
            "the graph takes its clip, or gives its logits, in a list, in a table or by a keyword",
            stage="check",
            hint="let the network take the clip as its one argument, and give its logits alone",
        )
    (taken,), (given,) = signature.user_inputs, signature.user_outputs
    values = {node.name: node.meta["val"] for node in program.graph.nodes if node.name in (taken, given)}
    types = [str(getattr(values.get(name), "dtype", "no tensor")).removeprefix("torch.") for name in (taken, given)]
    if types != ["uint8", "float32"]:
        raise LoweringError(
            f"the graph takes {types[0]} and gives {types[1]}; a model takes bytes, uint8, and gives float32",
            stage="check",
            hint="let the network itself make numbers of bytes, and give float32",
        )
    first, last = (
        tuple(size if isinstance(size, int) else -1 for size in values[name].shape) for name in (taken, given)
    )
    return first, last


def float_convolutions(program: ExportedProgram) -> tuple[str, ...]:
    """Layers of the convolutions of `program` whose weights are not INT8, in order."""
    convolutions = [node for node in program.graph.nodes if node.target in CONVOLUTIONS]
    return tuple(layer_of(node) for node in convolutions if node.args[1].op == "placeholder")


def _deployed(model: nn.Module) -> nn.Module:
    """A copy of `model` in evaluation mode that computes the same: stems of blocks, and no batch norms."""
    model = copy.deepcopy(model).to("cpu").eval()
    for layer in model.modules():
        if isinstance(layer, SpatialConv):
            layer.read_blocks()
            layer.fold()
    return model


def _traced(model: nn.Module, sample: Tensor) -> ExportedProgram:
    # torch 2.13 keeps stacks of modes while it traces, and fails or aborts where an exception of a signal parts them.
    with held_back(), _quiet():
        return torch.export.export(model, (sample.cpu().contiguous(),), strict=False)


def _quiet() -> AbstractContextManager[None]:
    """Without torch's and torchao's notes, and the log of what `load` raises anyway."""
    return quiet("torch.export", logging.CRITICAL)
