"""What is quantized, and how: the rules that the targets' runtimes rely on."""

from __future__ import annotations

import pytest
import torch
from torch.fx import Node

from d3d_edge.target import Scheme
from tests import networks

aten = torch.ops.aten
quantized = torch.ops.quantized_decomposed
QUANTIZE = quantized.quantize_per_tensor.default
DEQUANTIZE = quantized.dequantize_per_tensor.default
DEQUANTIZE_WEIGHT = quantized.dequantize_per_channel.default


def nodes(target: object, scheme: Scheme = "symmetric") -> list[Node]:
    return [node for node in networks.quantized(scheme).graph.nodes if node.target == target]


def constant(node: Node) -> torch.Tensor:
    program = networks.quantized()
    return program.state_dict[program.graph_signature.inputs_to_buffers[node.name]]


def test_all_zero_points_are_zero_in_the_symmetric_scheme() -> None:
    assert {node.args[2] for node in nodes(QUANTIZE)} == {0}


def test_activations_after_a_relu_have_a_zero_point_in_the_affine_scheme() -> None:
    assert -128 in {node.args[2] for node in nodes(QUANTIZE, "affine")}


def test_weights_are_int8_per_output_channel_with_zero_point_zero() -> None:
    weights = nodes(DEQUANTIZE_WEIGHT)
    assert len(weights) == len(nodes(aten.conv2d.default))
    for node in weights:
        values, scales, zero_points, axis = node.args[:4]
        assert axis == 0
        assert constant(values).dtype == torch.int8
        assert constant(scales).shape == (constant(values).shape[0],)
        assert not constant(zero_points).any()


def test_both_inputs_of_every_convolution_are_quantized() -> None:
    for node in nodes(aten.conv2d.default):
        assert [source.target for source in node.args[:2]] == [DEQUANTIZE, DEQUANTIZE_WEIGHT]


def test_nothing_stands_between_a_convolution_and_its_relu() -> None:
    relus = nodes(aten.relu.default)
    assert len(relus) == 4
    for node in relus:
        assert node.args[0].target == aten.conv2d.default
        assert [user.target for user in node.users] == [QUANTIZE]


@pytest.mark.parametrize("scheme", ["symmetric", "affine"])
def test_a_concatenation_and_its_inputs_share_one_scale(scheme: Scheme) -> None:
    (cat,) = nodes(aten.cat.default, scheme)
    (after,) = cat.users
    assert {source.args[1:3] for source in cat.args[0]} == {after.args[1:3]}


@pytest.mark.parametrize("target", [aten.permute.default, aten.view.default, aten.max_pool2d.default])
def test_rearranging_changes_no_scale(target: object) -> None:
    inside = [node for node in nodes(target) if node.args[0].target == DEQUANTIZE]
    assert inside
    for node in inside:
        assert [user.args[1:3] for user in node.users] == [node.args[0].args[1:3]]


def test_a_mean_has_its_own_scale() -> None:
    gate, _ = nodes(aten.mean.dim)
    (after,) = gate.users
    assert after.args[1] < gate.args[0].args[1]


def test_both_inputs_of_a_gates_product_are_quantized() -> None:
    gates = [node for node in nodes(aten.mul.Tensor) if len(node.all_input_nodes) == 2]
    assert len(gates) == 1
    assert {source.target for source in gates[0].args} == {DEQUANTIZE}


def test_normalisation_stays_float() -> None:
    first = nodes(QUANTIZE)[0]
    assert not [
        node for node in nodes(QUANTIZE) if node.args[0].target in (aten.div.Tensor, aten.sub.Tensor, aten.to.dtype)
    ]
    # Pixels normalised to [-1, 1] fill the int8 range.
    assert first.args[1] == pytest.approx(1 / 127.5, rel=0.05)


def test_nothing_is_rounded_twice_to_one_scale() -> None:
    for node in nodes(QUANTIZE):
        assert node.args[0].target != DEQUANTIZE


@pytest.mark.parametrize("scheme", ["symmetric", "affine"])
def test_normalised_frames_are_rounded_before_anything_moves_them(scheme: Scheme) -> None:
    (normalised,) = nodes(aten.add.Tensor, scheme)
    assert [user.target for user in normalised.users] == [QUANTIZE]
