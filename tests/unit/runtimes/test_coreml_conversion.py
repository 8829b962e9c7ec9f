"""Operators that coremltools reads otherwise than PyTorch, or not at all: the package computes what the graph does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from d3d_edge import target
from d3d_edge.errors import LoweringError
from d3d_edge.quantize import pt2e
from d3d_edge.runtimes import coreml
from d3d_edge.runtimes.mil import MilProgram
from tests import networks

ct = pytest.importorskip("coremltools")

CLIP = torch.arange(256, dtype=torch.uint8).reshape(4, 8, 8, 1)
Function = Callable[[Tensor], Tensor]


class Network(nn.Module):
    """A function of the frames, from 0 to 1, and their mean in each row."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, clip: Tensor) -> Tensor:
        return self.function(clip.float() * (1 / 255)).mean((0, 2, 3))[None]


def computed(function: Function, folder: Path) -> tuple[Any, Any]:
    """What the graph gives, and the package written from it."""
    program = networks.reopened(pt2e.export_float(Network(function), CLIP))
    written = coreml.RUNTIME.lower(program, folder, target.load("ios"), precision="float16")
    package = MilProgram.load(folder / written.model)
    (source,), (result,) = package.inputs, package.outputs
    return program.module()(CLIP).numpy(), package.run({source.name: CLIP.numpy()})[result.name]


@pytest.mark.parametrize("options", [{"copy": True}, {"non_blocking": True}], ids=str)
def test_a_cast_is_one_however_it_is_asked_for(options: dict[str, bool], tmp_path: Path) -> None:
    expected, found = computed(lambda x: x.to(torch.float32, **options) * 2, tmp_path)
    assert np.asarray(found) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.add(x, x * x, alpha=2),
        lambda x: torch.sub(x, x * x, alpha=3),
        lambda x: torch.sub(x, 0.5, alpha=2),
        lambda x: torch.rsub(x, x * x, alpha=2),
    ],
    ids=["add", "sub", "sub a number", "rsub"],
)
def test_a_sum_keeps_its_factor(function: Function, tmp_path: Path) -> None:
    expected, found = computed(function, tmp_path)
    assert np.asarray(found) == pytest.approx(expected, abs=2e-3)


def test_a_constant_may_be_made_in_the_network(tmp_path: Path) -> None:
    expected, found = computed(lambda x: (x - torch.tensor([0.5])) / torch.tensor([0.25]), tmp_path)
    assert np.asarray(found) == pytest.approx(expected, abs=2e-3)


def test_what_changes_a_tensor_in_place_is_refused_by_name(tmp_path: Path) -> None:
    program = pt2e.export_float(Network(lambda x: x * 2), CLIP)
    product = next(node for node in reversed(program.graph.nodes) if node.target is torch.ops.aten.mul.Tensor)
    product.target = torch.ops.aten.mul_.Tensor
    with pytest.raises(LoweringError, match=r"is not functional \[stage convert, operator aten.mul_.Tensor"):
        coreml.RUNTIME.lower(program, tmp_path, target.load("ios"), precision="float16")


def test_what_has_names_is_sorted_by_them(tmp_path: Path) -> None:
    """It is in another order in every process by itself, and the same model is to be the same file."""
    program = networks.reopened(pt2e.export_float(Network(lambda x: x * x), CLIP))
    coreml.RUNTIME.lower(program, tmp_path, target.load("ios"), precision="float16")
    (file,) = tmp_path.rglob("*.mlmodel")
    written = file.read_bytes()
    assert ct.proto.Model_pb2.Model.FromString(written).SerializeToString(deterministic=True) == written


def test_a_conversion_that_failed_leaves_no_trace_in_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = networks.reopened(pt2e.export_float(Network(lambda x: x * x), CLIP))

    def lower(folder: Path) -> bytes:
        folder.mkdir()
        coreml.RUNTIME.lower(program, folder, target.load("ios"), precision="float16")
        return next(folder.rglob("*.mlmodel")).read_bytes()

    before = lower(tmp_path / "before")
    with monkeypatch.context() as patch:
        patch.setattr(ct.converters.mil.Program, "_check_early_error_out_for_invalid_program", None)
        with pytest.raises(LoweringError):
            lower(tmp_path / "failed")
    assert lower(tmp_path / "after") == before
