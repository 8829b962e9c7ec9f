"""Graphs that are traced without their lines of source: the same graphs, whose operators still know their layers."""

from __future__ import annotations

import pytest
import torch
from torch.fx import GraphModule, config

from d3d_edge.quantize.origin import layer_of, sources_left_out
from tests import networks

SAMPLE = networks.clip()


def captured() -> GraphModule:
    return torch.export.export(networks.small(), (SAMPLE,), strict=False).module()


def test_a_graph_without_sources_is_the_same_and_knows_its_layers() -> None:
    noted = captured()
    with sources_left_out():
        bare = captured()
    assert any(node.stack_trace for node in noted.graph.nodes)
    assert not any(node.stack_trace for node in bare.graph.nodes)
    assert bare.code == noted.code
    layers = [layer_of(node) for node in bare.graph.nodes]
    assert layers == [layer_of(node) for node in noted.graph.nodes]
    assert any(layers)


@pytest.mark.parametrize("before", [False, True])
def test_afterwards_sources_are_noted_as_before(before: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "do_not_emit_stack_traces", before)
    with pytest.raises(KeyError), sources_left_out(), sources_left_out():
        raise KeyError
    assert config.do_not_emit_stack_traces is before
