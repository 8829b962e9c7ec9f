"""Optimisers and schedules do what the words of a recipe say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from d3d_edge.distill.optim import optimizer_of, schedule_of, share_of_learning_rate
from d3d_edge.recipe import TrainSpec


def spec(**settings: Any) -> TrainSpec:
    return TrainSpec.model_validate({"epochs": 1, "batch_size": 1, "learning_rate": 0.1, **settings})


def learning_rates(chosen: TrainSpec, steps: int) -> list[float]:
    """The learning rate of each step."""
    optimizer = optimizer_of(nn.Linear(2, 2), chosen)
    schedule = schedule_of(optimizer, chosen, steps)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_steps_go_down_where_the_published_run_did() -> None:
    share = share_of_learning_rate(spec(schedule="steps", milestones=[0.75, 0.875]), 80_000)
    at = {step: share(step) for step in (0, 59_999, 60_000, 69_999, 70_000, 79_999)}
    assert at == pytest.approx({0: 1, 59_999: 1, 60_000: 0.1, 69_999: 0.1, 70_000: 0.01, 79_999: 0.01})


def test_steps_may_warm_up() -> None:
    rates = learning_rates(spec(schedule="steps", milestones=[0.5], warm_up=0.2), 10)
    assert rates == pytest.approx([0.05, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.01, 0.01])


def test_cosine_rises_along_a_line_and_falls_to_nothing() -> None:
    rates = learning_rates(spec(schedule="cosine", warm_up=0.25), 40)
    assert rates[:10] == pytest.approx([0.01 * step for step in range(1, 11)])
    assert rates[10] == pytest.approx(0.1)
    assert rates[25] == pytest.approx(0.05)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.001


def test_cosine_warms_up_for_a_tenth_where_nothing_is_said() -> None:
    rates = learning_rates(spec(schedule="cosine"), 20)
    assert rates[:3] == pytest.approx([0.05, 0.1, 0.1])


@pytest.mark.parametrize(("warm_up", "peak"), [(None, 9), (0.1, 9), (0.3, 29), (0.0, 0)])
def test_one_cycle_has_its_peak_at_the_end_of_the_warm_up(warm_up: float | None, peak: int) -> None:
    rates = learning_rates(spec(warm_up=warm_up), 100)
    assert max(rates) == pytest.approx(0.1, rel=1e-2)
    assert rates.index(max(rates)) == peak


@pytest.mark.parametrize("steps", range(2, 31))
def test_one_cycle_can_have_any_number_of_steps(steps: int) -> None:
    rates = learning_rates(spec(), steps)
    assert all(0 < rate <= 0.1 for rate in rates)
    assert max(rates) > 0.02


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine"])
def test_a_single_step_is_taken_with_the_whole_rate(schedule: str) -> None:
    assert learning_rates(spec(schedule=schedule), 1) == pytest.approx([0.1])


@pytest.mark.parametrize("schedule", [{"schedule": "one_cycle"}, {"schedule": "cosine"}])
def test_sgd_has_one_momentum_for_the_whole_run(schedule: dict[str, Any]) -> None:
    chosen = spec(optimizer="sgd", **schedule)
    optimizer = optimizer_of(nn.Linear(2, 2), chosen)
    scheduler = schedule_of(optimizer, chosen, 10)
    for _ in range(10):
        for group in optimizer.param_groups:
            assert group["momentum"] == 0.9
            assert not group["nesterov"]
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_only_kernels_are_decayed_and_only_what_is_trained_is_optimised(optimizer: str) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    model[2].requires_grad_(False)
    kernels, vectors = optimizer_of(model, spec(optimizer=optimizer, weight_decay=0.3)).param_groups
    assert [p is model[0].weight for p in kernels["params"]] == [True]
    assert kernels["weight_decay"] == 0.3
    assert len(vectors["params"]) == 3
    assert vectors["weight_decay"] == 0.0


def test_sgd_takes_the_steps_of_its_formula() -> None:
    weight = nn.Linear(1, 1, bias=False)
    nn.init.ones_(weight.weight)
    optimizer = optimizer_of(weight, spec(optimizer="sgd", weight_decay=0.5))
    expected, velocity = 1.0, 0.0
    for gradient in (2.0, -1.0, 0.5):
        weight.weight.grad = torch.full((1, 1), gradient)
        optimizer.step()
        velocity = 0.9 * velocity + gradient + 0.5 * expected
        expected -= 0.1 * velocity
    assert weight.weight.item() == pytest.approx(expected, rel=1e-6)
