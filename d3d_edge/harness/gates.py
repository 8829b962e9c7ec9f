"""Gates: the recipe's bounds against the rows of a report. A pure function of values.

A figure that is exact, such as a size, passes or fails. One that is estimated from clips has a third verdict: it
passes or fails where the clips show with 95 % confidence on which side of the bound it lies, and is undecided else.
The test is a score test, which still holds where hardly any clip tells two networks apart: Tango's for the difference
of paired shares (Statistics in Medicine 17, 1998, 891-908), and that behind Wilson's interval for a single share.
Either statistic grows with the root of the number of clips while their answers stay as they are, which gives the
number that would tell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from statistics import NormalDist

from d3d_edge.recipe import GateSpec
from d3d_edge.report import Gate, Row
from d3d_edge.target import QUANTIZED

CONFIDENCE = 0.95
"""That the figure lies on that side of the bound; both ends of the interval of a gate are such one-sided bounds."""
_Z = NormalDist().inv_cdf(CONFIDENCE)
_MOST_CLIPS = 1_000_000
"""Above it, no number of clips is named: the figure is as good as on the bound."""


def judge(bounds: GateSpec, rows: Iterable[Row]) -> tuple[Gate, ...]:
    """A verdict per bundle row and bound. The row must have `paired` for its loss to be judged.

    The bound on the size is that of INT8: files of other precisions are larger, and are there to compare with.
    """
    gates: list[Gate] = []
    for row in rows:
        if row.role == "bundle":
            gates.append(_top1_drop(row, bounds.top1_drop_points_max))
            gates.append(_agreement(row, bounds.agreement_min))
            if row.precision in QUANTIZED:
                gates.append(_size(row, bounds.size_bytes_max))
    return tuple(gates)


def _top1_drop(row: Row, bound: float) -> Gate:
    gate = Gate(name="top1_drop_points_max", row=row.name, bound=bound, value=None, verdict="not measured")
    if row.paired is None:
        return gate
    lost, gained, clips = row.paired.lost, row.paired.gained, row.clips
    if bound >= 100:
        return _exact(gate, 100 * (lost - gained) / clips, holds=True)

    def statistic(share: float) -> float:
        return tango(lost, gained, clips, share)

    low, high = _interval(statistic, -1.0, 1.0)
    return _estimated(gate, 100 * (lost - gained) / clips, (100 * low, 100 * high), clips, -statistic(bound / 100))


def _agreement(row: Row, bound: float) -> Gate:
    gate = Gate(name="agreement_min", row=row.name, bound=bound, value=None, verdict="not measured")
    if row.agreement is None:
        return gate
    share, clips = row.agreement, row.clips
    # No number of clips shows that a share is 1, so that bound can only mean the clips themselves.
    if bound <= 0 or bound >= 1:
        return _exact(gate, share, holds=share >= bound)

    def statistic(other: float) -> float:
        return (share - other) / math.sqrt(other * (1 - other) / clips)

    return _estimated(gate, share, _interval(statistic, 0.0, 1.0), clips, statistic(bound))


def _size(row: Row, bound: int) -> Gate:
    gate = Gate(name="size_bytes_max", row=row.name, bound=bound, value=None, verdict="not measured")
    return gate if row.size_bytes is None else _exact(gate, row.size_bytes, holds=row.size_bytes <= bound)


def _exact(gate: Gate, value: float, *, holds: bool) -> Gate:
    return gate.model_copy(update={"value": value, "verdict": "pass" if holds else "fail"})


def _estimated(gate: Gate, value: float, interval: tuple[float, float], clips: int, margin: float) -> Gate:
    """`margin`: how far on the good side of the bound the figure lies, in standard errors."""
    found: dict[str, object] = {"value": value, "low": interval[0], "high": interval[1], "clips": clips}
    if abs(margin) >= _Z:
        found["verdict"] = "pass" if margin > 0 else "fail"
    else:
        needed = math.ceil(clips * (_Z / margin) ** 2) if margin else _MOST_CLIPS
        found |= {"verdict": "undecided", "clips_needed": needed if needed < _MOST_CLIPS else None}
    return gate.model_copy(update=found)


def tango(lost: int, gained: int, clips: int, difference: float) -> float:
    """Tango's score statistic: standard errors by which the share lost less the share gained exceeds `difference`.

    The share gained is its most likely value if the true difference were that one. `difference` lies between -1 and 1.
    """
    a = 2 * clips
    b = (2 * clips - lost + gained) * difference - lost - gained
    c = -gained * difference * (1 - difference)
    share_gained = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
    variance = clips * (2 * share_gained + difference * (1 - difference))
    above = lost - gained - clips * difference
    if variance <= 0:
        return math.copysign(math.inf, above) if above else 0.0
    return above / math.sqrt(variance)


def _interval(statistic: Callable[[float], float], lowest: float, highest: float) -> tuple[float, float]:
    """The values that `statistic`, which falls with its argument, does not reject at either end."""
    from scipy.optimize import brentq

    edge = 1e-12
    low, high = lowest + edge, highest - edge
    return (
        brentq(lambda value: statistic(value) - _Z, low, high) if statistic(low) > _Z else lowest,
        brentq(lambda value: statistic(value) + _Z, low, high) if statistic(high) < -_Z else highest,
    )
