"""The curve of latency over frames, pixels and width as one SVG file that stands alone. Measures nothing."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from typing import NamedTuple

from d3d_edge.page.svg import Axis, Element, add, frame, picture

_WIDTH, _HEIGHT = 300.0, 300.0
"""Of one panel."""
_LEFT, _RIGHT, _TOP, _FOOT = 48.0, 12.0, 44.0, 46.0
_HEAD, _KEY = 26.0, 26.0
_LETTER = 8.0
"""What a letter of the title takes at most, on average: the picture is as wide as its title."""
_COLOURS = ("#1f63b5", "#b3261e", "#14713f", "#8a5300", "#6a4fb3", "#5a6470")
"""Of the lines, by the number of frames; after the last, the first again."""
_STYLE = """
svg { background: #fff; font: 13px system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; }
text { fill: #1b2027; } .tick, .name { fill: #5a6470; font-size: 12px; }
.grid { stroke: #dfe3e8; } .axis { stroke: #5a6470; } .budget { stroke: #1b2027; stroke-dasharray: 4 4; }
polyline { fill: none; stroke-width: 2; } .head { font-weight: 600; }
"""


class Place(NamedTuple):
    """One measured network."""

    frames: int
    side: int
    width: float
    latency_ms: float


def latency_curves(title: str, places: Sequence[Place], budget_ms: float | None) -> str:
    """A panel for each width, in it a line for each number of frames: milliseconds over pixels, both logarithmic.

    Lines join what was measured, and say nothing of what lies between. `budget_ms` is drawn across.
    """
    widths = sorted({place.width for place in places})
    frames = sorted({place.frames for place in places})
    every = [place.latency_ms for place in places] + ([budget_ms] if budget_ms else [])
    sides = [place.side for place in places]
    listed = "; ".join(f"{p.frames}x{p.side}x{p.side} of width {p.width:g} {p.latency_ms:.3g} ms" for p in places)
    across = max(_WIDTH * len(widths), _LETTER * len(title))
    root = picture(across, _HEAD + _HEIGHT + _KEY, title, listed)
    root.set("xmlns", "http://www.w3.org/2000/svg")
    add(root, "style", _STYLE)
    add(root, "text", title, class_="head", x=8, y=18)
    for number, width in enumerate(widths):
        left = _WIDTH * number
        x = Axis(min(sides) / 1.1, max(sides) * 1.1, left + _LEFT, left + _WIDTH - _RIGHT, logarithmic=True)
        y = Axis(min(every) / 1.2, max(every) * 1.2, _HEAD + _HEIGHT - _FOOT, _HEAD + _TOP, logarithmic=True)
        frame(root, x, y, "pixels of each side", f"ms, width {width:g}", at=sorted(set(sides)))
        if budget_ms:
            add(root, "line", class_="budget", x1=x.begin_px, x2=x.end_px, y1=y(budget_ms), y2=y(budget_ms))
        for colour, many in enumerate(frames):
            line = sorted(place for place in places if (place.width, place.frames) == (width, many))
            _line(root, x, y, line, _COLOURS[colour % len(_COLOURS)])
    _key(root, frames, budget_ms)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _line(root: Element, x: Axis, y: Axis, line: Sequence[Place], colour: str) -> None:
    points = " ".join(f"{x(place.side):.1f},{y(place.latency_ms):.1f}" for place in line)
    add(root, "polyline", points=points, stroke=colour)
    for place in line:
        dot = add(root, "circle", cx=x(place.side), cy=y(place.latency_ms), r=3.5, fill=colour)
        shape = f"{place.frames}x{place.side}x{place.side}, width {place.width:g}"
        add(dot, "title", f"{shape}: {place.latency_ms:.3g} ms")


def _key(root: Element, frames: Sequence[int], budget_ms: float | None) -> None:
    left, base = 8.0, _HEAD + _HEIGHT + 14
    for colour, many in enumerate(frames):
        add(root, "circle", cx=left + 4, cy=base - 4, r=4, fill=_COLOURS[colour % len(_COLOURS)])
        add(root, "text", f"{many} frames", x=left + 13, y=base)
        left += 90
    if budget_ms:
        add(root, "line", class_="budget", x1=left, x2=left + 24, y1=base - 4, y2=base - 4)
        add(root, "text", f"budget, {budget_ms:g} ms", x=left + 30, y=base)
