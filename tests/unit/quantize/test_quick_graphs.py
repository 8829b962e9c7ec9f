"""A graph whose code is written late computes and says what one does whose code was written at once."""

from __future__ import annotations

import copy
import inspect
import operator

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

from d3d_edge.quantize.quick_graphs import written_when_asked_for
from d3d_edge.quantize.quiet import quiet
from tests import networks

SAMPLE = networks.clip()


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[GraphModule]:
    """The modules whose code was written, in that order."""
    found: list[GraphModule] = []
    write = torch.fx.Graph.python_code

    def counted(graph: torch.fx.Graph, *words: object, **more: object) -> object:
        found.append(graph.owning_module)
        return write(graph, *words, **more)

    monkeypatch.setattr(torch.fx.Graph, "python_code", counted)
    return found


def captured() -> GraphModule:
    return torch.export.export(networks.small(), (SAMPLE,), strict=False).module()


def test_it_is_written_once_when_it_is_run(written: list[GraphModule]) -> None:
    graph = captured()
    expected = graph(SAMPLE)
    written.clear()
    with written_when_asked_for():
        for _ in range(3):
            graph.recompile()
        assert written == []
    assert torch.equal(graph(SAMPLE), expected)
    assert torch.equal(graph(SAMPLE), expected)
    assert written == [graph]


def test_what_is_written_late_is_what_is_written_at_once() -> None:
    at_once = captured()
    with written_when_asked_for():
        late = captured()
    assert inspect.signature(late.forward) == inspect.signature(at_once.forward)
    assert late.code == at_once.code
    assert str(late) == str(at_once)
    assert (late._in_spec, late._out_spec) == (at_once._in_spec, at_once._out_spec)
    assert torch.equal(late(SAMPLE), at_once(SAMPLE))


@pytest.mark.parametrize("asked", [False, True], ids=["never written", "written before"])
def test_what_a_pass_changes_is_computed(asked: bool) -> None:
    class Doubles(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + x

    with written_when_asked_for():
        graph = torch.fx.symbolic_trace(Doubles())
        one = torch.ones(1)
        if asked:
            assert graph(one) == 2
        (add,) = graph.graph.find_nodes(op="call_function", target=operator.add)
        add.args = (add.args[0], 3.0)
        graph.recompile()
        assert graph(one) == 4
    add.args = (add.args[0], 4.0)
    graph.recompile()
    assert graph(one) == 5


def test_a_copy_has_code_of_its_own() -> None:
    with quiet("torch.export"):
        graph = captured()
        other = copy.deepcopy(graph)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert not torch.equal(graph(SAMPLE), other(SAMPLE))


def test_afterwards_code_is_written_at_once(written: list[GraphModule]) -> None:
    graph = captured()
    before = GraphModule.recompile
    with pytest.raises(KeyError), written_when_asked_for(), written_when_asked_for():
        raise KeyError
    assert GraphModule.recompile is before
    written.clear()
    assert graph.recompile().src == graph.code
    assert written == [graph]
