"""The curve of latency: every measured point is drawn, at its place."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from d3d_edge.page.curves import Place, latency_curves

SVG = "{http://www.w3.org/2000/svg}"
PLACES = [
    Place(frames, side, width, frames * side * side * width / 4000)
    for frames in (8, 16)
    for side in (112, 56, 80)
    for width in (0.25, 0.5)
]


def drawn(budget_ms: float | None = None) -> ET.Element:
    return ET.fromstring(latency_curves("One <clip>", PLACES, budget_ms).partition("\n")[2])


def test_every_point_is_drawn_and_told() -> None:
    root = drawn()
    told = [dot.findtext(f"{SVG}title") for dot in root.iter(f"{SVG}circle")]
    assert sorted(filter(None, told)) == sorted(
        f"{p.frames}x{p.side}x{p.side}, width {p.width:g}: {p.latency_ms:.3g} ms" for p in PLACES
    )
    assert root.findtext(f"{SVG}title") == "One <clip>"


def test_lines_rise_with_pixels_and_frames() -> None:
    """A line for each width and number of frames, from the fewest pixels to the most; up is less in SVG."""
    lines = [
        [tuple(map(float, point.split(","))) for point in line.get("points", "").split()]
        for line in drawn().iter(f"{SVG}polyline")
    ]
    assert [len(line) for line in lines] == [3, 3, 3, 3]
    assert all(line == sorted(line, key=lambda point: (point[0], -point[1])) for line in lines)
    fewer, more = lines[:2]
    assert all(below[1] > above[1] and below[0] == above[0] for below, above in zip(fewer, more, strict=True))


@pytest.mark.parametrize(("budget_ms", "lines"), [(None, 0), (30.0, 3)])
def test_the_budget_is_a_line_in_each_panel_and_in_the_key(budget_ms: float | None, lines: int) -> None:
    root = drawn(budget_ms)
    assert len([line for line in root.iter(f"{SVG}line") if line.get("class") == "budget"]) == lines
    assert ("budget, 30 ms" in [text.text for text in root.iter(f"{SVG}text")]) == bool(lines)


def test_a_picture_is_as_wide_as_its_title() -> None:
    def width(title: str) -> float:
        root = ET.fromstring(latency_curves(title, PLACES, None).partition("\n")[2])
        return float(root.get("viewBox", "").split()[2])

    assert width("short") == 600
    assert width("m" * 100) >= 750
