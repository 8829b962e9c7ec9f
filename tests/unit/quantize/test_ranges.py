"""The ranges that histograms give: against every value sorted, against other grids, and where runtimes demand it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from d3d_edge.calibset import Observer
from d3d_edge.quantize import pt2e
from d3d_edge.quantize.ranges import GroupPercentile, LeastSquares, least_squares_range, percentile_range
from d3d_edge.target import Scheme
from tests import networks

SCHEMES = {"symmetric": torch.per_tensor_symmetric, "affine": torch.per_tensor_affine}
HISTOGRAMS: list[Observer] = ["percentile", "mse"]


def bins(values: Tensor, count: int = 2048) -> tuple[Tensor, Tensor]:
    """Middles and counts of a histogram of `values`."""
    counts, edges = np.histogram(values.numpy(), bins=count)
    return torch.from_numpy((edges[:-1] + edges[1:]) / 2), torch.from_numpy(counts.astype(np.float64))


def observer(kind: Observer, scheme: Scheme, percentile: float = 99.0) -> nn.Module:
    settings = {"dtype": torch.int8, "quant_min": -128, "quant_max": 127, "qscheme": SCHEMES[scheme]}
    return GroupPercentile(percentile, **settings) if kind == "percentile" else LeastSquares(**settings)


def normal(count: int = 20_000, seed: int = 0) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


def share(values: Tensor, end: float) -> float:
    return float((values <= end).double().mean())


@given(percentile=st.floats(60, 100), seed=st.integers(0, 99), shift=st.floats(-3, 3))
def test_a_percentile_is_that_of_the_sorted_values(percentile: float, seed: int, shift: float) -> None:
    values = normal(4000, seed) + shift
    middles, counts = bins(values)
    width = float(middles[1] - middles[0])
    low, high = percentile_range(middles, counts, percentile, symmetric=True)
    assert -low == high
    assert share(values.abs(), high - 2 * width) <= percentile / 100 <= share(values.abs(), high + width)
    low, high = percentile_range(middles, counts, percentile, symmetric=False)
    tail = (1 - percentile / 100) / 2
    assert share(values, high - 2 * width) <= 1 - tail <= share(values, high + width)
    assert share(-values, -low - 2 * width) <= 1 - tail <= share(-values, -low + width)


@pytest.mark.parametrize("symmetric", [True, False])
def test_least_squares_is_better_than_the_extremes_and_than_its_neighbours(symmetric: bool) -> None:
    values = torch.cat([normal(), torch.tensor([60.0])])
    found = least_squares_range(*bins(values), symmetric=symmetric)

    def error(low: float, high: float) -> float:
        low, high = (-max(-low, high), max(-low, high)) if symmetric else (low, high)
        step = high / 127 if symmetric else (high - low) / 255
        rounded = ((values / step).round() * step).clamp(low, high)
        return float((rounded - values).double().square().mean())

    assert error(*found) < error(float(values.min()), float(values.max()))
    assert error(*found) < 1.05 * error(found[0] * 1.2, found[1] * 1.2)
    assert error(*found) < 1.05 * error(found[0] * 0.8, found[1] * 0.8)


def test_without_outliers_least_squares_keeps_nearly_all() -> None:
    values = torch.linspace(-1, 1, 10_001)
    low, high = least_squares_range(*bins(values), symmetric=True)
    assert 0.97 <= high <= 1.0
    assert low == -high


@pytest.mark.parametrize("kind", HISTOGRAMS)
@pytest.mark.parametrize("scheme", sorted(SCHEMES))
@pytest.mark.parametrize("values", [torch.zeros(9), torch.full((9,), 3.0), torch.tensor([-1e-30, 1e-30])], ids=str)
def test_values_without_a_spread_have_a_scale_all_the_same(kind: Observer, scheme: Scheme, values: Tensor) -> None:
    seen = observer(kind, scheme)
    seen(values)
    scale, _ = seen.calculate_qparams()  # type: ignore[operator]
    assert torch.isfinite(scale).all()
    assert (scale > 0).all()


def test_a_group_gets_the_percentile_of_its_widest_member() -> None:
    group = observer("percentile", "symmetric")
    group.uses = 2  # type: ignore[assignment]
    for seed in range(3):
        group(normal(50_000, seed))
        group(100 * normal(100, seed))  # all of it within the hundredth that a common percentile would cut off
    scale, zero_point = group.calculate_qparams()  # type: ignore[operator]
    assert 127 * float(scale) > 200
    assert float(zero_point) == 0


@pytest.mark.parametrize("kind", HISTOGRAMS)
def test_a_calibrated_graph_obeys_the_rules_of_the_runtimes(kind: Observer) -> None:
    program = pt2e.convert(networks.prepared("symmetric", kind), networks.clip())
    nodes = program.graph.find_nodes(
        op="call_function", target=torch.ops.quantized_decomposed.quantize_per_tensor.default
    )
    for node in nodes:
        assert float(torch.tensor(node.args[1]).half()) == node.args[1], "exact in float16"
        assert node.args[2] == 0
    (cat,) = program.graph.find_nodes(op="call_function", target=torch.ops.aten.cat.default)
    (after,) = cat.users
    assert {source.args[1:3] for source in cat.args[0]} == {after.args[1:3]}


@pytest.mark.parametrize("symmetric", [True, False])
def test_no_range_is_much_better_than_that_of_least_squares(symmetric: bool) -> None:
    # A million values around 1, and one at each end, far out.
    middles = torch.linspace(-20, 20, 1001, dtype=torch.float64)
    counts = (1e6 * torch.exp(-((middles - 1) ** 2) / 2) * 0.04 / 2.5066).round()
    counts[0] = counts[-1] = 1

    def error(low: float, high: float) -> float:
        step = high / 127 if symmetric else (high - low) / 255
        rounded = ((middles / step).round() * step).clamp(low, high)
        return float(((rounded - middles).square() * counts).sum())

    shares = [place / 20 for place in range(1, 21)]
    ends = [(-20 * one, 20 * two) for one in shares for two in ([one] if symmetric else shares)]
    best = min(error(*pair) for pair in ends)
    assert best < 0.5 * error(-20, 20)
    assert error(*least_squares_range(middles, counts, symmetric=symmetric)) <= 1.01 * best
