"""Whoever reads a chart by its axes, or by the lengths of its bars, reads the figures it was drawn from."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from d3d_edge.page import charts
from d3d_edge.page.charts import Point

NEAR_PX = 0.02
"""Places are written with two digits."""


class Scale(NamedTuple):
    """An axis as its ticks show it: their places and figures."""

    ticks: list[tuple[float, float]]
    logarithmic: bool = False

    def place(self, figure: float) -> float:
        (first_px, first), (last_px, last) = self.ticks[0], self.ticks[-1]
        if self.logarithmic:
            figure, first, last = math.log(figure), math.log(first), math.log(last)
        return first_px + (figure - first) / (last - first) * (last_px - first_px)


def drawn(chart: Markup) -> ET.Element:
    return ET.fromstring(str(chart))


def marks(root: ET.Element, name: str, kind: str) -> list[ET.Element]:
    return [mark for mark in root.iter(name) if kind in mark.get("class", "").split()]


def number(mark: ET.Element, name: str) -> float:
    return float(mark.attrib[name])


def scales(root: ET.Element, *, logarithmic: bool = False) -> tuple[Scale, Scale]:
    """The x and the y axis: a tick's mark is followed by its figure."""
    found: dict[str, list[tuple[float, float]]] = {"axis": [], "grid": []}
    for mark, text in pairwise(root):
        kind, said = mark.get("class", ""), text.text or ""
        if kind in found and text.get("class") == "tick":
            figure = float(said.removesuffix("%")) / (100 if said.endswith("%") else 1)
            found[kind].append((number(mark, "x1" if kind == "axis" else "y1"), figure))
    return Scale(found["axis"], logarithmic), Scale(found["grid"])


def point(latency_ms: float, top1: float) -> Point:
    return Point(f"{latency_ms} ms", latency_ms, top1, max(top1 - 0.1, 0.0), min(top1 + 0.05, 1.0), "host")


@pytest.mark.parametrize("times_ms", [(3.0, 4.0, 5.5), (1.0, 30.0, 400.0)], ids=["linear", "logarithmic"])
def test_models_stand_at_their_time_and_accuracy(times_ms: tuple[float, ...]) -> None:
    points = [point(time_ms, top1) for time_ms, top1 in zip(times_ms, (0.4, 0.75, 0.9), strict=True)]
    root = drawn(charts.scatter(points, chance=0.35))
    x, y = scales(root, logarithmic=max(times_ms) > 100)
    for circle, wanted in zip(root.iter("circle"), points, strict=True):
        assert number(circle, "cx") == pytest.approx(x.place(wanted.latency_ms), abs=NEAR_PX * 5)
        assert number(circle, "cy") == pytest.approx(y.place(wanted.top1), abs=NEAR_PX)
    for group, wanted in zip(marks(root, "g", "mark"), points, strict=True):
        ends = pytest.approx([y.place(wanted.low), y.place(wanted.high)], abs=NEAR_PX)
        whisker, *caps = marks(group, "line", "whisker")
        assert [number(whisker, "y1"), number(whisker, "y2")] == ends
        assert [number(cap, "y1") for cap in caps] == [number(cap, "y2") for cap in caps] == ends
    (chance,) = marks(root, "line", "chance")
    assert number(chance, "y1") == number(chance, "y2") == pytest.approx(y.place(0.35), abs=NEAR_PX)


def test_chance_below_the_chart_is_not_drawn() -> None:
    assert not marks(drawn(charts.scatter([point(3.0, 0.9)], chance=0.1)), "line", "chance")


def test_bars_of_a_histogram_hold_every_run_and_its_lines_stand_at_the_percentiles() -> None:
    times_ms = [10 + number % 7 + number / 100 for number in range(200)]
    root = drawn(charts.histogram(times_ms, p50=13.9, p90=16.5, name="host"))
    x, y = scales(root)
    bars = marks(root, "rect", "bar")
    zero = y.place(0)
    runs = [(number(bar, "y") - zero) / (y.place(1) - zero) for bar in bars]
    assert sum(runs) == pytest.approx(200, abs=0.1)
    width = number(bars[0], "width") + 1
    for bar, many in zip(bars, runs, strict=True):
        left, right = number(bar, "x") - 0.5, number(bar, "x") - 0.5 + width
        inside = sum(left - 0.1 <= x.place(time) <= right + 0.1 for time in times_ms)
        assert inside >= round(many) >= 1
        assert number(bar, "y") + number(bar, "height") == pytest.approx(zero, abs=NEAR_PX)
    places = [number(line, "x1") for line in marks(root, "line", "percentile")]
    assert places == pytest.approx([x.place(13.9), x.place(16.5)], abs=NEAR_PX)


def test_a_curve_goes_through_its_values() -> None:
    at_s, values = [0.0, 60.0, 120.0, 300.0], [10.0, 12.0, 30.0, 25.0]
    root = drawn(charts.curve(at_s, values, "Latency", "ms"))
    x, y = scales(root)
    (line,) = marks(root, "polyline", "line")
    places = [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]
    assert places == [
        pytest.approx((x.place(at / 60), y.place(value)), abs=0.1) for at, value in zip(at_s, values, strict=True)
    ]
    width, height = map(float, root.attrib["viewBox"].split()[2:])
    assert all(0 < at < width and 0 < value < height for at, value in places), "inside of the picture"


@pytest.mark.parametrize("long", [False, True], ids=["beside", "above"])
@given(rights=st.lists(st.tuples(st.integers(0, 9), st.none() | st.integers(0, 9)), min_size=1, max_size=30))
def test_a_class_s_bar_is_as_much_of_its_track_as_is_right(rights: list[tuple[int, int | None]], long: bool) -> None:
    rows = [(("wave" * 9 if long else "wave") + str(row), 9, *right) for row, right in enumerate(rights)]
    pictures = str(charts.per_class(rows, "host")).split("\n")
    found = [group for picture in pictures for group in ET.fromstring(picture).iter("g")]
    for group, (_, clips, right, student) in zip(found, rows, strict=True):
        (track,), (bar,) = marks(group, "rect", "track"), marks(group, "rect", "bar")
        assert (number(bar, "x"), number(bar, "y")) == (number(track, "x"), number(track, "y"))
        assert number(bar, "width") == pytest.approx(number(track, "width") * right / clips, abs=NEAR_PX)
        places = [number(line, "x1") - number(track, "x") for line in marks(group, "line", "student")]
        assert places == ([] if student is None else [pytest.approx(number(track, "width") * student / 9, abs=NEAR_PX)])


def test_a_confusion_s_cells_stand_in_the_row_of_the_class_and_the_column_of_the_answer() -> None:
    labels = ["wave", "clap", "point"]
    counts = [[4, 0, 1, 0], [2, 2, 0, 0], [0, 0, 0, 5]]
    root = drawn(charts.confusion(counts, labels, "host"))
    rows = {text.text: number(text, "y") for text in marks(root, "text", "tick") if text.get("text-anchor") == "end"}
    columns = {
        text.text: float(text.attrib["transform"].removeprefix("translate(").split()[0])
        for text in marks(root, "text", "tick")
        if text.get("transform")
    }
    assert (list(rows), list(columns)) == (labels, [*labels, "no answer"])
    cells = [(group, kind) for kind in ("hit", "miss") for group in marks(root, "g", kind)]
    assert len(cells) == sum(many > 0 for line in counts for many in line)
    for group, kind in cells:
        title, rect, shown = group
        words, _, many = (title.text or "").rpartition(": ")
        label, _, answer = words.partition(" answered as ")
        column = labels.index(answer) if answer in labels else 3
        assert int(many) == int(shown.text or "") == counts[labels.index(label)][column]
        assert (kind == "hit") == (label == answer)
        left, top, side = (number(rect, name) for name in ("x", "y", "width"))
        assert left < columns[answer] < left + side
        assert top < rows[label] < top + side
        share = int(many) / sum(counts[labels.index(label)])
        assert number(rect, "fill-opacity") == pytest.approx(0.18 + 0.82 * share, abs=0.01)


def test_bars_are_as_long_as_their_values_and_end_before_their_figures() -> None:
    rows = [("nano", 2.0, "2.0 MB"), ("small", 0.0, "0 MB"), ("base", 8.0, "8.0 MB")]
    root = drawn(charts.bars(rows, "Size"))
    found = marks(root, "rect", "bar")
    longest = number(found[2], "width")
    for bar, text, (_, value, _) in zip(found, marks(root, "text", "tick"), rows, strict=True):
        assert number(bar, "width") == pytest.approx(longest * value / 8, abs=NEAR_PX)
        assert number(text, "x") > number(bar, "x") + number(bar, "width")


@pytest.mark.parametrize(("classes", "widest"), [(40, "none"), (41, "100%")])
def test_a_confusion_of_many_classes_fits_the_page(classes: int, widest: str) -> None:
    counts = [[int(row == column) for column in range(classes)] for row in range(classes)]
    root = drawn(charts.confusion(counts, [f"class {number}" for number in range(classes)], "host"))
    assert root.attrib["style"].endswith(f"max-width:{widest}")
