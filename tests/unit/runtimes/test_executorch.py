"""What is refused before a file is written that a phone could not run, and that the shortcuts change nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn import functional as F

from d3d_edge import target
from d3d_edge.errors import LoweringError, MissingDependency
from d3d_edge.runtimes import executorch, quick_lowering, xnnpack_graph
from tests import networks

pytest.importorskip("executorch")
pytestmark = pytest.mark.slow

ANDROID = target.load("android")


class Rank5(nn.Module):
    """A Conv3d, as most video networks have."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 4, 3)

    def forward(self, clip: Tensor) -> Tensor:
        return self.conv(clip.float().permute(3, 0, 1, 2).unsqueeze(0)).mean((2, 3, 4))


class Undelegated(nn.Module):
    """An average that counts its padding, which XNNPACK cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, clip: Tensor) -> Tensor:
        frames = self.conv(clip.float().permute(0, 3, 1, 2))
        return F.avg_pool2d(frames, 3, padding=1, count_include_pad=True).mean((2, 3)).mean(0, keepdim=True)


def lower(model: nn.Module, folder: Path) -> None:
    program = torch.export.export(model.eval(), (networks.clip(),), strict=False)
    executorch.RUNTIME.lower(program, folder, ANDROID, precision="int8")


def test_the_whole_network_is_one_delegate(tmp_path: Path) -> None:
    for program in (networks.quantized(), networks.quantized("affine"), networks.float_program()):
        facts = executorch.RUNTIME.lower(program, tmp_path, ANDROID, precision="int8").facts
        assert facts["delegates"] == 1
        # Bytes to floats is all that is left.
        assert facts["undelegated_operators"] == 1
        assert "_to_dim_order_copy" in str(facts["undelegated_names"])


def test_five_axes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LoweringError, match=r"5 axes.*operator") as caught:
        lower(Rank5(), tmp_path)
    assert caught.value.exit_code == 5
    assert not any(tmp_path.iterdir())


def test_an_undelegated_pool_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(LoweringError, match="avg_pool2d"):
        lower(Undelegated(), tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("make", [networks.quantized, networks.float_program])
def test_lowering_quickly_changes_no_byte(
    make: Callable[[], ExportedProgram], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = str(make().graph)
    executorch.RUNTIME.lower(make(), tmp_path, ANDROID, precision="int8")
    quick = (tmp_path / executorch.MODEL).read_bytes()
    assert str(make().graph) == before
    monkeypatch.setattr(quick_lowering, "VERSIONS", "none")
    executorch.RUNTIME.lower(make(), tmp_path, ANDROID, precision="int8")
    assert (tmp_path / executorch.MODEL).read_bytes() == quick


def test_what_was_replaced_for_lowering_is_put_back() -> None:
    from torch.fx import GraphModule

    before = ExportedProgram.run_decompositions, ExportedProgram.validate, GraphModule.recompile
    with pytest.raises(KeyError), quick_lowering.quickly(networks.float_program()):
        raise KeyError
    assert (ExportedProgram.run_decompositions, ExportedProgram.validate, GraphModule.recompile) == before


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executorch, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"d3d-edge\[android\]"):
        executorch.RUNTIME.check_lower()


def test_changes_of_view_are_not_moves_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: Counter[str] = Counter()
    simplify = xnnpack_graph.simplify

    def counted(graph: Any) -> None:
        simplify(graph)
        kinds.update(type(node.xnode_union).__name__ for node in graph.xnodes)

    monkeypatch.setattr(xnnpack_graph, "simplify", counted)
    executorch.RUNTIME.lower(networks.quantized(), tmp_path, ANDROID, precision="int8")
    assert kinds["XNNConv2d"] == 6
    assert kinds["XNNStaticReshape"]
    # Of the logits, which have one position only.
    assert kinds["XNNStaticTranspose"] == 1


@pytest.mark.parametrize("make", [networks.quantized, networks.float_program])
def test_a_small_delegate_gives_the_same_logits(
    make: Callable[[], ExportedProgram], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def logits(folder: Path) -> tuple[NDArray[Any], int]:
        folder.mkdir()
        size = executorch.RUNTIME.lower(make(), folder, ANDROID, precision="int8").facts["size_bytes"]
        with executorch.ExecuTorchRunner(folder / executorch.MODEL, 1) as runner:
            return np.stack([runner.run(networks.clip(seed).numpy()) for seed in range(5)]), int(size)

    small, small_size = logits(tmp_path / "small")
    monkeypatch.setattr(executorch, "_delegates_made_small", nullcontext)
    whole, whole_size = logits(tmp_path / "whole")
    np.testing.assert_array_equal(small, whole)
    assert small_size < whole_size
