"""Figures as words: what the template's filters do. Knows no report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from statistics import median
from typing import Any

from d3d_edge.sensitivity import Cost

MISSING = "\u2013"
"""A dash, for what was not measured."""


def percent(value: float | None) -> str:
    """A share with one decimal."""
    return MISSING if value is None else f"{100 * value:.1f} %"


def megabytes(value: int | None) -> str:
    """Bytes as megabytes of a million."""
    return MISSING if value is None else f"{value / 1e6:.2f}"


def milliseconds(value: float | None) -> str:
    """Three figures."""
    return (
        MISSING
        if value is None
        else f"{value:.0f}"
        if value >= 100
        else f"{value:.1f}"
        if value >= 10
        else f"{value:.2f}"
    )


def points(value: float | None) -> str:
    """Percentage points with their sign."""
    return MISSING if value is None else "0.0" if abs(value) < 0.05 else f"{value:+.1f}".replace("-", "\u2212")


def figure(value: Any) -> str:
    """Any figure or word of a table."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def noise(cost: Cost) -> float:
    """Root mean square of the change of the logits, as a share of theirs: 20 dB are 10 %."""
    return float(10 ** (-cost.sqnr_db / 20))


def noise_bars(costs: Sequence[Cost]) -> list[tuple[str, float, str]]:
    """The worst parts first, at most 12: name, noise, noise in words."""
    worst = sorted(costs, key=lambda cost: cost.sqnr_db)[:12]
    return [(cost.name, noise(cost), f"{100 * noise(cost):.2g} %") for cost in worst]


_UNITS = {"points": "points", "bytes": "MB"}


def gate_name(name: str) -> str:
    """A gate's name in words: top1_drop_points_max is 'top1 drop, points, at most'."""
    *words, way = name.split("_")
    unit = next((_UNITS[word] for word in words if word in _UNITS), "")
    said = " ".join(word for word in words if word not in _UNITS)
    return ", ".join(part for part in (said, unit, {"max": "at most", "min": "at least"}.get(way, way)) if part)


def gate_value(value: float | None, name: str, bound: float | None = None) -> str:
    """A gate's value or bound, in the unit of its name; a value with as many digits as tell it from its bound."""
    if value is None:
        return MISSING
    unit, digits = (1e6, 2) if "bytes" in name else (1, 1) if "points" in name else (1, 3)
    while value != bound and bound is not None and digits < 9:
        if f"{value / unit:.{digits}f}" != f"{bound / unit:.{digits}f}":
            break
        digits += 1
    return f"{value / unit:.{digits}f}"


def clip_name(key: str) -> str:
    """The last two parts of a clip's path."""
    return "/".join(PurePosixPath(key).parts[-2:])


FILTERS: dict[str, Callable[..., Any]] = {
    "percent": percent,
    "megabytes": megabytes,
    "ms": milliseconds,
    "points": points,
    "figure": figure,
    "gate_name": gate_name,
    "gate_value": gate_value,
    "noise_bars": noise_bars,
    "clip_name": clip_name,
    "median": median,
}
