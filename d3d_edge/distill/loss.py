"""What training minimises: cross-entropy, distances to the teacher, or the error of decoded flow.

Knows no network and no data.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from d3d_edge.recipe import DistillSpec, QATDistillSpec


class Outputs(NamedTuple):
    """What a network says of B clips."""

    logits: Tensor
    """Float [B, classes]."""
    features: Tensor | None = None
    """Pooled features before the classifier, float [B, channels]; None where nothing looks at them."""

    def float(self) -> Outputs:
        """The same in float32, whatever autocast made of it."""
        return Outputs(self.logits.float(), None if self.features is None else self.features.float())


class Taught(NamedTuple):
    """What a fake-quantized student learns from; None for what does not count."""

    teacher: Outputs | None
    student: Outputs | None
    """Of the float student that is being quantized."""

    def float(self) -> Taught:
        """The same in float32."""
        return Taught(*(None if outputs is None else outputs.float() for outputs in self))


Answer = Any
"""`Outputs` of a network that names classes, or a Tensor of another one; both have `.float()`."""
Loss = Callable[[Answer, Tensor, Answer | None], Tensor]
"""(answer, labels int64 [B], the answer to learn from or None) -> scalar."""


def cross_entropy(label_smoothing: float) -> Loss:
    """Cross-entropy on labels alone; the teacher is not looked at."""

    def loss(student: Outputs, labels: Tensor, teacher: Outputs | None) -> Tensor:
        return F.cross_entropy(student.logits, labels, label_smoothing=label_smoothing)

    return loss


def distillation(spec: DistillSpec, label_smoothing: float) -> Loss:
    """Cross-entropy plus the weighted distances of `spec` to the teacher.

    Sources. Logits: Stroud et al., arXiv 1812.08249; whether it takes the mean or the sum over classes is not known,
    and it scales the weight by the number of classes, so the recipe states it. Features: Crasto et al., "MARS", CVPR
    2019. Softened answers: Hinton et al., arXiv 1503.02531; the factor temperature^2 of its section 2 keeps the
    gradient's size when the temperature changes.

    The loss raises ValueError where `spec` weighs features and one side has none.
    """

    def loss(student: Outputs, labels: Tensor, teacher: Outputs | None) -> Tensor:
        total = spec.cross_entropy_weight * F.cross_entropy(student.logits, labels, label_smoothing=label_smoothing)
        if teacher is None:
            return total
        if spec.weight:
            squared = F.mse_loss(student.logits, teacher.logits, reduction="none")
            per_clip = squared.mean(1) if spec.reduction == "mean" else squared.sum(1)
            total = total + spec.weight * per_clip.mean()
        if spec.features_weight:
            if student.features is None or teacher.features is None:
                raise ValueError("the loss on features needs the features of both networks")
            total = total + spec.features_weight * F.mse_loss(student.features, teacher.features)
        if spec.divergence_weight:
            ours, theirs = (F.log_softmax(o.logits / spec.temperature, dim=1) for o in (student, teacher))
            divergence = F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
            total = total + spec.divergence_weight * spec.temperature**2 * divergence
        return total

    return loss


def quantization_aware(distill: DistillSpec, spec: QATDistillSpec, label_smoothing: float) -> Loss:
    """The loss of quantization-aware training; what to learn from is a `Taught`, or None.

    `distill` without its distance of features, which a captured graph does not give, and the distance to the float
    student: its logits are what the rounded ones should be, whatever the labels say.
    """
    weight = spec.cross_entropy_weight
    scaled = distill.model_copy(
        update={
            "cross_entropy_weight": distill.cross_entropy_weight if weight is None else weight,
            "weight": spec.teacher_weight * distill.weight,
            "divergence_weight": spec.teacher_weight * distill.divergence_weight,
            "features_weight": 0.0,
        }
    )
    base = distillation(scaled, label_smoothing)

    def loss(rounded: Outputs, labels: Tensor, taught: Taught | None) -> Tensor:
        total = base(rounded, labels, taught.teacher if taught else None)
        if taught and taught.student:
            total = total + spec.student_weight * F.mse_loss(rounded.logits, taught.student.logits)
        return total

    return loss


def end_point_error(flow: Tensor, reference: Tensor) -> Tensor:
    """Length of the difference of two flows float [B, 2, H, W], in their unit: float [B, H, W]."""
    lengths: Tensor = torch.linalg.vector_norm(flow - reference, dim=1)
    return lengths


def mean_end_point_error(flow: Tensor, labels: Tensor, reference: Tensor | None) -> Tensor:
    """The mean of `end_point_error` as a `Loss`; the labels are not looked at.

    Raises ValueError where there is no reference.
    """
    if reference is None:
        raise ValueError("flow is learnt from a reference, and there is none")
    return end_point_error(flow, reference).mean()
