"""The losses against their formulas, written out in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from d3d_edge.distill import loss
from d3d_edge.recipe import DistillSpec

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 1.0, 3.0]])
TEACHER = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 4.0]])
LABELS = torch.tensor([0, 1])


def cross_entropy() -> float:
    logits = LOGITS.double().numpy()
    log_softmax = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return float(-log_softmax[[0, 1], LABELS.numpy()].mean())


@pytest.mark.parametrize(("reduction", "divisor"), [("mean", 6), ("sum", 2)])
@pytest.mark.parametrize("weight", [0.0, 1.0, 0.1])
def test_d3d_is_cross_entropy_plus_weighted_squared_error(reduction: str, divisor: int, weight: float) -> None:
    spec = DistillSpec.model_validate({"weight": weight, "reduction": reduction})
    squared = float(((LOGITS - TEACHER) ** 2).sum()) / divisor
    found = loss.d3d(spec, 0.0)(LOGITS, LABELS, TEACHER)
    assert found.item() == pytest.approx(cross_entropy() + weight * squared, rel=1e-6)


def test_d3d_without_a_teacher_is_cross_entropy() -> None:
    spec = DistillSpec(weight=1.0, reduction="mean")
    assert loss.d3d(spec, 0.0)(LOGITS, LABELS, None).item() == pytest.approx(cross_entropy(), rel=1e-6)


def test_cross_entropy_does_not_look_at_the_teacher() -> None:
    assert loss.cross_entropy(0.0)(LOGITS, LABELS, TEACHER * 100).item() == pytest.approx(cross_entropy(), rel=1e-6)


def test_the_cross_entropy_weight_scales_cross_entropy_alone() -> None:
    spec = DistillSpec(cross_entropy_weight=0.0, weight=1.0, reduction="sum")
    assert loss.d3d(spec, 0.0)(TEACHER, LABELS, TEACHER).item() == 0.0


def test_end_point_error_is_the_length_of_the_difference() -> None:
    flow, reference = torch.zeros(2, 2, 3, 4), torch.zeros(2, 2, 3, 4)
    flow[1, :, 0, 0] = torch.tensor([3.0, -4.0])
    error = loss.end_point_error(flow, reference)
    assert error.shape == (2, 3, 4)
    assert error[1, 0, 0] == 5
    assert loss.mean_end_point_error(flow, LABELS, reference).item() == pytest.approx(5 / 24)


def test_flow_that_is_right_has_a_gradient_of_zero() -> None:
    flow = torch.zeros(1, 2, 3, 3, requires_grad=True)
    loss.mean_end_point_error(flow, LABELS, torch.zeros(1, 2, 3, 3)).backward()  # type: ignore[no-untyped-call]
    assert flow.grad is not None
    assert not flow.grad.any()


def test_flow_is_not_learnt_without_a_reference() -> None:
    with pytest.raises(ValueError, match="no"):
        loss.mean_end_point_error(torch.zeros(1, 2, 3, 3), LABELS, None)
