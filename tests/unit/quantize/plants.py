"""Faults to plant in the graph of `networks.quantized`, each in a copy of one's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from d3d_edge.quantize.origin import layer_of

aten, stored = torch.ops.aten, torch.ops.quantized_decomposed
RELU, CONV, PER_CHANNEL = aten.relu.default, aten.conv2d.default, stored.dequantize_per_channel.default
QUANTIZE_CHANNELS = stored.quantize_per_channel.default
QUANTIZE, DEQUANTIZE = stored.quantize_per_tensor.default, stored.dequantize_per_tensor.default
Plant = Callable[[ExportedProgram], None]


def first(program: ExportedProgram, operator: Any, layer: str = "") -> Any:
    return next(n for n in program.graph.nodes if n.target is operator and (not layer or layer_of(n) == layer))


def round_before_relu(program: ExportedProgram) -> None:
    relu = first(program, RELU, "temporal.spatial")
    quantize = next(iter(relu.users))
    with program.graph.inserting_before(relu):
        rounded = program.graph.call_function(QUANTIZE, (relu.args[0], *quantize.args[1:]))
        relu.args = (program.graph.call_function(DEQUANTIZE, (rounded, *quantize.args[1:])),)


def write_the_relu_as(program: ExportedProgram, operator: Any, *numbers: float) -> None:
    relu = first(program, RELU, "temporal.spatial")
    round_before_relu(program)
    relu.target, relu.args = operator, (*relu.args, *numbers)


def round_before_clamp(program: ExportedProgram) -> None:
    write_the_relu_as(program, aten.clamp.default, 0.0, 6.0)


def round_before_clamp_min(program: ExportedProgram) -> None:
    write_the_relu_as(program, aten.clamp_min.default, 0.0)


def round_before_threshold(program: ExportedProgram) -> None:
    write_the_relu_as(program, aten.threshold.default, 0.0, 0.0)


def scale_and_round_before_relu(program: ExportedProgram) -> None:
    relu = first(program, RELU, "temporal.spatial")
    with program.graph.inserting_before(relu):
        scaled = program.graph.call_function(aten.mul.Tensor, (relu.args[0], 0.5))
        relu.args = (program.graph.call_function(aten.add.Tensor, (scaled, 0.25)),)
    round_before_relu(program)


def round_and_move_before_relu(program: ExportedProgram) -> None:
    relu = first(program, RELU, "temporal.spatial")
    round_before_relu(program)
    with program.graph.inserting_before(relu):
        moved = program.graph.call_function(aten.permute.default, (relu.args[0], [0, 2, 3, 1]))
        relu.args = (program.graph.call_function(aten.permute.default, (moved, [0, 3, 1, 2])),)


def round_twice_before_relu(program: ExportedProgram) -> None:
    round_before_relu(program)
    round_before_relu(program)


def write_the_relu_as_clip(program: ExportedProgram) -> None:
    write_the_relu_as(program, aten.clip.default, 0.0, 6.0)


def read_the_integers(program: ExportedProgram) -> None:
    quantize = next(iter(first(program, RELU, "stem").users))
    (reader,) = quantize.users
    reader.target, reader.args = aten.to.dtype, (quantize, torch.float32)


def scale_every_channel(program: ExportedProgram) -> None:
    quantize = next(iter(first(program, RELU, "stem").users))
    weight = first(program, PER_CHANNEL, "stem.conv")
    for node in (quantize, *quantize.users):
        node.target = QUANTIZE_CHANNELS if node is quantize else PER_CHANNEL
        node.args = (node.args[0], *weight.args[1:3], 0, *node.args[3:])


def leave_input_float(program: ExportedProgram) -> None:
    conv = first(program, CONV, "temporal.temporal.conv")
    conv.args = (conv.args[0].args[0].args[0], *conv.args[1:])


def leave_weight_float(program: ExportedProgram) -> None:
    conv = first(program, CONV, "logits")
    with program.graph.inserting_before(conv):
        weight = program.graph.call_function(aten.mul.Tensor, (conv.args[1], 1.0))
    conv.args = (conv.args[0], weight, *conv.args[2:])


def quantize_along_inputs(program: ExportedProgram) -> None:
    weight = first(program, stored.dequantize_per_channel.default, "pointwise.spatial.conv")
    weight.args = (*weight.args[:3], 1, *weight.args[4:])


def add_an_axis(program: ExportedProgram) -> None:
    pool = first(program, aten.max_pool2d.default, "pool")
    pool.meta["val"] = pool.meta["val"].unsqueeze(0)


def shift_an_activation(program: ExportedProgram) -> None:
    quantize = next(iter(first(program, RELU, "stem").users))
    for node in (quantize, *list(quantize.users)):
        node.args = (*node.args[:2], 7, *node.args[3:])


def read_by_another_scale(program: ExportedProgram) -> None:
    quantize = next(iter(first(program, RELU, "stem").users))
    reader = next(iter(quantize.users))
    reader.args = (reader.args[0], 2 * reader.args[1], *reader.args[2:])


def read_by_another_zero_point(program: ExportedProgram) -> None:
    quantize = next(iter(first(program, RELU, "stem").users))
    reader = next(iter(quantize.users))
    reader.args = (*reader.args[:2], 7, *reader.args[3:])


def change_scale_of_what_is_moved(program: ExportedProgram) -> None:
    *_, mean = program.graph.find_nodes(op="call_function", target=aten.mean.dim)
    quantize = mean.args[0].args[0]
    assert quantize.args[0].target is aten.permute.default
    for node in (quantize, *quantize.users):
        node.args = (node.args[0], 1.7 * node.args[1], *node.args[2:])


def use_half_of_a_range(program: ExportedProgram) -> None:
    quantize = next(iter(first(program, RELU, "stem").users))
    (reader,) = quantize.users
    for node in (quantize, reader):
        node.args = (*node.args[:3], 0, 64, torch.int8)


def use_half_of_a_weights_range(program: ExportedProgram) -> None:
    node = first(program, PER_CHANNEL)
    node.args = (*node.args[:4], -64, 64, torch.int8)


def round_by(program: ExportedProgram, scale: float) -> None:
    quantize = next(iter(first(program, RELU, "stem").users))
    for node in (quantize, *list(quantize.users)):
        node.args = (node.args[0], scale, *node.args[2:])


def round_by_no_number(program: ExportedProgram) -> None:
    round_by(program, float("nan"))


def round_by_zero(program: ExportedProgram) -> None:
    round_by(program, 0.0)


def change_a_weight(program: ExportedProgram, place: int, change: Callable[[Tensor], Tensor]) -> None:
    name = program.graph_signature.inputs_to_buffers[first(program, PER_CHANNEL).args[place].name]
    program.state_dict[name] = change(program.state_dict[name])


def scale_a_weight_by_no_number(program: ExportedProgram) -> None:
    change_a_weight(program, 1, lambda scales: scales * float("nan"))


def shift_a_weight_of_one_scale(program: ExportedProgram) -> None:
    node = first(program, PER_CHANNEL)
    node.target = DEQUANTIZE
    node.args = (node.args[0], 0.01, 3, *node.args[4:])


def lose_a_scale(program: ExportedProgram) -> None:
    change_a_weight(program, 1, lambda scales: scales[:-1])


def add_no_number(program: ExportedProgram) -> None:
    name = program.graph_signature.inputs_to_parameters[first(program, CONV, "temporal.spatial.conv").args[2].name]
    program.state_dict[name] = nn.Parameter(program.state_dict[name] * float("nan"), requires_grad=False)


def add_a_large_number(program: ExportedProgram) -> None:
    name = program.graph_signature.inputs_to_parameters[first(program, CONV, "temporal.spatial.conv").args[2].name]
    program.state_dict[name] = nn.Parameter(torch.full_like(program.state_dict[name], -1e5), requires_grad=False)


def round_to_large_numbers(program: ExportedProgram) -> None:
    round_by(program, 600.0)


def shift_a_weight(program: ExportedProgram) -> None:
    change_a_weight(program, 2, lambda zero_points: zero_points + 3)
