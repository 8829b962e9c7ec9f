"""The rounding of training: torchao's fake quantizer, faster, and only where there is something to round.

Knows no network.
"""

from __future__ import annotations

from d3d_edge.quantize import torchao_unlogged  # noqa: F401

# isort: split
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e import FakeQuantize

from d3d_edge.quantize.groups import REARRANGING

_aten = torch.ops.aten
_SKIPPED = "skipped_rounding"
"""Where a node that stands for a fake quantizer has the name of that, and the one it is called by elsewhere."""
_KEEPING = REARRANGING | {_aten.cat.default}
"""Operators that keep values on the grid of their inputs. Dropout scales what it leaves, but what is deployed has none:
no range may follow what it scaled, nor cut it."""


def rounded(x: Tensor, scale: Tensor, zero_point: Tensor, axis: int | None, quant_min: int, quant_max: int) -> Tensor:
    """`x` of any shape on the nearest points of a grid, or of one for each place along `axis`; the same shape.

    On a CPU a tenth of the time of torch.fake_quantize_per_tensor_affine (torch 2.13), whose kernel goes value by value
    and writes a mask. The values are the same, and the gradient too but for what lies on the very edge of the range.
    """
    if axis is not None:
        return torch.fake_quantize_per_channel_affine(x, scale, zero_point, axis, quant_min, quant_max)
    if x.device.type != "cpu":
        return torch.fake_quantize_per_tensor_affine(x, scale, zero_point, quant_min, quant_max)
    zero = int(zero_point)
    result: Tensor = _Rounded.apply(x, float(scale), quant_min - zero, quant_max - zero)  # type: ignore[no-untyped-call]
    return result


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, lowest: int, highest: int) -> Tensor:
        ctx.save_for_backward(x)
        ctx.ends = (lowest - 0.5) * scale, (highest + 0.5) * scale
        return x.mul(1 / scale).round_().clamp_(lowest, highest).mul_(scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (x,) = ctx.saved_tensors
        return _aten.hardtanh_backward(gradient, x, *ctx.ends), None, None, None


class EdgeFakeQuantize(FakeQuantize):  # type: ignore[misc]
    """torchao's, which asks the device at every call whether to observe and to round; this one knows."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._observes = self._rounds = True

    def enable_observer(self, enabled: bool = True) -> None:
        """Follow the ranges of what is rounded from now on, or not."""
        super().enable_observer(enabled)
        self._observes = enabled

    def enable_fake_quant(self, enabled: bool = True) -> None:
        """Round from now on, or not."""
        super().enable_fake_quant(enabled)
        self._rounds = enabled

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point: those that it rounds by. Its observer's, while it follows; fixed ones may be others."""
        if not self._observes:
            return self.scale, self.zero_point
        found: tuple[Tensor, Tensor] = super().calculate_qparams()
        return found

    def _load_from_state_dict(self, *given: Any) -> None:
        super()._load_from_state_dict(*given)
        self._observes, self._rounds = bool(self.observer_enabled[0]), bool(self.fake_quant_enabled[0])

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same shape."""
        if self._observes:
            self.activation_post_process(x.detach())
            for kept, found in zip((self.scale, self.zero_point), self.calculate_qparams(), strict=True):
                kept.resize_(found.shape).copy_(found)
        if not self._rounds:
            return x
        axis = self.ch_axis if self.is_per_channel else None
        return rounded(x, self.scale, self.zero_point, axis, self.quant_min, self.quant_max)


def skip_repeats(prepared: GraphModule) -> None:
    """Pass on what a fake quantizer has rounded already, and what was only rearranged or joined since.

    Rounding it again by the same range would change nothing, neither values nor gradients, and half of all roundings
    are such. Only while ranges follow, the branches of a join may be rounded by ranges that are not yet that of all.
    `restore` brings them back: each is a rounding of the graph that is deployed.
    """
    names: dict[nn.Module, str] = {}
    grids: dict[Node, str] = {}
    for node in list(prepared.graph.nodes):
        before = {grids.get(source) for source in node.all_input_nodes}
        grid = before.pop() if len(before) == 1 else None
        if node.op == "call_module":
            name = names.setdefault(prepared.get_submodule(node.target), node.target)
            grids[_skipped(node, name) if name == grid else node] = name
        elif grid and node.target in _KEEPING:
            grids[node] = grid
    prepared.delete_all_unused_submodules()
    prepared.recompile()


def restore(prepared: GraphModule) -> None:
    """Undo `skip_repeats`."""
    for node in list(prepared.graph.nodes):
        if names := node.meta.pop(_SKIPPED, None):
            own, shared = names
            prepared.add_submodule(own, prepared.get_submodule(shared))
            with prepared.graph.inserting_after(node):
                _replaced(node, prepared.graph.call_module(own, node.args))
    prepared.recompile()


def name_of(node: Node) -> str | None:
    """The module that `node` calls, also where it is skipped; None for another node."""
    return str(node.target) if node.op == "call_module" else node.meta.get(_SKIPPED, (None,))[0]


def _skipped(node: Node, shared: str) -> Node:
    with node.graph.inserting_after(node):
        by = _replaced(node, node.graph.call_function(_aten.alias.default, node.args))
    by.meta[_SKIPPED] = str(node.target), shared
    return by


def _replaced(node: Node, by: Node) -> Node:
    by.meta = dict(node.meta)
    node.replace_all_uses_with(by)
    node.graph.erase_node(node)
    return by
