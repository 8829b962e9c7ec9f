"""A graph that is lifted is the one that torch.export gives for it, but for checks of what is known."""

from __future__ import annotations

import signal
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import GraphModule

from d3d_edge import signals
from d3d_edge.quantize import lifting, pt2e
from d3d_edge.signals import Ended
from tests import networks

CHECK = torch.ops.aten._assert_tensor_metadata.default
GRAPHS: list[dict[str, Any]] = [
    {},
    {"scheme": "affine"},
    {"qat": True},
    {"keep_float": ("temporal.spatial", "gate", "head")},
    {"clips": 2},
]


def both(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> tuple[ExportedProgram, ExportedProgram]:
    """A converted graph, lifted and traced."""
    traced = []

    def lifted(graph: GraphModule, sample: Tensor) -> ExportedProgram:
        traced.append(torch.export.export(graph, (sample,), strict=False))
        return lifting.lifted(graph, sample)

    monkeypatch.setattr(pt2e, "lifted", lifted)
    program = pt2e.convert(networks.prepared(**options), networks.clip(clips=options.get("clips", 1)))
    for check in traced[0].graph.find_nodes(op="call_function", target=CHECK):
        traced[0].graph.erase_node(check)
    return program, traced[0]


def of_tensor(value: Tensor) -> tuple[Any, ...]:
    return value.shape, value.stride(), value.dtype, value.device, value.requires_grad


@pytest.mark.parametrize("options", GRAPHS, ids=str)
def test_operators_names_shapes_and_weights_are_those_of_a_traced_graph(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    lifted, traced = both(options, monkeypatch)
    assert str(lifted.graph) == str(traced.graph)
    for one, other in zip(lifted.graph.nodes, traced.graph.nodes, strict=True):
        assert (one.op, one.target) == (other.op, other.target)
        if one.op != "output":
            assert of_tensor(one.meta["val"]) == of_tensor(other.meta["val"]), one.name
    assert lifted.graph_signature == traced.graph_signature
    assert lifted.call_spec == traced.call_spec
    assert list(lifted.state_dict) == list(traced.state_dict)
    for name, value in lifted.state_dict.items():
        assert type(value) is type(traced.state_dict[name])
        assert torch.equal(value, traced.state_dict[name])


@pytest.mark.parametrize("options", GRAPHS, ids=str)
def test_logits_are_those_of_a_traced_graph(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    lifted, traced = both(options, monkeypatch)
    clip = networks.clip(5, clips=options.get("clips", 1))
    with torch.no_grad():
        assert torch.equal(lifted.module()(clip), traced.module()(clip))


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_work_when_the_graph_is_whole(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared, note_values, whole = networks.prepared(), lifting._note_values, []

    def interrupted(*words: Any) -> None:
        signal.raise_signal(number)
        note_values(*words)
        whole.append(number)

    monkeypatch.setattr(lifting, "_note_values", interrupted)
    with pytest.raises((KeyboardInterrupt, Ended)), signals.raised():
        pt2e.convert(prepared, networks.clip())
    assert whole == [number]
