"""Faults planted in a quantized graph, one at a time: each is found, and named by layer and operator."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from d3d_edge.errors import LoweringError
from d3d_edge.quantize import graph_files, placement, values
from d3d_edge.quantize.origin import layer_of
from tests import networks
from tests.unit.quantize import plants


def found(program: ExportedProgram) -> list[LoweringError]:
    return [
        *placement.faults(program, "a runtime"),
        *placement.zero_points(program, "a runtime"),
        *values.weight_grids(program, "a runtime"),
        *values.beyond_float16(program, "a runtime"),
        *values.ranges_beyond_float16(program, "a runtime"),
    ]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "graph.pt2"
    graph_files.save(networks.quantized(), path)
    return path


@pytest.fixture
def program(saved: Path) -> ExportedProgram:
    """A graph of one's own, to plant a fault in."""
    return graph_files.load(saved)


@pytest.mark.parametrize(
    ("plant", "said", "layer", "operator", "remedy"),
    [
        (
            plants.round_before_relu,
            "stand between conv2d_1 and relu_1",
            "temporal.spatial.conv",
            "aten.conv2d",
            "after the pair",
        ),
        *(
            (
                plant,
                "stand between conv2d_1 and relu_1",
                "temporal.spatial.conv",
                "aten.conv2d",
                "after the pair",
            )
            for plant in (
                *(plants.round_before_clamp, plants.round_before_clamp_min, plants.round_before_threshold),
                plants.write_the_relu_as_clip,
                *(plants.round_and_move_before_relu, plants.round_twice_before_relu),
                plants.scale_and_round_before_relu,
            )
        ),
        (
            plants.leave_input_float,
            "input .* is not quantized",
            "temporal.temporal.conv",
            "aten.conv2d",
            "quantize the run again",
        ),
        (plants.leave_weight_float, "weight .* is not quantized", "logits", "aten.conv2d", "quantize the run again"),
        (
            plants.quantize_along_inputs,
            "axis 1; only axis 0",
            "pointwise.spatial.conv",
            "dequantize_per_channel",
            "ch_axis=0",
        ),
        (plants.add_an_axis, "has 5 axes, at most 4", "pool", "aten.max_pool2d", "rank-4 layers"),
        (plants.shift_an_activation, "has the zero point 7", "stem", "quantize_per_tensor", "scheme: symmetric"),
        (
            plants.read_by_another_scale,
            "rounds by scale and zero point",
            "stem",
            "dequantize_per_tensor",
            "quantize the run again",
        ),
        (
            plants.read_by_another_zero_point,
            "reads it by .* and 7",
            "stem",
            "dequantize_per_tensor",
            "quantize the run again",
        ),
        (
            plants.change_scale_of_what_is_moved,
            "rounds by .* what .* read by .*, and which was only moved between",
            "temporal",
            "quantize_per_tensor",
            "quantize the run again",
        ),
        (
            plants.scale_a_weight_by_no_number,
            "not finite and above 0",
            "stem.conv",
            "dequantize_per_channel",
            "quantize the",
        ),
        (
            plants.use_half_of_a_weights_range,
            r"rounds to \(-64, 64, .*",
            "stem.conv",
            "dequantize_per_channel",
            "quantize the",
        ),
        (
            plants.lose_a_scale,
            "has 7 scales for 8 output channels",
            "stem.conv",
            "dequantize_per_channel",
            "quantize the run",
        ),
        (
            plants.add_a_large_number,
            "stores at most 65504",
            "temporal.spatial.conv",
            "aten.conv2d",
            "computes in float32",
        ),
        (
            plants.round_to_large_numbers,
            r"up to 7.68e\+04, .* to 65504",
            "stem",
            "quantize_per_tensor",
            "computes in float32",
        ),
        (plants.add_no_number, "holds what is no finite number", "temporal.spatial.conv", "aten.conv2d", "train again"),
        (
            plants.shift_a_weight_of_one_scale,
            "a zero point other than 0",
            "stem.conv",
            "dequantize_per_tensor",
            "symmetrically",
        ),
        (
            plants.read_the_integers,
            "reads the integers of quantize_per_tensor",
            "stem",
            "quantize_per_tensor",
            "dequantize in front",
        ),
        (plants.shift_a_weight, "a zero point other than 0", "stem.conv", "dequantize_per_channel", "symmetrically"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_planted_fault_is_named_with_its_remedy(
    plant: plants.Plant, said: str, layer: str, operator: str, remedy: str, program: ExportedProgram
) -> None:
    plant(program)
    (fault,) = found(program)
    assert fault.exit_code == 5
    with pytest.raises(LoweringError, match=rf"{said}.*layer {layer}, operator \S*{operator}.*a runtime.*{remedy}"):
        raise fault


def test_an_activation_with_a_scale_per_channel_is_named(program: ExportedProgram) -> None:
    plants.scale_every_channel(program)
    faults = [str(fault) for fault in found(program)]
    assert len(faults) == 2, "what rounds, and what reads it"
    for fault, operator in zip(faults, ("quantize_per_channel", "dequantize_per_channel"), strict=True):
        assert "has one scale per channel of an activation" in fault
        assert f"layer stem, operator quantized_decomposed.{operator}" in fault
        assert "one scale per activation" in fault


class Scaled(nn.Module):
    """Values times a learned number, and a weight of one scale that holds nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("number", torch.tensor(100, dtype=torch.int8))
        self.register_buffer("nothing", torch.zeros(0, 4, dtype=torch.int8))
        self.empty = nn.Parameter(torch.zeros(0, 4), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        number = plants.stored.dequantize_per_tensor(self.number, 1e3, 0, -128, 127, torch.int8)
        nothing = plants.stored.dequantize_per_tensor(self.nothing, 1e3, 0, -128, 127, torch.int8)
        return torch.cat([x * number, self.empty, nothing])


def test_a_constant_may_have_no_axes_or_no_values() -> None:
    program = torch.export.export(Scaled(), (torch.ones(4, 4),))
    (fault,) = values.beyond_float16(program, "a runtime")
    assert "means 1e+05" in str(fault)


def test_a_scale_that_is_no_number_is_named_wherever_it_stands(program: ExportedProgram) -> None:
    plants.round_by_no_number(program)
    assert {"has the scale nan" in str(fault) for fault in found(program)} == {True}


def test_a_range_that_is_not_of_its_type_is_named_wherever_it_stands(program: ExportedProgram) -> None:
    plants.use_half_of_a_range(program)
    faults = [str(fault) for fault in found(program)]
    assert len(faults) == 2, "where it is rounded, and where it is read"
    assert all("rounds to (0, 64, torch.int8)" in fault and "layer stem," in fault for fault in faults)


def test_a_weight_of_a_float_network_that_is_no_number_is_refused(tmp_path: Path) -> None:
    graph_files.save(networks.float_program(), tmp_path / "graph.pt2")
    program = graph_files.load(tmp_path / "graph.pt2")
    plants.add_no_number(program)
    (fault,) = placement.faults(program, "a runtime")
    assert "no finite number [stage check, layer temporal.spatial.conv," in str(fault)


@pytest.mark.parametrize("make", [networks.quantized, networks.float_program])
def test_the_networks_of_this_project_have_no_fault(make: Callable[[], ExportedProgram]) -> None:
    assert not found(make())


def test_the_affine_scheme_has_zero_points_and_no_other_fault() -> None:
    program = networks.quantized("affine")
    assert list(placement.zero_points(program, "a runtime"))
    assert not [*placement.faults(program, "a runtime"), *values.weight_grids(program, "a runtime")]


@pytest.mark.parametrize("make", [networks.quantized, networks.float_program])
def test_layers_are_named_as_in_the_network_and_survive_a_file(
    make: Callable[[], ExportedProgram], tmp_path: Path
) -> None:
    graph_files.save(make(), tmp_path / "graph.pt2")
    program = graph_files.load(tmp_path / "graph.pt2")
    weighted = [layer_of(node) for node in program.graph.nodes if node.target is plants.CONV]
    network = networks.small()
    assert sorted(weighted) == sorted(name for name, part in network.named_modules() if isinstance(part, nn.Conv2d))
    pools = [layer_of(node) for node in program.graph.nodes if node.target is plants.aten.max_pool2d.default]
    assert set(pools) == {"pool", "branch_pool"}
    assert not any(note in node.meta for node in program.graph.nodes for note in ("stack_trace", "from_node"))


def test_quantization_belongs_to_the_layer_whose_values_it_rounds() -> None:
    program = networks.quantized()
    assert layer_of(next(iter(plants.first(program, plants.RELU, "stem").users))) == "stem"
    weights = [n for n in program.graph.nodes if n.target is plants.stored.dequantize_per_channel.default]
    assert [layer_of(node) for node in weights] == [layer_of(next(iter(node.users))) for node in weights]
