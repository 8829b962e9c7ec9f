"""Gates: the recipe's bounds against the rows of a report. A pure function of values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from d3d_edge.recipe import GateSpec
from d3d_edge.report import Gate, Row

# A share of clips is a ratio of integers; this keeps 2 points of 100 clips from being 2.0000000000000018 points.
_ROUNDING = 1e-9


def judge(bounds: GateSpec, rows: Iterable[Row]) -> tuple[Gate, ...]:
    """A verdict per int8 bundle row and bound. The float student is the row of role 'float', if there is one."""
    rows = tuple(rows)
    student = next((row.top1 for row in rows if row.role == "float"), None)
    gates: list[Gate] = []
    for row in rows:
        if row.role != "bundle" or row.precision != "int8":
            continue
        drop = None if student is None or row.top1 is None else 100 * (student - row.top1)
        gates.append(_gate("top1_drop_points_max", row, bounds.top1_drop_points_max, drop, at_most=True))
        gates.append(_gate("agreement_min", row, bounds.agreement_min, row.agreement, at_most=False))
        gates.append(_gate("size_bytes_max", row, bounds.size_bytes_max, row.size_bytes, at_most=True))
    return tuple(gates)


def _gate(name: str, row: Row, bound: float, value: float | None, *, at_most: bool) -> Gate:
    verdict: Literal["pass", "fail", "not measured"] = "not measured"
    if value is not None:
        margin = bound - value if at_most else value - bound
        verdict = "pass" if margin >= -_ROUNDING else "fail"
    return Gate(name=name, row=row.name, bound=bound, value=value, verdict=verdict)
