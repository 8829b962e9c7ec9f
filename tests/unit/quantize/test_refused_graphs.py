"""Graphs that no runtime here takes, whatever their operators compute: each is refused with its layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, export

from d3d_edge.errors import LoweringError
from d3d_edge.quantize import placement, pt2e
from d3d_edge.quantize.origin import keep_layers
from tests import networks


class Layer(nn.Module):
    """Doubles what is positive in sum."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda x: 2 * x, lambda x: 1 * x, (x,))


class Network(nn.Module):
    """A layer, and the sum of what it gives."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).sum(1)


def test_a_branch_is_refused_since_nobody_looks_into_it() -> None:
    program = export(Network(Layer()), (torch.ones(2, 3),))
    keep_layers(program)
    (fault,) = map(str, placement.faults(program, "a runtime"))
    assert "chooses between graphs, of which none is checked" in fault
    assert "layer layer, operator cond" in fault
    assert "torch.where" in fault


def test_a_size_that_is_not_fixed_is_refused_wherever_it_shows() -> None:
    program = export(Network(nn.ReLU()), (torch.ones(2, 3),), dynamic_shapes=({0: Dim("clips", min=2, max=8)},))
    keep_layers(program)
    faults = [str(fault) for fault in placement.faults(program, "a runtime")]
    assert faults
    for fault in faults:
        assert "has no static shape" in fault
        assert "export the network for one clip shape" in fault
    assert any("layer layer, operator aten.relu" in fault for fault in faults)


class Two(nn.Module):
    """Logits, and what became of them."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x.softmax(1)


def test_a_network_that_gives_more_than_logits_is_refused() -> None:
    with pytest.raises(LoweringError, match=r"takes 1 tensors and gives 2; .*its logits alone"):
        pt2e.shapes(export(Two(), (torch.ones(2, 3),)))


BYTES = torch.ones(2, 3, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("function", "clip", "said"),
    [
        (lambda x: x.float(), torch.ones(2, 3), "takes float32 and gives float32; a model takes bytes"),
        (lambda x: x.double(), BYTES, "takes uint8 and gives float64"),
        (lambda x: x + 1, BYTES, "takes uint8 and gives uint8"),
        (
            lambda x: {"logits": x.float()},
            BYTES,
            "gives its logits, in a list, in a table",
        ),
        (lambda x: [x.float()], BYTES, "gives its logits, in a list, in a table"),
        (lambda x: None, BYTES, "takes 1 tensors and gives 0|in a table|gives no tensor"),
        (lambda x: x.shape[0], BYTES, "takes uint8 and gives no tensor"),
        (lambda x: x[0].float(), [BYTES], "takes its clip, or .* in a list"),
    ],
)
def test_a_network_of_other_types_is_refused(function: Callable[[Any], Any], clip: Any, said: str) -> None:
    with pytest.raises(LoweringError, match=f"{said}.*stage check"):
        pt2e.shapes(networks.reopened(export(networks.Function(function), (clip,))))
