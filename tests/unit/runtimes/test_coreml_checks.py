"""Faults planted in the specification of an ML Program: an operator newer than the chosen iOS, and shapes that vary."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export import export

from d3d_edge.quantize import pt2e
from d3d_edge.runtimes import coreml_checks
from tests import networks
from tests.unit.runtimes.packages import ct, mb, saved

IMAGE = np.zeros((1, 4, 6, 6), np.float32)


def relu_then_conv(x: Any) -> Any:
    return mb.conv(x=mb.relu(x=x, name="relu_3"), weight=np.ones((4, 4, 1, 1), np.float32), name="conv2d_7_cast_fp16")


def specification(folder: Path, target: str = "iOS17") -> Any:
    return ct.utils.load_spec(str(saved(folder, relu_then_conv, IMAGE, target=target)))


def faults(spec: Any, target: Any = ct.target.iOS17) -> list[str]:
    layers = {"relu_3": "stem", "conv2d_7": "Mixed_3b.Branch_0.Conv2d_0a_1x1.spatial.conv"}
    return [str(fault) for fault in coreml_checks.of_program(spec, target, layers)]


def operators(spec: Any) -> Any:
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    return {op.type: op for op in block.operations}


@pytest.mark.parametrize("target", ["iOS17", "iOS18"])
def test_a_program_for_the_chosen_ios_has_no_fault(target: str, tmp_path: Path) -> None:
    assert faults(specification(tmp_path, target), getattr(ct.target, target)) == []


def test_a_program_for_a_newer_ios_is_refused(tmp_path: Path) -> None:
    (fault,) = faults(specification(tmp_path, "iOS18"))
    assert "of the operator set CoreML8, iOS17 reads CoreML7" in fault


def test_an_operator_that_the_chosen_ios_does_not_have_is_named_with_its_layer(tmp_path: Path) -> None:
    spec = specification(tmp_path)
    operators(spec)["conv"].type = "scaled_dot_product_attention"
    (fault,) = faults(spec)
    assert "iOS17 does not have the operator conv2d_7_cast_fp16; iOS18 has" in fault
    assert "layer Mixed_3b.Branch_0.Conv2d_0a_1x1.spatial.conv, operator scaled_dot_product_attention" in fault
    assert "--set minimum_deployment_target=iOS18" in fault
    operators(spec)["scaled_dot_product_attention"].type = "fold_space_time"
    assert "no version of iOS has" in faults(spec)[0]


def test_shapes_that_vary_are_refused(tmp_path: Path) -> None:
    spec = specification(tmp_path)
    spec.description.input[0].type.multiArrayType.shapeRange.sizeRanges.add(lowerBound=1, upperBound=8)
    operators(spec)["relu"].outputs[0].type.tensorType.dimensions[0].unknown.variadic = False
    first, second = faults(spec)
    assert "the input x has no fixed shape" in first
    assert "the tensor relu_3 has no static shape" in second
    assert "layer stem, operator relu" in second


def test_every_function_and_both_ends_of_each_are_looked_at(tmp_path: Path) -> None:
    spec = specification(tmp_path)
    main = spec.mlProgram.functions["main"]
    spec.mlProgram.functions["second"].CopyFrom(main)
    (block,) = spec.mlProgram.functions["second"].block_specializations.values()
    next(op for op in block.operations if op.type == "conv").type = "scaled_dot_product_attention"
    spec.description.output[0].type.multiArrayType.shapeRange.sizeRanges.add(lowerBound=1, upperBound=8)
    main.inputs[0].type.tensorType.dimensions[0].unknown.variadic = False
    said = [
        r"the output \S+ has no fixed shape",
        "the argument x has no fixed shape",
        "iOS17 does not have the operator",
    ]
    for message, expected in zip(faults(spec), said, strict=True):
        assert re.search(expected, message)


def test_a_program_without_a_function_is_refused(tmp_path: Path) -> None:
    spec = specification(tmp_path)
    del spec.mlProgram.functions["main"]
    (fault,) = faults(spec)
    assert "of the operator set none, iOS17 reads CoreML7" in fault


@pytest.mark.parametrize("what", ["the package", "a block"])
def test_what_is_of_a_newer_version_is_refused(what: str, tmp_path: Path) -> None:
    spec = specification(tmp_path)
    if what == "the package":
        spec.specificationVersion += 1
    else:
        blocks = spec.mlProgram.functions["main"].block_specializations
        blocks["CoreML8"].CopyFrom(blocks["CoreML7"])
    (message,) = faults(spec)
    assert {"the package": "of version 9, iOS17 reads 8", "a block": "set CoreML8, iOS17 reads CoreML7"}[
        what
    ] in message


def test_a_tensor_of_five_axes_that_coremltools_made_is_refused(tmp_path: Path) -> None:
    def widened(x: Any) -> Any:
        return mb.reshape(x=mb.expand_dims(x=x, axes=[0], name="conv2d_7_0"), shape=x.shape, name="back")

    (fault,) = faults(ct.utils.load_spec(str(saved(tmp_path, widened, IMAGE))))
    assert "makes a tensor of 5 axes of it, conv2d_7_0, which leaves the Neural Engine" in fault
    assert "layer Mixed_3b.Branch_0.Conv2d_0a_1x1.spatial.conv, operator expand_dims" in fault


def test_a_layer_that_coremltools_writes_with_five_axes_is_named() -> None:
    net = nn.Sequential(nn.Conv2d(4, 4, 1), nn.GroupNorm(2, 4), nn.Flatten(1))
    (fault,) = coreml_checks.of_graph(pt2e.export_float(net.eval(), torch.from_numpy(IMAGE)))
    said = "coremltools writes group_norm with 5 axes, which leaves the Neural Engine [stage check, layer 1, operator"
    assert said in str(fault)


def test_operators_of_a_branch_are_found(tmp_path: Path) -> None:
    def branches(x: Any) -> Any:
        bright = mb.greater(x=mb.reduce_sum(x=x, axes=[0, 1, 2, 3], keep_dims=False), y=np.float32(0))
        return mb.cond(pred=bright, _true_fn=lambda: mb.relu(x=x, name="relu_3"), _false_fn=lambda: mb.exp(x=x))

    spec = ct.utils.load_spec(str(saved(tmp_path, branches, IMAGE)))
    assert not faults(spec)
    (relu,) = (op for op in operators(spec)["cond"].blocks[0].operations if op.type == "relu")
    relu.type = "scaled_dot_product_attention"
    (fault,) = faults(spec)
    assert "does not have the operator relu_3; iOS18 has" in fault
    assert "layer stem" in fault


class Bytes(nn.Module):
    """A function of bytes, and floats of the result."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, clip: Tensor) -> Tensor:
        return self.function(clip).float().mean((1, 2, 3))[None]


def of_bytes(function: Callable[[Tensor], Tensor]) -> list[str]:
    program = export(Bytes(function), (torch.zeros(4, 8, 8, 3, dtype=torch.uint8),))
    return [str(fault) for fault in coreml_checks.of_graph(program)]


@pytest.mark.parametrize(
    ("function", "operator"),
    [
        (lambda x: x + x, "aten.add.Tensor"),
        (lambda x: x - 128, "aten.sub.Tensor"),
        (lambda x: x // 2, "aten.floor_divide.default"),
        (lambda x: x.to(torch.int8), "aten.to.dtype"),
        (lambda x: x.permute(0, 3, 1, 2)[:, 1:] * 2, "aten.mul.Tensor"),
    ],
)
def test_bytes_that_would_not_wrap_are_refused(function: Callable[[Tensor], Tensor], operator: str) -> None:
    (fault,) = of_bytes(function)
    assert "computes with bytes" in fault
    assert f"operator {operator}, Core ML" in fault
    assert "clip.to(torch.float32)" in fault


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x / 255,
        lambda x: x.to(torch.int32) * 3,
        lambda x: x.permute(0, 3, 1, 2).flatten(1)[:, 1:].reshape(4, 1, 1, -1),
        lambda x: torch.cat([x, x.flip(0)]),
    ],
    ids=["divided", "cast", "moved", "joined"],
)
def test_bytes_may_be_cast_and_moved(function: Callable[[Tensor], Tensor]) -> None:
    assert of_bytes(function) == []


def test_an_activation_that_float16_cannot_hold_is_refused() -> None:
    program = networks.reopened(networks.quantized())
    assert not list(coreml_checks.of_graph(program))
    for node in program.graph.nodes:
        if "quantize_per_tensor" in node.name:
            node.args = (node.args[0], 600.0, *node.args[2:])
    assert "numbers up to 7.68e+04, and Core ML computes to 65504" in str(next(coreml_checks.of_graph(program)))


def test_weights_that_float16_cannot_hold_are_refused() -> None:
    program = networks.reopened(networks.quantized())
    weight = next(node for node in program.graph.nodes if "dequantize_per_channel" in node.name)
    program.state_dict[program.graph_signature.inputs_to_buffers[weight.args[1].name]] *= 1e6
    (fault,) = coreml_checks.of_graph(program)
    assert "and Core ML takes 65504" in str(fault)
    assert "layer stem.conv" in str(fault)
