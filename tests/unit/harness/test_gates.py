"""Gates: a bound that is just met passes; one that could not be measured is neither passed nor failed."""

from __future__ import annotations

from typing import Any

import pytest

from d3d_edge.harness import gates
from d3d_edge.recipe import GateSpec
from d3d_edge.report import Row
from d3d_edge.runner import Where

BOUNDS = GateSpec(top1_drop_points_max=2.0, agreement_min=0.99, size_bytes_max=1000)


def row(**values: Any) -> Row:
    base = {"name": "android", "role": "bundle", "precision": "int8", "where": Where.HOST_RUNTIME, "clips": 100}
    return Row(**{**base, **values})


FLOAT = row(name="float student", role="float", precision="float32", top1=0.92)


def verdicts(*rows: Row) -> dict[str, str]:
    return {gate.name: gate.verdict for gate in gates.judge(BOUNDS, rows)}


@pytest.mark.parametrize(
    ("top1", "agreement", "size_bytes", "expected"),
    [
        (0.90, 0.99, 1000, ("pass", "pass", "pass")),
        (0.94, 1.0, 10, ("pass", "pass", "pass")),
        (0.89, 0.98, 1001, ("fail", "fail", "fail")),
        (0.90, 0.98, 1000, ("pass", "fail", "pass")),
    ],
)
def test_verdicts(top1: float, agreement: float, size_bytes: int, expected: tuple[str, str, str]) -> None:
    found = verdicts(FLOAT, row(top1=top1, agreement=agreement, size_bytes=size_bytes))
    assert tuple(found.values()) == expected
    assert list(found) == ["top1_drop_points_max", "agreement_min", "size_bytes_max"]


def test_what_was_not_run_is_not_measured() -> None:
    assert set(verdicts(FLOAT, row(where=Where.NOT_RUN, clips=0)).values()) == {"not measured"}


def test_without_the_float_student_a_drop_is_not_measured() -> None:
    assert verdicts(row(top1=0.9, agreement=1.0, size_bytes=1))["top1_drop_points_max"] == "not measured"


@pytest.mark.parametrize("values", [{"role": "quantized"}, {"precision": "float32"}])
def test_only_int8_bundles_are_judged(values: dict[str, str]) -> None:
    assert not gates.judge(BOUNDS, [FLOAT, row(top1=0.1, agreement=0.1, size_bytes=9999, **values)])
