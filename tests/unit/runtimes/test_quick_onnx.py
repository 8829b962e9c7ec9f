"""An ONNX file that is written quickly is the one that is written slowly."""

from __future__ import annotations

from collections import Counter
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
def test_less_is_tried_and_traced_and_not_a_byte_is_another(
    program: Callable[[], ExportedProgram], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = pytest.importorskip("onnxscript.rewriter._rewrite_rule").RewriteRule
    matcher = pytest.importorskip("onnxscript.rewriter._matcher").SimplePatternMatcher
    whole = rule.try_rewrite
    counts: dict[str, Counter[str]] = {"quick": Counter(), "slow": Counter()}
    name = "quick"

    def counted(function: Callable[..., Any], what: str) -> Callable[..., Any]:
        def called(*words: Any, **options: Any) -> Any:
            counts[name][what] += 1
            return function(*words, **options)

        return called

    tried, traced = counted(matcher.match, "tried"), counted(ExportedProgram.run_decompositions, "traced")
    monkeypatch.setattr(matcher, "match", tried)
    monkeypatch.setattr(ExportedProgram, "run_decompositions", traced)
    files = []
    for name in counts:
        (tmp_path / name).mkdir()
        tensorrt.RUNTIME.lower(program(), tmp_path / name, target.load("jetson"), precision="int8")
        assert (rule.try_rewrite, matcher.match, ExportedProgram.run_decompositions) == (whole, tried, traced)
        files.append((tmp_path / name / tensorrt.MODEL).read_bytes())
        monkeypatch.setattr(tensorrt_onnx, "patterns_tried_where_they_begin", nullcontext)
        monkeypatch.setattr(tensorrt_onnx, "decomposed_by_hand", nullcontext)
    assert 0 < counts["quick"]["tried"] < counts["slow"]["tried"] / 10
    assert (counts["quick"]["traced"], counts["slow"]["traced"]) == (0, 1)
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
