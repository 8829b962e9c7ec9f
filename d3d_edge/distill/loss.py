"""What training minimises: cross-entropy, the distance to the teacher's logits, or the error of decoded flow.

Knows no network and no data.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from d3d_edge.recipe import DistillSpec

Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(output, labels int64 [B], what there is to learn from beside them or None) -> scalar.

The output is logits [B, classes] and the third argument the teacher's; for flow, both are fields as the loss says.
"""


def cross_entropy(label_smoothing: float) -> Loss:
    """Cross-entropy on labels alone; the teacher's logits are not looked at."""

    def loss(logits: Tensor, labels: Tensor, teacher_logits: Tensor | None) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)

    return loss


def d3d(spec: DistillSpec, label_smoothing: float) -> Loss:
    """Cross-entropy plus `spec.weight` times the squared error to the teacher's pre-softmax outputs.

    Source: Stroud et al., arXiv 1812.08249. Whether the published loss takes the mean or the sum over classes is not
    known, and it scales the weight by the number of classes, so the recipe states it.
    """

    def loss(logits: Tensor, labels: Tensor, teacher_logits: Tensor | None) -> Tensor:
        total = spec.cross_entropy_weight * F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
        if teacher_logits is None:
            return total
        squared = F.mse_loss(logits, teacher_logits, reduction="none")
        per_clip = squared.mean(1) if spec.reduction == "mean" else squared.sum(1)
        return total + spec.weight * per_clip.mean()

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
