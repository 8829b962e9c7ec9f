"""Layers that training computes at once give what they give one by one: values, gradients and running statistics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from d3d_edge.models import S3DG, joined
from d3d_edge.models.s3dg import Mixed

TOLERANCE = 1e-9


def network(**options: Any) -> S3DG:
    """A network in float64 in training, its gates and statistics away from where they begin, so that each counts."""
    torch.manual_seed(0)
    net = S3DG(5, dropout=0.0, **{"width": 0.25, "bn_momentum": 0.1, **options}).double().train()
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if "transformer_W" in name or "bn.bias" in name or "running_mean" in name:
                value.normal_(0, 0.3)
            elif "running_var" in name or name.endswith("bn.weight"):
                value.uniform_(0.5, 1.5)
    return net


def video(net: S3DG, clips: int, frames: int, size: tuple[int, int]) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(clips * frames, *size, net.in_channels, dtype=torch.float64).permute(0, 3, 1, 2)


def step(net: S3DG, x: Tensor, clips: int) -> dict[str, Tensor]:
    """What a step of training makes of a network: logits, gradients, and the state that it leaves."""
    logits = net(x, clips)
    logits.square().sum().backward()
    made = {"logits": logits.detach(), **net.state_dict()}
    return made | {f"gradient of {name}": p.grad for name, p in net.named_parameters() if p.grad is not None}


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Grows by one with each Inception block that is computed the joined way."""
    seen: list[Any] = []
    real: Callable[..., Tensor] = Mixed._joined
    monkeypatch.setattr(Mixed, "_joined", lambda *given: (seen.append(given[0]), real(*given))[1])
    return seen


@pytest.mark.parametrize(
    ("options", "clips", "frames", "size"),
    [
        ({}, 2, 8, (32, 32)),
        ({"bn_scale": True}, 3, 9, (33, 46)),
        ({"width": 0.4, "in_channels": 2, "gating": False}, 2, 7, (35, 32)),
        ({"temporal_from": "Mixed_4b", "gating_from": "Mixed_5b", "bn_momentum": 0.001}, 2, 5, (48, 31)),
        ({"stem": "separable", "padding": "symmetric", "bn_scale": True}, 2, 16, (33, 64)),
        ({}, 4, 1, (40, 40)),
    ],
    ids=str,
)
def test_a_step_is_that_of_the_layers_one_by_one(
    options: dict[str, Any],
    clips: int,
    frames: int,
    size: tuple[int, int],
    blocks: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = network(**options)
    other = network(**options)
    x = video(net, clips, frames, size)
    actual = step(net, x, clips)
    assert len(blocks) == 9
    monkeypatch.setattr(joined, "usable", lambda units, x: False)
    expected = step(other, x, clips)
    assert len(blocks) == 9
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert (actual[name] - value).abs().max() <= TOLERANCE * max(1, value.abs().max()), name


def test_in_bfloat16_a_step_differs_by_rounding_alone(blocks: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def bfloat16() -> dict[str, Tensor]:
        net = network(bn_scale=True)
        x = video(net, 4, 16, (32, 32)).float()
        with torch.autocast("cpu", torch.bfloat16):
            return step(net.float(), x, 4)

    actual = bfloat16()
    assert len(blocks) == 9
    monkeypatch.setattr(joined, "usable", lambda units, x: False)
    for name, value in bfloat16().items():
        assert (actual[name] - value).double().norm() <= 0.1 * value.double().norm(), name


def frozen(net: S3DG, x: Tensor) -> None:
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
    net(x, 2)


def one_frozen(net: S3DG, x: Tensor) -> None:
    for name, layer in net.named_modules():
        if isinstance(layer, nn.BatchNorm2d) and "Branch_3" in name:
            layer.eval()
    net(x, 2)


def evaluated(net: S3DG, x: Tensor) -> None:
    net.eval()(x, 2)


def without_gradient(net: S3DG, x: Tensor) -> None:
    with torch.no_grad():
        net(x, 2)


@pytest.mark.parametrize("use", [frozen, one_frozen, evaluated, without_gradient])
def test_all_else_takes_the_layers_one_by_one(use: Callable[[S3DG, Tensor], None], blocks: list[Any]) -> None:
    net = network()
    use(net, video(net, 2, 8, (32, 32)))
    assert blocks == []


@pytest.mark.parametrize("training", [False, True])
def test_a_graph_has_every_convolution_beside_its_batch_norm(training: bool, blocks: list[Any]) -> None:
    block = S3DG(5, width=0.25).Mixed_3b.train(training)
    x = torch.randn(16, 4, 4, 48).permute(0, 3, 1, 2)
    graph = torch.export.export(block, (x, 2), strict=False).graph
    assert blocks == []
    targets = [str(node.target) for node in graph.nodes if node.op == "call_function"]
    assert sum("conv2d" in name for name in targets) == sum(isinstance(layer, nn.Conv2d) for layer in block.modules())
    assert not any("linear" in name for name in targets)
