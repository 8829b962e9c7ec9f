"""A calibrated graph whose roundings can be switched, group by group: what INT8 costs where. Chooses nothing.

Quantizing a group rounds what enters it, its weights, and what leaves it, as an INT8 operator does.
"""

from __future__ import annotations

from d3d_edge.quantize import torchao_unlogged  # noqa: F401

# isort: split
import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node
from torchao.quantization.pt2e import ObserverBase

from d3d_edge.quantize.groups import Group, groups_of
from d3d_edge.quantize.rounding import rounded


class Rounding(nn.Module):
    """Rounds to a fixed 8-bit grid and back, while `on`."""

    def __init__(self, observer: Any) -> None:
        super().__init__()
        scale, zero_point = observer.calculate_qparams()
        self.on = False
        self.scale, self.zero_point = scale.float(), zero_point.to(torch.int32)
        self.axis: int | None = getattr(observer, "ch_axis", None)
        self.bounds = (int(observer.quant_min), int(observer.quant_max))

    def forward(self, x: Tensor) -> Tensor:
        """`x` of any shape, rounded or as it is."""
        return rounded(x, self.scale, self.zero_point, self.axis, *self.bounds) if self.on else x


class Switched:
    """A calibrated graph in which each group can be INT8 or float."""

    def __init__(self, calibrated: GraphModule) -> None:
        """`calibrated` was prepared for calibration, not for training, and shown clips. Its observers are replaced."""
        self.module = calibrated
        made: dict[int, Rounding] = {}
        for place, node in enumerate(self.module.graph.find_nodes(op="call_module", sort=True)):
            observer = self.module.get_submodule(node.target)
            if not isinstance(observer, ObserverBase):
                continue
            # A module of its own for every call, since calls that share an observer may belong to different groups.
            rounding = made.setdefault(id(observer), Rounding(observer))
            node.target = f"rounding_{place}"
            self.module.add_submodule(node.target, copy.copy(rounding))
            if all(source.op == "get_attr" for source in node.all_input_nodes):  # weights, beside what they are for
                next(other for other in node.graph.nodes if other in node.users).prepend(node)
        self.module.recompile()
        self._of: dict[Group, list[Rounding]] = {}
        self._begun: tuple[Sequence[Tensor], list[_Begun]] | None = None
        places = {str(node.target): place for place, node in enumerate(_computed(self.module))}
        self._place = {
            id(module): places[name] for name, module in self.module.named_modules() if isinstance(module, Rounding)
        }
        for node, group in groups_of(self.module).items():
            beside = [*node.all_input_nodes, *node.users]
            called = [self.module.get_submodule(str(other.target)) for other in beside if other.op == "call_module"]
            self._of.setdefault(group, []).extend(module for module in called if isinstance(module, Rounding))

    @property
    def groups(self) -> tuple[Group, ...]:
        """All groups, in the order of the graph."""
        return tuple(self._of)

    def weights(self, group: Group) -> int:
        """Weights of a group's convolutions."""
        nodes = [node for node, of in groups_of(self.module).items() if of == group]
        names = {
            str(source.all_input_nodes[0].target)
            for node in nodes
            for source in node.all_input_nodes
            if source.op == "call_module" and source.all_input_nodes and source.all_input_nodes[0].op == "get_attr"
        }
        return sum(self.module.get_parameter(name).numel() for name in names)

    def first(self, groups: Iterable[Group]) -> int:
        """The place in the graph of the first thing that is rounded where `groups` are in INT8."""
        return min((self._place[id(module)] for group in groups for module in self._of[group]), default=0)

    @torch.no_grad()
    def logits(self, chosen: Iterable[Group], batches: Iterable[Tensor]) -> Tensor:
        """Float [N, classes] of clips uint8 [N*T, H, W, C] in batches of the prepared size, the groups `chosen` in
        INT8 and all others in float.

        Of a sequence of batches, what stands before all that is rounded is kept for the next call: asked in the order
        of `first`, the float part of the graph is computed once for all calls.
        """
        for module in self.module.modules():
            if isinstance(module, Rounding):
                module.on = False
        chosen = tuple(chosen)
        for group in chosen:
            for module in self._of[group]:
                module.on = True
        if not isinstance(batches, Sequence):
            self._begun = None  # there may be too many to keep
        if not chosen or not isinstance(batches, Sequence):
            return torch.cat([self.module(batch) for batch in batches])
        first = self.first(chosen)
        if self._begun is None or self._begun[0] is not batches or self._begun[1][0].place > first:
            self._begun = batches, [_Begun(self.module, batch) for batch in batches]
        for begun in self._begun[1]:
            begun.advance(first)
        return torch.cat([begun.finished() for begun in self._begun[1]])


class _Begun(Interpreter):
    """A batch on its way through the graph: the values that are still needed, before the operator at `place`."""

    def __init__(self, module: GraphModule, batch: Tensor) -> None:
        super().__init__(module)
        self._nodes = _computed(module)
        self.env.update(zip(module.graph.find_nodes(op="placeholder"), module.graph.process_inputs(batch), strict=True))
        self.place = 0

    def advance(self, place: int) -> None:
        """Compute what stands before `place`."""
        for node in self._nodes[self.place : place]:
            self._step(node, self.env)
        self.place = place

    def finished(self) -> Tensor:
        """The answer, of which nothing but what was there before is kept."""
        kept, self.env = self.env, dict(self.env)
        try:
            for node in self._nodes[self.place :]:
                self._step(node, self.env)
            answer: Tensor = self.graph.process_outputs(self.env[self._nodes[-1]])
        finally:
            self.env = kept
        return answer

    def _step(self, node: Node, env: dict[Node, Any]) -> None:
        env[node] = self.run_node(node)
        for done in self.user_to_last_uses.get(node, ()):
            del env[done]


def _computed(module: GraphModule) -> list[Node]:
    return [node for node in module.graph.nodes if node.op != "placeholder"]
