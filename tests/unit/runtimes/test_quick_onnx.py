"""An ONNX file that is written quickly is the one that is written slowly."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
from torch.export import ExportedProgram

from d3d_edge import target
from d3d_edge.runtimes import tensorrt
from tests import networks


@pytest.mark.parametrize("program", [networks.quantized, networks.mixed, networks.float_program])
def test_not_a_byte_is_another(program: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    assert callable(program)
    written: ExportedProgram = program()
    found = []
    for name in ("quick", "slow"):
        (tmp_path / name).mkdir()
        tensorrt.RUNTIME.lower(written, tmp_path / name, target.load("jetson"), precision="int8")
        found.append((tmp_path / name / tensorrt.MODEL).read_bytes())
        monkeypatch.setattr(tensorrt, "patterns_tried_where_they_begin", nullcontext)
    assert found[0] == found[1]


def test_operators_are_left_out_and_the_matcher_is_as_before() -> None:
    matcher = pytest.importorskip("onnxscript.rewriter._matcher").SimplePatternMatcher
    before = matcher.match
    with tensorrt.patterns_tried_where_they_begin():
        assert matcher.match is not before
    assert matcher.match is before
