"""The sensitivity of a network as a picture: a bar for each group, the worst first. Writes no file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
"""RGB [h, w, 3]."""

_COLOURS = {
    "stem": (148, 103, 189),
    "spatial": (31, 119, 180),
    "temporal": (255, 127, 14),
    "gate": (44, 160, 44),
    "pool": (127, 127, 127),
    "join": (140, 86, 75),
    "head": (214, 39, 40),
}
_BARS = 40
"""Drawn at most: the others cost less than these."""
_ROW_PX, _NAME_PX, _BAR_PX, _TOP_PX = 18, 330, 420, 74
_END_DB = 60.0
"""Where bars end; what is nearer to float than this does not show in any answer."""


class Bar(NamedTuple):
    """One group."""

    name: str
    kind: str
    sqnr_db: float


def figure(title: str, bars: Sequence[Bar], *, whole_db: float) -> Picture:
    """`bars` from the top, as long as their signal-to-noise ratio, and a line where the network all in INT8 is."""
    shown = bars[:_BARS]
    width = _NAME_PX + _BAR_PX + 70
    image = np.full((_TOP_PX + _ROW_PX * len(shown) + 34, width, 3), 255, np.uint8)
    _write(image, title, 8, 18)
    left = 8
    for kind in dict.fromkeys(bar.kind for bar in bars):
        cv2.rectangle(image, (left, 30), (left + 10, 40), _COLOURS[kind], cv2.FILLED)
        _write(image, kind, left + 14, 40)
        left += 28 + 8 * len(kind)
    foot = _TOP_PX + _ROW_PX * len(shown)
    for tick_db in range(0, int(_END_DB) + 1, 10):
        at = _NAME_PX + _length(tick_db)
        cv2.line(image, (at, _TOP_PX - 6), (at, foot), (220, 220, 220), 1)
        _write(image, str(tick_db), at - 8, foot + 14)
    _write(image, "dB", _NAME_PX + _BAR_PX + 24, foot + 14)
    for row, bar in enumerate(shown):
        top = _TOP_PX + _ROW_PX * row
        _write(image, bar.name if len(bar.name) <= 46 else bar.name[:44] + "..", 8, top + 13)
        end = _NAME_PX + _length(bar.sqnr_db)
        cv2.rectangle(image, (_NAME_PX, top + 3), (end, top + _ROW_PX - 3), _COLOURS[bar.kind], cv2.FILLED)
        _write(image, f"{bar.sqnr_db:.1f}", end + 4, top + 13)
    at = _NAME_PX + _length(whole_db)
    cv2.line(image, (at, _TOP_PX - 6), (at, foot), (0, 0, 0), 1)
    _write(image, f"all {whole_db:.1f}", max(at - 24, 8), _TOP_PX - 10)
    if len(bars) > len(shown):
        _write(image, f"and {len(bars) - len(shown)} groups that cost less", 8, foot + 14)
    return image


def _length(sqnr_db: float) -> int:
    return round(_BAR_PX * min(max(sqnr_db, 0.0), _END_DB) / _END_DB)


def _write(image: Picture, text: str, left: int, base: int) -> None:
    cv2.putText(image, text, (left, base), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
