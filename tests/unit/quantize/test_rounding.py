"""Rounding in training: torch's values and gradients, each tensor once, and as often in what is deployed as before."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from d3d_edge.calibset import Observer
from d3d_edge.quantize import pt2e, rounding
from d3d_edge.target import Scheme
from tests import networks


@settings(max_examples=60, deadline=None)
@given(
    scale=st.floats(2.0**-12, 8, width=16),
    zero_point=st.integers(-128, 127),
    # In steps. A multiple of a half may lie on the edge of the range, where the gradients differ.
    steps=st.lists(st.floats(-400, 400).filter(lambda step: step % 0.5 > 1e-3), min_size=1, max_size=30),
)
def test_values_and_gradients_are_those_of_torch(scale: float, zero_point: int, steps: list[float]) -> None:
    x = (torch.tensor(steps) * scale).requires_grad_()
    theirs = torch.fake_quantize_per_tensor_affine(x, scale, zero_point, -128, 127)
    ours = rounding.rounded(x, torch.tensor([scale]), torch.tensor([zero_point]), None, -128, 127)
    assert torch.equal(ours, theirs)
    weights = torch.arange(1.0, len(steps) + 1)
    assert torch.equal(*(torch.autograd.grad((made * weights).sum(), x)[0] for made in (ours, theirs)))


def roundings(graph: GraphModule) -> list[torch.nn.Module]:
    """Whom the graph calls to round, in order."""
    return [graph.get_submodule(node.target) for node in graph.graph.nodes if node.op == "call_module"]


def step(graph: GraphModule, clip: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits, and the gradient of every weight."""
    logits = graph(clip)
    return logits.detach(), list(torch.autograd.grad(logits.square().sum(), list(graph.parameters())))


@pytest.mark.parametrize("scheme", ["symmetric", "affine"])
def test_what_is_rounded_already_is_not_rounded_again_and_nothing_changes(scheme: Scheme) -> None:
    graph, whole = (networks.prepared(scheme, qat=True, clips=2) for _ in range(2))
    rounding.restore(whole)
    for net in (graph, whole):
        pt2e.freeze_observers(net)
    assert len(roundings(graph)) < 0.7 * len(roundings(whole))
    (ours, gradients), (theirs, expected) = (step(net, networks.clip(5, clips=2)) for net in (graph, whole))
    assert torch.equal(ours, theirs)
    assert all(torch.equal(one, other) for one, other in zip(gradients, expected, strict=True))


@pytest.mark.parametrize("observer", ["minmax", "moving_average"])
def test_what_is_deployed_rounds_as_often_as_a_calibrated_graph(observer: Observer) -> None:
    trained, calibrated = (networks.prepared(observer=observer, qat=qat) for qat in (True, False))
    one, other = (
        [str(node.target) for node in pt2e.convert(graph, networks.clip()).graph.nodes if node.op == "call_function"]
        for graph in (trained, calibrated)
    )
    assert one == other


@pytest.mark.parametrize("observer", ["minmax", "moving_average"])
def test_no_range_follows_what_dropout_scales(observer: Observer) -> None:
    """What is deployed has no dropout."""
    ranges = []
    for dropout in (False, True):
        graph = networks.prepared(observer=observer, qat=True)
        pt2e.set_training(graph, dropout)
        for seed in range(3):
            graph(networks.clip(seed))
        ranges.append({name: value for name, value in graph.state_dict().items() if name.endswith(".scale")})
    without, others = ranges
    assert without.keys() == others.keys()
    assert [name for name, scale in without.items() if not torch.equal(scale, others[name])] == []


def test_what_dropout_scales_is_not_cut_at_a_range() -> None:
    graph = networks.prepared(qat=True)
    pt2e.freeze_observers(graph)
    pt2e.set_training(graph, True)
    values: dict[Node, Tensor] = {}

    class Watched(Interpreter):
        def run_node(self, n: Node) -> Any:
            values[n] = super().run_node(n)
            return values[n]

    (dropout,) = graph.graph.find_nodes(op="call_function", target=torch.ops.aten.dropout.default)
    *_, classifier = graph.graph.find_nodes(op="call_function", target=torch.ops.aten.conv2d.default)
    torch.manual_seed(0)
    beyond = 0
    for _ in range(16):  # one mask may drop all that is large
        with torch.no_grad():
            Watched(graph).run(networks.clip())
        beyond += bool(values[dropout].max() > values[dropout.args[0]].max())
        assert torch.equal(values[classifier.args[0]], values[dropout])
    assert beyond


@pytest.mark.parametrize("observes", [True, False])
@pytest.mark.parametrize("rounds", [True, False])
def test_whether_to_observe_and_to_round_goes_with_the_state(observes: bool, rounds: bool) -> None:
    graph, other = networks.prepared(qat=True), networks.prepared(qat=True)
    if not observes:
        pt2e.freeze_observers(graph)
    pt2e.set_rounding(graph, rounds)
    other.load_state_dict(graph.state_dict())
    bright = torch.full_like(networks.clip(), 255)
    with torch.no_grad():
        assert torch.equal(graph(bright), other(bright))
    states = graph.state_dict(), other.state_dict()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
