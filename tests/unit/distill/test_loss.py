"""The losses against their formulas, written out in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from d3d_edge.distill import loss
from d3d_edge.distill.loss import Outputs, Taught
from d3d_edge.recipe import DistillSpec, QATDistillSpec

STUDENT = Outputs(torch.tensor([[2.0, -1.0, 0.5], [0.0, 1.0, 3.0]]), torch.tensor([[1.0, 0.0], [2.0, 4.0]]))
TEACHER = Outputs(torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 4.0]]), torch.tensor([[0.0, 0.0], [2.0, 1.0]]))
LABELS = torch.tensor([0, 1])


def log_softmax(logits: torch.Tensor, temperature: float = 1.0) -> NDArray[Any]:
    scaled = logits.double().numpy() / temperature
    return np.asarray(scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True)))


CROSS_ENTROPY = float(-log_softmax(STUDENT.logits)[[0, 1], LABELS.numpy()].mean())


def found(teacher: Outputs | None = TEACHER, student: Outputs = STUDENT, **spec: Any) -> float:
    whole = DistillSpec.model_validate({"weight": 0.0, "reduction": "mean", **spec})
    return loss.distillation(whole, 0.0)(student, LABELS, teacher).item()


@pytest.mark.parametrize(("reduction", "divisor"), [("mean", 6), ("sum", 2)])
@pytest.mark.parametrize("weight", [0.0, 1.0, 0.1])
def test_logits(reduction: str, divisor: int, weight: float) -> None:
    squared = float(((STUDENT.logits - TEACHER.logits) ** 2).sum()) / divisor
    assert found(weight=weight, reduction=reduction) == pytest.approx(CROSS_ENTROPY + weight * squared, rel=1e-6)


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_features(weight: float) -> None:
    assert found(features_weight=weight) == pytest.approx(CROSS_ENTROPY + weight * 10 / 4, rel=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_softened_answers(temperature: float) -> None:
    ours, theirs = (log_softmax(outputs.logits, temperature) for outputs in (STUDENT, TEACHER))
    divergence = float((np.exp(theirs) * (theirs - ours)).sum() / 2)
    expected = CROSS_ENTROPY + 8 * temperature**2 * divergence
    assert found(divergence_weight=8, temperature=temperature) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, CROSS_ENTROPY + 2 * 3.75 / 6),
        ({"teacher_weight": 3.0}, CROSS_ENTROPY + 6 * 3.75 / 6),
        ({"from": "student", "cross_entropy_weight": 0.0}, 0.25),
        ({"from": "both", "teacher_weight": 0.5, "student_weight": 4.0}, CROSS_ENTROPY + 3.75 / 6 + 1.0),
    ],
    ids=str,
)
def test_a_rounded_student_learns_from_teacher_and_float_student(spec: dict[str, Any], expected: float) -> None:
    distill = DistillSpec(weight=2.0, reduction="mean", features_weight=7.0)
    quantized = QATDistillSpec.model_validate(spec)
    float_student = Outputs(STUDENT.logits + 0.5)
    taught = Taught(
        TEACHER if "teacher" in quantized.sources else None, float_student if "student" in quantized.sources else None
    )
    rounded = Outputs(STUDENT.logits)  # a captured graph gives no features
    assert loss.quantization_aware(distill, quantized, 0.0)(rounded, LABELS, taught).item() == pytest.approx(expected)


def test_without_anything_to_learn_from_a_rounded_student_has_its_labels() -> None:
    spec = QATDistillSpec.model_validate({"from": "both", "teacher_weight": 0.0, "student_weight": 0.0})
    assert spec.sources == frozenset()
    minimised = loss.quantization_aware(DistillSpec(weight=1.0, reduction="mean"), spec, 0.0)
    assert minimised(STUDENT, LABELS, None).item() == pytest.approx(CROSS_ENTROPY)


def test_weights_add() -> None:
    parts = ({"weight": 1.0}, {"features_weight": 2.0}, {"divergence_weight": 3.0})
    together = found(**{key: value for part in parts for key, value in part.items()})
    apart = sum(found(**part) - CROSS_ENTROPY for part in parts)
    assert together == pytest.approx(CROSS_ENTROPY + apart, rel=1e-5)


def test_without_a_teacher_it_is_cross_entropy() -> None:
    assert found(None, weight=1.0, features_weight=1.0, divergence_weight=1.0) == pytest.approx(CROSS_ENTROPY, rel=1e-6)


def test_features_that_nobody_gave_are_an_error() -> None:
    with pytest.raises(ValueError, match="features of both"):
        found(student=Outputs(STUDENT.logits), features_weight=1.0)


def test_cross_entropy_does_not_look_at_the_teacher() -> None:
    teacher = Outputs(TEACHER.logits * 100)
    assert loss.cross_entropy(0.0)(STUDENT, LABELS, teacher).item() == pytest.approx(CROSS_ENTROPY, rel=1e-6)


def test_the_cross_entropy_weight_scales_cross_entropy_alone() -> None:
    assert found(TEACHER, TEACHER, cross_entropy_weight=0.0, weight=1.0, reduction="sum") == 0.0


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
