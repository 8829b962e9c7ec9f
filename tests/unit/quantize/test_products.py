"""Products of which one factor is left in float: each is found, whatever operator computes it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.export import export
from torch.nn import functional as F

from d3d_edge.quantize import placement

stored = torch.ops.quantized_decomposed


class Product(nn.Module):
    """A product of a tensor and the same tensor, rounded."""

    def __init__(self, product: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.product = product

    def forward(self, x: Tensor) -> Tensor:
        rounded = stored.quantize_per_tensor(x, 0.5, 0, -128, 127, torch.int8)
        return self.product(x, stored.dequantize_per_tensor(rounded, 0.5, 0, -128, 127, torch.int8))


def of_product(product: Callable[[Tensor, Tensor], Tensor], *shape: int) -> list[str]:
    return [str(fault) for fault in placement.faults(export(Product(product), (torch.zeros(shape),)), "a runtime")]


@pytest.mark.parametrize(
    ("product", "shape", "place"),
    [
        (lambda x, rounded: rounded @ x, (3, 3), "second factor"),
        (lambda x, rounded: torch.mm(x, rounded), (3, 3), "first factor"),
        (lambda x, rounded: torch.bmm(rounded, x), (2, 3, 3), "second factor"),
        (lambda x, rounded: torch.addmm(rounded, rounded, x), (3, 3), "second factor"),
        (lambda x, rounded: torch.baddbmm(rounded, x, rounded), (2, 3, 3), "first factor"),
        (lambda x, rounded: F.conv1d(rounded, x), (3, 3, 3), "weight"),
        (lambda x, rounded: F.conv1d(x, rounded, padding="same"), (3, 3, 3), "input"),
        (lambda x, rounded: F.conv_transpose1d(x, rounded), (3, 3, 3), "input"),
        (lambda x, rounded: F.conv_transpose2d(rounded, x), (3, 3, 3, 3), "weight"),
    ],
)
def test_a_product_with_a_factor_in_float_is_refused(
    product: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, ...], place: str
) -> None:
    (fault,) = of_product(product, *shape)
    assert f"the {place} x is not quantized" in fault
    assert "write it as a 2D convolution" in fault


@pytest.mark.parametrize(
    "product",
    [
        lambda x: F.scaled_dot_product_attention(x, x, x),
        lambda x: torch.matrix_power(x, 3),
        lambda x: torch.linalg.multi_dot((x, x, x)),
    ],
)
def test_a_product_of_what_was_made_inside_is_refused(product: Callable[[Tensor], Tensor]) -> None:
    (fault,) = of_product(lambda _, rounded: product(rounded), 3, 3)
    assert "multiplies what it made itself, which is not quantized" in fault


@pytest.mark.parametrize("product", [lambda x: torch.matrix_power(x, 2), lambda x: torch.linalg.multi_dot((x, x))])
def test_a_product_of_two_rounded_factors_is_none_of_those(product: Callable[[Tensor], Tensor]) -> None:
    assert not of_product(lambda _, rounded: product(rounded), 3, 3)


def test_what_is_added_to_a_product_may_be_float() -> None:
    assert not of_product(lambda x, rounded: torch.addmm(x, rounded, rounded), 3, 3)
    assert not of_product(lambda x, rounded: x + rounded @ rounded, 3, 3)


class Weighted(nn.Module):
    """A product of rounded features and a weight that is not."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.ones(4, 4), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        rounded = stored.quantize_per_tensor(x, 0.1, 0, -128, 127, torch.int8)
        return self.function(stored.dequantize_per_tensor(rounded, 0.1, 0, -128, 127, torch.int8), self.weight)


def recurrent(x: Tensor, w: Tensor) -> Tensor:
    """One step of a GRU whose state and weights are not rounded."""
    weights = (w.repeat(3, 1), w.repeat(3, 1))
    return torch.gru(x[None], w[None], weights, False, 1, 0.0, False, False, False)[0]


def rnn(x: Tensor, w: Tensor) -> Tensor:
    """One step of a network with tanh whose state and weights are not rounded."""
    return torch.rnn_tanh(x[None], w[None], (w, w), False, 1, 0.0, False, False, False)[0]


@pytest.mark.parametrize(
    ("product", "factor", "operator"),
    [
        (lambda x, w: x @ w, "second factor", "aten.matmul"),
        (lambda x, w: F.linear(x, w), "weight", "aten.linear"),
        (lambda x, w: torch.einsum("ij,jk->ik", w, x), "first factor", "aten.einsum"),
        (lambda x, w: torch.mv(x, w[0]), "second factor", "aten.mv"),
        (lambda x, w: torch.inner(x, w), "second factor", "aten.inner"),
        (lambda x, w: torch.tensordot(x, w, dims=1), "second factor", "aten.tensordot"),
        (lambda x, w: torch.addmv(w[0], w, x[0]), "first factor", "aten.addmv"),
        (lambda x, w: F.scaled_dot_product_attention(x, x, w), "third factor", "aten.scaled_dot_product_attention"),
        (lambda x, w: F.bilinear(x, x, w[None]), "third factor", "aten.bilinear"),
        (lambda x, w: torch.linalg.multi_dot((x, x, w)), "third factor", "aten.linalg_multi_dot"),
        (recurrent, "second factor", "aten.gru"),
        (lambda x, w: torch.gru_cell(x, x, w.repeat(3, 1), w.repeat(3, 1)), "third factor", "aten.gru_cell"),
        (lambda x, w: torch.lstm_cell(x, (w, w), w.repeat(4, 1), w.repeat(4, 1))[0], "second factor", "aten.lstm_cell"),
        (lambda x, w: torch.rnn_tanh_cell(x, x, w, w), "third factor", "aten.rnn_tanh_cell"),
        (lambda x, w: torch.rnn_relu_cell(w, x, w, w), "first factor", "aten.rnn_relu_cell"),
        (rnn, "second factor", "aten.rnn_tanh"),
    ],
)
def test_a_product_with_a_factor_that_is_not_rounded_is_named(
    product: Callable[[Tensor, Tensor], Tensor], factor: str, operator: str
) -> None:
    program = export(Weighted(product), (torch.ones(4, 4),))
    faults = [str(fault) for fault in placement.faults(program, "a runtime")]
    assert any(f"the {factor} " in fault and f"operator {operator}" in fault for fault in faults), faults
