"""An ONNX file that is written quickly is the one that is written slowly."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import ExportedProgram

from d3d_edge import target
from d3d_edge.quantize import pt2e
from d3d_edge.runtimes import tensorrt, tensorrt_onnx
from tests import networks


@pytest.mark.parametrize("program", [networks.quantized, networks.mixed, networks.float_program])
def test_fewer_patterns_are_tried_and_not_a_byte_is_another(
    program: Callable[[], ExportedProgram], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matcher = pytest.importorskip("onnxscript.rewriter._matcher").SimplePatternMatcher
    match, tried = matcher.match, 0

    def counted(*words: Any, **options: Any) -> Any:
        nonlocal tried
        tried += 1
        return match(*words, **options)

    monkeypatch.setattr(matcher, "match", counted)
    counts, files = [], []
    for name in ("quick", "slow"):
        (tmp_path / name).mkdir()
        tensorrt.RUNTIME.lower(program(), tmp_path / name, target.load("jetson"), precision="int8")
        assert matcher.match is counted
        counts.append(tried)
        files.append((tmp_path / name / tensorrt.MODEL).read_bytes())
        tried = 0
        monkeypatch.setattr(tensorrt_onnx, "patterns_tried_where_they_begin", nullcontext)
    assert 0 < counts[0] < counts[1]
    assert files[0] == files[1]


@pytest.mark.parametrize("program", [networks.quantized, networks.mixed, networks.float_program])
def test_the_graph_is_not_traced_again_and_not_a_byte_is_another(
    program: Callable[[], ExportedProgram], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decompose, traced = ExportedProgram.run_decompositions, 0

    def counted(*words: Any, **options: Any) -> ExportedProgram:
        nonlocal traced
        traced += 1
        return decompose(*words, **options)

    monkeypatch.setattr(ExportedProgram, "run_decompositions", counted)
    counts, files = [], []
    for name in ("quick", "slow"):
        (tmp_path / name).mkdir()
        tensorrt.RUNTIME.lower(program(), tmp_path / name, target.load("jetson"), precision="int8")
        counts.append(traced)
        files.append((tmp_path / name / tensorrt.MODEL).read_bytes())
        traced = 0
        monkeypatch.setattr(tensorrt_onnx, "decomposed_by_hand", nullcontext)
    assert counts == [0, 1]
    assert files[0] == files[1]


class Normalises(nn.Module):
    """Has an operator that ONNX has not, and whose decomposition is torch's to know."""

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        return torch.special.expit(clip.float().mean((0, 1, 2)))[None].square_()


def test_what_is_not_known_here_is_decomposed_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    program, written = pt2e.export_float(Normalises(), networks.clip()), []
    for _ in range(2):
        model = tensorrt_onnx.to_onnx(program, tensorrt.OPSET, input_name="clip", output_name="logits")
        written.append(model.SerializeToString())
        monkeypatch.setattr(tensorrt_onnx, "decomposed_by_hand", nullcontext)
    assert "Sigmoid" in {node.op_type for node in model.graph.node}
    assert written[0] == written[1]


@pytest.mark.parametrize("program", [networks.quantized, networks.float_program])
def test_the_program_stays_as_it_was(program: Callable[[], ExportedProgram], tmp_path: Path) -> None:
    given = program()
    before = str(given), str(given.graph_signature), [dict(node.meta.get("custom", {})) for node in given.graph.nodes]
    tensorrt.RUNTIME.lower(given, tmp_path, target.load("jetson"), precision="int8")
    after = str(given), str(given.graph_signature), [dict(node.meta.get("custom", {})) for node in given.graph.nodes]
    assert after == before
