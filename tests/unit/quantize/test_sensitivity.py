"""Groups of operators: which there are, what each costs alone, and what it means to leave one in float."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.fx import Node

from d3d_edge.errors import RecipeError
from d3d_edge.models.recogniser import Recogniser
from d3d_edge.models.s3dg import MIXED, POOLS, S3DG
from d3d_edge.quantize import graph_files, origin, placement, pt2e
from d3d_edge.quantize.groups import Group, groups_of, kept_in_float
from d3d_edge.quantize.sensitivity import Switched
from tests import networks

aten = torch.ops.aten
QUANTIZE = torch.ops.quantized_decomposed.quantize_per_tensor.default
GROUPS = {
    "stem": "stem",
    "pool": "pool",
    "temporal.spatial": "spatial",
    "temporal.temporal": "temporal",
    "temporal.self_gating": "gate",
    "branch_pool": "pool",
    "pointwise.spatial": "spatial",
    "join": "join",
    "logits": "head",
}


@pytest.fixture(scope="module")
def switched() -> Switched:
    return Switched(networks.prepared())


def test_every_operator_that_computes_is_in_a_group(switched: Switched) -> None:
    assert {group.name: group.kind for group in switched.groups} == GROUPS
    found = groups_of(switched.module)
    assert {node.target for node in found} >= {aten.conv2d.default, aten.cat.default, aten.mul.Tensor, aten.mean.dim}
    assert not {node.target for node in found} & {aten.permute.default, aten.view.default}


def test_the_groups_of_s3dg_are_named_after_its_modules() -> None:
    net = Recogniser(S3DG(4, width=0.1).eval())
    graph = torch.export.export(net, (torch.zeros(4, 32, 32, 3, dtype=torch.uint8),), strict=False).module()
    groups = list(dict.fromkeys(groups_of(graph).values()))
    kinds = [group.kind for group in groups]
    assert [groups[0], groups[-1]] == [Group("Conv2d_1a_7x7", "stem"), Group("Logits.Conv2d_0c_1x1", "head")]
    assert {group.name for group in groups if group.kind == "join"} == {f"{name}.join" for name in MIXED}
    assert {group.name for group in groups if group.kind == "pool"} == {*POOLS, *(f"{name}.pool" for name in MIXED)}
    assert kinds.count("gate") == 4 * len(MIXED) + 1
    assert kinds.count("temporal") == 2 * len(MIXED) + 1
    assert kinds.count("spatial") == 6 * len(MIXED) + 2
    assert len({group.name for group in groups}) == len(groups)


def test_nothing_rounded_is_the_float_network_and_all_rounded_the_converted_graph(switched: Switched) -> None:
    clips = [networks.clip(seed) for seed in (7, 8)]
    with torch.no_grad():
        plain = torch.cat([networks.small()(clip) for clip in clips])
        converted = torch.cat([networks.quantized().module()(clip) for clip in clips])
    torch.testing.assert_close(switched.logits((), clips), plain, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(switched.logits(switched.groups, clips), converted, rtol=1e-4, atol=1e-3)


def test_what_is_kept_of_a_call_for_the_next_changes_no_bit(switched: Switched) -> None:
    """In the order in which groups are rounded, against it, several at once, and of other clips in between."""
    clips, others = [networks.clip(seed) for seed in (7, 8)], [networks.clip(9)]
    groups = sorted(switched.groups, key=lambda group: switched.first([group]))
    assert [group.name for group in (groups[0], groups[-1])] == ["stem", "logits"]
    asked = [*([group] for group in groups), [groups[0]], groups[3:], [groups[-1]], groups, ()]
    whole = [[switched.logits(chosen, iter(batches)) for batches in (clips, others)] for chosen in asked]
    for chosen, (expected, _) in zip(asked, whole, strict=True):
        assert torch.equal(switched.logits(chosen, clips), expected)
    for chosen, expected in zip(asked, whole, strict=True):
        for batches, logits in zip((clips, others), expected, strict=True):
            assert torch.equal(switched.logits(chosen, batches), logits)


def test_each_group_alone_costs_something_and_less_than_all(switched: Switched) -> None:
    clips = [networks.clip(seed) for seed in range(7, 10)]
    plain = switched.logits((), clips)
    whole = (switched.logits(switched.groups, clips) - plain).square().mean()
    for group in switched.groups:
        assert 0 < (switched.logits([group], clips) - plain).square().mean() < whole, group


def test_a_spoilt_group_is_the_one_that_costs_most() -> None:
    graph = networks.prepared()
    for node, group in groups_of(graph).items():
        if group.name == "pointwise.spatial" and node.target == aten.conv2d.default:
            observer = graph.get_submodule(str(node.args[1].target))
            observer.max_val.fill_(40 * float(observer.max_val.max()))
    spoilt = Switched(graph)
    clips = [networks.clip(7)]
    plain = spoilt.logits((), clips)
    noise = {group.name: float((spoilt.logits([group], clips) - plain).square().mean()) for group in spoilt.groups}
    assert max(noise, key=noise.__getitem__) == "pointwise.spatial"


def test_weights_are_those_of_its_convolutions(switched: Switched) -> None:
    weights = {group.name: switched.weights(group) for group in switched.groups}
    assert weights["temporal.temporal"] == 16 * 16 * 3
    assert weights["pool"] == weights["join"] == 0
    assert sum(weights.values()) == sum(p.numel() for p in networks.small().parameters() if p.dim() > 1)


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        ((), set()),
        (("gate",), {"temporal.self_gating"}),
        (("temporal",), {"temporal.spatial", "temporal.temporal", "temporal.self_gating"}),
        (("temporal.spatial", "head"), {"temporal.spatial", "logits"}),
        (("pool",), {"pool", "branch_pool"}),
    ],
    ids=["none", "kind", "part", "group and head", "pools"],  # a set is written in another order in each process
)
def test_a_name_is_a_group_a_kind_or_a_part(names: tuple[str, ...], kept: set[str], switched: Switched) -> None:
    assert {group.name for group in kept_in_float(switched.groups, names)} == kept


@pytest.mark.parametrize(
    "names",
    [
        ("stem", "temporal", "pointwise", "branch_pool", "pool", "join", "head"),
        ("stem", "spatial", "temporal", "gate", "join", "head"),
    ],
    ids=["all", "all but pools"],
)
def test_names_that_leave_nothing_in_int8_are_refused(names: tuple[str, ...], switched: Switched) -> None:
    with pytest.raises(RecipeError, match=r"keep_float leaves nothing in INT8 .*--precision float32"):
        kept_in_float(switched.groups, names)
    assert kept_in_float(switched.groups, names[1:])


def test_a_name_of_nothing_is_refused_with_what_is_near(switched: Switched) -> None:
    with pytest.raises(RecipeError, match=r"keep_float: the network has no part 'gates'; did you mean 'gate'"):
        kept_in_float(switched.groups, ["gates"])


def convolutions() -> dict[str, Node]:
    graph = networks.mixed().graph
    return dict(zip(GROUPS_WITH_WEIGHTS, graph.find_nodes(op="call_function", target=aten.conv2d.default), strict=True))


GROUPS_WITH_WEIGHTS = (
    *("stem", "temporal.spatial", "temporal.temporal", "temporal.self_gating"),
    *("pointwise.spatial", "logits"),
)


def test_groups_kept_in_float_have_float_weights_and_the_others_are_int8() -> None:
    nodes = convolutions()
    kept = {"temporal.spatial", "temporal.self_gating", "logits"}
    assert {name for name, node in nodes.items() if node.args[1].op == "placeholder"} == kept
    layers = ("temporal.spatial.conv", "temporal.self_gating.transformer_W", "logits")
    assert pt2e.float_convolutions(networks.mixed()) == layers
    assert set(layers) <= origin.kept_float_layers(networks.mixed())
    assert pt2e.float_convolutions(networks.quantized()) == ()


def test_between_a_float_group_and_an_int8_one_values_are_rounded_once() -> None:
    nodes = convolutions()
    (relu,) = nodes["temporal.spatial"].users
    assert not [user for user in relu.users if user.target == QUANTIZE], "what a float operator writes is float"
    (stem_relu,) = nodes["stem"].users
    assert [user.target for user in stem_relu.users] == [QUANTIZE]
    for node in networks.mixed().graph.find_nodes(op="call_function", target=QUANTIZE):
        assert node.args[2] == 0


def test_float_on_purpose_is_known_and_float_by_mistake_is_refused(tmp_path: Path) -> None:
    graph_files.save(networks.mixed(), tmp_path / "graph.pt2")
    program = graph_files.load(tmp_path / "graph.pt2")
    assert not list(placement.faults(program, "a runtime"))
    (head,) = [node for node in program.graph.nodes if origin.is_kept_float(node) and origin.layer_of(node) == "logits"]
    head.meta["custom"] = {"layer": "logits"}
    faults = [str(fault) for fault in placement.faults(program, "a runtime")]
    assert len(faults) == 2, "its input and its weight"
    assert all("layer logits" in fault for fault in faults)


def test_a_float_classifier_has_no_step_of_its_logits() -> None:
    assert pt2e.logit_step(networks.mixed()) is None
    assert pt2e.logit_step(networks.quantized()) is not None
    reads_floats = networks.reopened(networks.quantized())
    classifier = [node for node in reads_floats.graph.nodes if node.target is torch.ops.aten.conv2d.default][-1]
    classifier.replace_input_with(classifier.args[0], classifier.args[0].args[0].args[0])
    assert pt2e.logit_step(reads_floats) is None


def test_a_classifier_may_have_one_scale_for_all_of_its_weights() -> None:
    program = networks.reopened(networks.quantized())
    weight = [node for node in program.graph.nodes if node.target is torch.ops.aten.conv2d.default][-1].args[1]
    weight.target = torch.ops.quantized_decomposed.dequantize_per_tensor.default
    weight.args = (weight.args[0], 0.01, 0, *weight.args[4:])
    largest = program.state_dict[program.graph_signature.inputs_to_buffers[weight.args[0].name]].float().abs().max()
    source = [node for node in program.graph.nodes if node.target is torch.ops.aten.conv2d.default][-1].args[0]
    assert pt2e.logit_step(program) == pytest.approx(float(largest) * 0.01 * source.args[1])


def test_leaving_groups_in_float_brings_the_logits_nearer() -> None:
    clips = [networks.clip(seed) for seed in range(7, 12)]
    with torch.no_grad():
        plain, whole, mixed = (
            torch.cat([module(clip) for clip in clips])
            for module in (networks.small(), networks.quantized().module(), networks.mixed().module())
        )
    assert (mixed - plain).square().mean() < (whole - plain).square().mean()
