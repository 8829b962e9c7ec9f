"""The range of a group of tensors is that of its widest member, whatever the order they come in."""

from __future__ import annotations

import torch

from d3d_edge.quantize.observer import GroupMovingAverage
from tests import networks


def observer(uses: int) -> GroupMovingAverage:
    made = GroupMovingAverage(dtype=torch.int8, qscheme=torch.per_tensor_symmetric, averaging_constant=0.5)
    made.uses = uses
    return made


def test_the_first_pass_sets_the_range_of_the_whole_group() -> None:
    group = observer(2)
    group(torch.tensor([-1.0, 1.0]))
    group(torch.tensor([-8.0, 4.0]))
    assert (group.min_val, group.max_val) == (-8.0, 4.0)


def test_each_later_pass_is_one_step() -> None:
    group = observer(2)
    for _ in range(2):
        group(torch.tensor([0.0, 1.0]))
        group(torch.tensor([0.0, 4.0]))
    assert group.max_val == 4.0
    group(torch.tensor([0.0, 1.0]))
    group(torch.tensor([0.0, 8.0]))
    assert group.max_val == 6.0


def test_a_prepared_graph_counts_the_tensors_of_each_group() -> None:
    graph = networks.prepared(observer="moving_average")
    groups = {module for module in graph.modules() if isinstance(module, GroupMovingAverage)}
    calls = [graph.get_submodule(node.target) for node in graph.graph.nodes if node.op == "call_module"]
    assert max(group.uses for group in groups) > 4
    assert all(group.uses == calls.count(group) for group in groups)
