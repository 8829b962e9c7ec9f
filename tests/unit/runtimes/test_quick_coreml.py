"""A package that is written quickly is the one that is written slowly, and validated as it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from torch.export import ExportedProgram

from d3d_edge import target
from d3d_edge.errors import LoweringError
from d3d_edge.files import files_below
from d3d_edge.runtimes import coreml, coreml_conversion
from d3d_edge.target import Precision
from tests import networks

ct = pytest.importorskip("coremltools")
PROGRAM_CLASS: Any = ct.converters.mil.mil.Program
TYPES: Any = ct.converters.mil.mil.types


@pytest.mark.parametrize(("program", "precision"), [(networks.quantized, "int8"), (networks.float_program, "float16")])
def test_it_is_validated_once_its_types_described_once_and_not_a_byte_is_another(
    program: Callable[[], ExportedProgram], precision: Precision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validate, validated = PROGRAM_CLASS.validate, 0
    describe, described = TYPES.type_mapping.get_type_info, Counter[object]()

    def counted(*words: Any, **options: Any) -> None:
        nonlocal validated
        validated += 1
        validate(*words, **options)

    def counted_type(kind: object) -> Any:
        described[kind] += 1
        return describe(kind)

    monkeypatch.setattr(PROGRAM_CLASS, "validate", counted)
    for module in (TYPES, TYPES.type_mapping):
        monkeypatch.setattr(module, "get_type_info", counted_type)
    counts, most, files = [], [], []
    for name in ("quick", "slow"):
        (tmp_path / name).mkdir()
        coreml.RUNTIME.lower(program(), tmp_path / name, target.load("ios"), precision=precision)
        assert PROGRAM_CLASS.validate is counted
        assert TYPES.type_mapping.get_type_info is counted_type
        counts.append(validated)
        most.append(max(described.values()))
        files.append([path.read_bytes() for path in sorted(files_below(tmp_path / name))])
        validated = 0
        described.clear()
        for quick in ("validated_at_the_end", "types_described_once"):
            monkeypatch.setattr(coreml_conversion, quick, nullcontext)
    assert counts[0] == 1
    assert counts[1] > 20
    assert most[0] < most[1] / 10
    assert files[0] == files[1]


def test_a_program_that_is_not_valid_at_the_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def invalid(*_: Any, **__: Any) -> None:
        raise ValueError("Var x not visible in the block")

    monkeypatch.setattr(PROGRAM_CLASS, "validate", invalid)
    with pytest.raises(LoweringError, match="coremltools cannot convert it: Var x not visible"):
        coreml.RUNTIME.lower(networks.float_program(), tmp_path, target.load("ios"), precision="float16")
