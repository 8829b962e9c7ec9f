"""An ONNX file that is written quickly is the one that is written slowly."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from torch.export import ExportedProgram

from d3d_edge import target
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
