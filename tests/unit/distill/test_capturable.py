"""What a CUDA graph may hold: a step asks the device for no value, and brings it none. Seen on any device."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from d3d_edge.distill import loss
from d3d_edge.models.decoder import FlowDecoder
from d3d_edge.models.s3dg import S3DG
from d3d_edge.pipeline.streams import flow_stream, fused, rgb_stream
from d3d_edge.recipe import DistillSpec
from d3d_edge.video.datasets import Batch

aten = torch.ops.aten
WAITS = {
    aten._local_scalar_dense: "reads a value",
    aten.nonzero: "its size depends on values",
    aten.masked_select: "its size depends on values",
    aten.lift_fresh: "brings a value from the host",
    aten.lift_fresh_copy: "brings a value from the host",
}
ALL = DistillSpec(weight=1.0, reduction="sum", features_weight=1.0, divergence_weight=1.0)
BATCH = Batch(
    torch.randint(0, 256, (2, 8, 32, 32, 3), dtype=torch.uint8), torch.rand(2, 8, 32, 32, 2).half(), torch.arange(2)
)


class Seen(TorchDispatchMode):
    """What a step does that cannot be captured."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if why := WAITS.get(func.overloadpacket):
            self.found.append(f"{func}: {why}")
        if func is aten.index.Tensor and any(at is not None and at.dtype == torch.bool for at in args[1]):
            self.found.append(f"{func}: its size depends on values")
        return func(*args, **(kwargs or {}))


Step = Callable[[], Tensor]


def net(channels: int = 3, **options: Any) -> S3DG:
    return S3DG(5, in_channels=channels, width=0.125, bn_momentum=0.1, **options).train()


def teacher() -> Step:
    stream, minimised = flow_stream(net(2)), loss.cross_entropy(0.1)
    return lambda: minimised(stream(BATCH), BATCH.label, None)


def student(**options: Any) -> Step:
    stream, taught = rgb_stream(net(**options), features=True), flow_stream(net(2), features=True)
    minimised = loss.distillation(ALL, label_smoothing=0.1)
    return lambda: minimised(stream(BATCH), BATCH.label, taught(BATCH))


def of_two_streams() -> Step:
    stream, taught = rgb_stream(net()), fused([flow_stream(net(2)), rgb_stream(net())])
    minimised = loss.distillation(ALL.model_copy(update={"features_weight": 0.0}), 0.0)
    return lambda: minimised(stream(BATCH), BATCH.label, taught(BATCH))


def decoder() -> Step:
    features = [torch.rand(2 * steps, 4, side, side) for steps, side in ((8, 16), (4, 8), (2, 4))]
    network, reference = FlowDecoder([4, 4, 4]), torch.rand(16, 2, 16, 16)
    return lambda: loss.mean_end_point_error(network(features, 2), BATCH.label, reference)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(teacher, id="teacher"),
        pytest.param(student, id="student"),
        pytest.param(partial(student, stem="conv3d_k3_3x3"), id="student with a small stem"),
        pytest.param(partial(student, stem="separable"), id="student with a separable stem"),
        pytest.param(of_two_streams, id="student of two streams"),
        pytest.param(decoder, id="decoder of flow"),
    ],
)
def test_a_step_of_every_training_can_be_captured(make: Callable[[], Step]) -> None:
    step = make()
    with Seen() as seen:
        step().backward()
    assert seen.found == []


@pytest.mark.parametrize("asks", [lambda x: x.sum().item(), lambda x: x[x > 0], lambda x: x * torch.tensor(2.0)])
def test_a_step_that_waits_is_seen(asks: Callable[[Tensor], object]) -> None:
    with Seen() as seen:
        asks(torch.ones(3))
    assert seen.found
