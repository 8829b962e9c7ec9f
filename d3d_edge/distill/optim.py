"""What a recipe's words for optimiser and schedule mean. Takes no step itself."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from d3d_edge.recipe import TrainSpec

WARM_UP_SHARE = 0.1
"""Share of the steps in which the learning rate rises, where the recipe says nothing and the schedule has a warm-up.
PyTorch's 0.3 of one_cycle is much of a run of a few hundred steps."""
MOMENTUM = 0.9
"""Of SGD. Xie et al., arXiv 1712.04851."""
MILESTONE_FACTOR = 0.1
"""0.1, 0.01, 0.001: Xie et al., arXiv 1712.04851."""


def optimizer_of(model: nn.Module, spec: TrainSpec) -> Optimizer:
    """The optimiser of all parameters that are trained; biases and normalisation (rank 1) are not decayed."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": spec.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if spec.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=spec.learning_rate, momentum=MOMENTUM, nesterov=False)
    return torch.optim.AdamW(groups, lr=spec.learning_rate, fused=True)


def schedule_of(optimizer: Optimizer, spec: TrainSpec, steps: int) -> LRScheduler:
    """The learning rate of each of a run's `steps`."""
    if spec.schedule == "one_cycle" and steps == 1:
        return LambdaLR(optimizer, lambda step: 1.0)  # at the end of a cycle nothing would be learned
    if spec.schedule == "one_cycle":
        rising = WARM_UP_SHARE if spec.warm_up is None else spec.warm_up
        if rising * steps == 1:
            rising *= 1 - 1e-9  # A rise of exactly one step makes PyTorch divide by zero (seen in 2.13).
        return OneCycleLR(
            optimizer,
            spec.learning_rate,
            total_steps=steps,
            pct_start=rising,
            # A momentum that falls while the rate rises is part of one_cycle, but the recipe's sgd has one momentum.
            cycle_momentum=spec.optimizer == "adamw",
        )
    return LambdaLR(optimizer, share_of_learning_rate(spec, steps))


def share_of_learning_rate(spec: TrainSpec, steps: int) -> Callable[[int], float]:
    """The schedules `cosine` and `steps`: step, from 0, to the share of `learning_rate` it is taken with."""
    share = spec.warm_up if spec.warm_up is not None else WARM_UP_SHARE if spec.schedule == "cosine" else 0.0
    rising = round(share * steps)
    milestones = [round(milestone * steps) for milestone in spec.milestones]

    def share_at(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        if spec.schedule == "steps":
            return float(MILESTONE_FACTOR ** sum(step >= milestone for milestone in milestones))
        return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))

    return share_at
