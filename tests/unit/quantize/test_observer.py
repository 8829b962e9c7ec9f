"""The range of a group of tensors is that of its widest member, whatever the order they come in."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchao.quantization.pt2e.observer import UniformQuantizationObserverBase

from d3d_edge.errors import DataError
from d3d_edge.quantize.observer import GroupMovingAverage, MinMax, PerChannelMinMax, refuse_no_number
from tests import networks

NAN = float("nan")
ENDS = st.lists(st.floats(-(2.0**20), 2.0**20, width=32), min_size=2, max_size=2).map(sorted)


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


def per_tensor(scheme: torch.qscheme) -> Any:
    return MinMax(dtype=torch.int8, quant_min=-128, quant_max=127, qscheme=scheme, eps=2.0**-12)


def per_channel() -> Any:
    return PerChannelMinMax(
        dtype=torch.int8, quant_min=-127, quant_max=127, qscheme=torch.per_channel_symmetric, eps=2.0**-20
    )


@pytest.mark.parametrize("scheme", [torch.per_tensor_symmetric, torch.per_tensor_affine])
@given(ends=ENDS)
def test_a_range_has_the_scale_that_torchao_gives_it(scheme: torch.qscheme, ends: list[float]) -> None:
    made = per_tensor(scheme)
    low, high = torch.tensor(ends)
    found, expected = (
        method(low, high)
        for method in (
            made._calculate_qparams,
            lambda *given: UniformQuantizationObserverBase._calculate_qparams(made, *given),
        )
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@given(ends=st.lists(ENDS, min_size=1, max_size=5))
def test_each_channel_has_the_scale_that_torchao_gives_it(ends: list[list[float]]) -> None:
    made = per_channel()
    low, high = torch.tensor(ends).unbind(1)
    expected = UniformQuantizationObserverBase._calculate_qparams(made, low, high)
    torch.testing.assert_close(made._calculate_qparams(low, high), expected, rtol=0, atol=0)


def test_an_observer_that_saw_nothing_says_so() -> None:
    with pytest.warns(UserWarning, match="observer"):
        scale, _ = per_tensor(torch.per_tensor_symmetric).calculate_qparams()
    assert scale.numel() == 1


@pytest.mark.parametrize("scheme", [torch.per_tensor_symmetric, torch.per_tensor_affine])
@pytest.mark.parametrize("reached", [1e7, 1e30])
def test_a_range_whose_scale_is_infinite_in_float16_is_refused(scheme: torch.qscheme, reached: float) -> None:
    observed = per_tensor(scheme)
    observed(torch.tensor([-8e6, 8e6]))
    assert observed.calculate_qparams()[0] < 65504
    observed(torch.tensor([-reached, reached]))
    with pytest.raises(DataError, match=r"reaches 1e\+\d+, and the widest INT8 range is 8\.32e\+06.*learning_rate"):
        observed.calculate_qparams()


def test_a_range_that_is_no_number_is_no_scale() -> None:
    with pytest.raises(DataError, match="is no number"):
        per_tensor(torch.per_tensor_symmetric)._calculate_qparams(torch.tensor(float("nan")), torch.tensor(1.0))


@pytest.mark.parametrize(("low", "high"), [([-1.0, NAN], [1.0, 1.0]), ([-1.0, -1.0], [NAN, 1.0])])
def test_one_channel_that_is_no_number_is_enough(low: list[float], high: list[float]) -> None:
    with pytest.raises(DataError, match="is no number"):
        per_channel()._calculate_qparams(torch.tensor(low), torch.tensor(high))


@pytest.mark.parametrize("wrong", [NAN, float("inf")])
def test_one_value_that_is_no_number_is_enough(wrong: float) -> None:
    refuse_no_number(torch.tensor([1.0, -1.0]))
    with pytest.raises(DataError, match="is no number"):
        refuse_no_number(torch.tensor([1.0, wrong]))
