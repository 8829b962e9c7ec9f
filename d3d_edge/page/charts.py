"""The charts of the page, each a small function from figures to inline SVG. Computes no figure of a report."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from markupsafe import Markup

from d3d_edge.page import svg
from d3d_edge.page.svg import Axis, Box, add, frame, markup, picture

_WIDTH, _HEIGHT = 420.0, 290.0
"""Wide enough for two on a desk, and letters of 13 px stay legible where a phone shows the chart narrower."""
_LEFT, _RIGHT, _TOP, _FOOT = 48.0, 14.0, 30.0, 46.0
CLASSES_NAMED = 40
"""Of a confusion matrix: of more, rows and columns are too narrow for names, and it takes the width that there is."""
CLASSES_A_PICTURE = 20
"""Of a chart of classes: no more fit on a printed page."""
_CURVE_POINTS = 400
"""About as many as a curve has pixels: a device notes each run, and an hour has a million."""
_LETTERS = 18
"""Letters of a class's name beside a row or column."""
_NAME_PX = 145.0
"""Widest name beside a bar: a longer one leaves too little of the picture to the bar."""
_MODEL_LETTERS = 22
"""Letters of a model's name beside its mark: as many as fit on one side of it, wherever it is."""


class Point(NamedTuple):
    """A model in the scatter."""

    name: str
    latency_ms: float
    top1: float
    low: float
    high: float
    kind: str
    """Its class in style.css: where it was measured."""


def scatter(points: Sequence[Point], chance: float | None) -> Markup:
    """Accuracy against latency, with the interval of each accuracy."""
    times = [point.latency_ms for point in points]
    wide = max(times) / min(times) > 4
    # Room for the name of the slowest, to the right of its mark.
    longest = max(svg.width_of(_short(point.name, _MODEL_LETTERS)) for point in points)
    name = min(0.4, (longest + 12) / (_WIDTH - _LEFT - _RIGHT))
    begin = min(times) / (1.6 if wide else 1.1)
    span = max(times) / begin
    end = begin * (span ** (1 / (1 - name)) if wide else 1 + (span - 1) / (1 - name))
    x = Axis(begin, end, _LEFT, _WIDTH - _RIGHT, wide)
    low = min(point.low for point in points)
    y = Axis(max(0.0, low - 0.05), 1.0, _HEIGHT - _FOOT, _TOP)
    listed = "; ".join(f"{point.name} {point.top1:.1%} in {point.latency_ms:.3g} ms" for point in points)
    root = picture(_WIDTH, _HEIGHT, "Accuracy against latency", listed)
    frame(root, x, y, "milliseconds for one clip, median" + (" (log scale)" if wide else ""), "top-1", percent=True)
    if chance is not None and chance > y.low:
        add(root, "line", class_="chance", x1=x.begin_px, x2=x.end_px, y1=y(chance), y2=y(chance))
    taken = [Box(x(p.latency_ms) - 6, y(p.top1) - 6, x(p.latency_ms) + 6, y(p.top1) + 6) for p in points]
    within = Box(_LEFT, _TOP - 12, _WIDTH, _HEIGHT - _FOOT)
    for point in points:
        at, middle = x(point.latency_ms), y(point.top1)
        group = add(root, "g", class_=f"mark {point.kind}")
        add(
            group,
            "title",
            f"{point.name}: {point.top1:.1%} ({point.low:.1%} to {point.high:.1%}), {point.latency_ms:.3g} ms",
        )
        add(group, "line", class_="whisker", x1=at, x2=at, y1=y(point.low), y2=y(point.high))
        for end in (point.low, point.high):
            add(group, "line", class_="whisker", x1=at - 4, x2=at + 4, y1=y(end), y2=y(end))
        add(group, "circle", cx=at, cy=middle, r=5.5)
        shown = _short(point.name, _MODEL_LETTERS)
        left, base, box = svg.label_place(at, middle, shown, taken, within)
        taken.append(box)
        add(root, "text", shown, class_=f"label halo {point.kind}", x=left, y=base)
    return markup(root)


def histogram(times_ms: Sequence[float], p50: float, p90: float, name: str) -> Markup:
    """How often a run took how long. Runs beyond the chart, at 1.5 times the 98th percentile, are counted in words."""
    ordered = sorted(times_ms)
    end = 1.5 * ordered[int(0.98 * (len(ordered) - 1))]
    shown = [time for time in ordered if time <= end]
    low, high = shown[0], max(shown[-1], shown[0] * 1.02)
    bins = min(40, max(6, round(len(shown) ** 0.5 * 1.6)))
    counts = [0] * bins
    for time in shown:
        counts[min(bins - 1, int((time - low) / (high - low) * bins))] += 1
    height = 210.0
    x = Axis(low, high, _LEFT, _WIDTH - _RIGHT)
    y = Axis(0, max(counts) * 1.08, height - _FOOT, _TOP)
    title = f"Latency of {name}"
    root = picture(_WIDTH, height, title, f"{len(times_ms)} runs, median {p50:.3g} ms, 90th percentile {p90:.3g} ms")
    beyond = len(ordered) - len(shown)
    more = f"; {beyond} beyond, up to {ordered[-1]:.3g}" if beyond else ""
    frame(root, x, y, f"milliseconds for one clip{more}", "runs")
    step = (x.end_px - x.begin_px) / bins
    for number, many in enumerate(counts):
        if many:
            left = x.begin_px + number * step
            add(root, "rect", class_="bar", x=left + 0.5, y=y(many), width=step - 1, height=y.begin_px - y(many))
    p50_at, p90_at = x(min(max(p50, low), high)), x(min(max(p90, low), high))
    for text, at, anchor in (("p50", p50_at, "end"), ("p90", p90_at, "start")):
        add(root, "line", class_="percentile", x1=at, x2=at, y1=y.begin_px, y2=y.end_px - 4)
        inside = min(max(at, x.begin_px + 26), x.end_px - 26)
        add(
            root,
            "text",
            text,
            class_="tick",
            x=inside + (-4 if anchor == "end" else 4),
            y=y.end_px + 2,
            text_anchor=anchor,
        )
    return markup(root)


def curve(at_s: Sequence[float], values: Sequence[float], title: str, unit: str) -> Markup:
    """Something over minutes of sustained running, medians where there is much of it; its scale begins at zero."""
    height = 210.0
    many = max(1, len(values) // _CURVE_POINTS)
    parts = range(0, len(values), many)
    minutes = [median(at_s[part : part + many]) / 60 for part in parts]
    values = [median(values[part : part + many]) for part in parts]
    x = Axis(0, max((*minutes, 1e-3)), _LEFT, _WIDTH - _RIGHT)
    y = Axis(0, max(values) * 1.1 or 1.0, height - _FOOT, _TOP)
    said = f"from {values[0]:.3g} to {values[-1]:.3g} {unit} in {minutes[-1]:.1f} minutes"
    root = picture(_WIDTH, height, title, said)
    frame(root, x, y, "minutes without a pause", unit)
    points = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in zip(minutes, values, strict=True))
    add(root, "polyline", class_="line", points=points)
    return markup(root)


def per_class(rows: Sequence[tuple[str, int, int, int | None]], name: str) -> Markup:
    """Share right of each class: (label, clips, right, right of the float student), with a mark at the student's.

    Long names stand above their bars, whole. Many classes are several pictures, since none may be longer than a page.
    """
    beside = _beside([label for label, *_ in rows])
    parts = [rows[first : first + CLASSES_A_PICTURE] for first in range(0, len(rows), CLASSES_A_PICTURE)]
    return Markup("\n").join(_some_classes(part, name, beside) for part in parts)


def _some_classes(
    rows: Sequence[tuple[str, int, int, int | None]], name: str, beside: tuple[bool, float, float]
) -> Markup:
    above, step, left = beside
    height = step * len(rows) + 34
    x = Axis(0, 1, left, _WIDTH - 58)
    root = picture(
        _WIDTH,
        height,
        f"Accuracy of {name} by class",
        "; ".join(f"{label} {right} of {clips}" for label, clips, right, _ in rows),
    )
    for number, (label, clips, right, before) in enumerate(rows):
        top = 8 + step * number
        group = add(root, "g")
        said = "" if before is None else f"; the float student {before}"
        add(group, "title", f"{label}: {right} of {clips} right{said}")
        top = _named_bar(group, label, top, left, above)
        add(group, "rect", class_="track", x=left, y=top + 2, width=x.end_px - left, height=16, rx=3)
        add(group, "rect", class_="bar", x=left, y=top + 2, width=x(right / clips) - left, height=16, rx=3)
        if before is not None:
            at = x(before / clips)
            add(group, "line", class_="student", x1=at, x2=at, y1=top - 1, y2=top + 21)
        add(group, "text", f"{right} / {clips}", class_="tick", x=_WIDTH - 6, y=top + 14, text_anchor="end")
    for share in (0, 0.5, 1):
        anchor = "start" if above and not share else "middle"
        add(root, "text", f"{share:.0%}", class_="tick", x=x(share), y=height - 8, text_anchor=anchor)
    return markup(root)


def confusion(counts: Sequence[Sequence[int]], labels: Sequence[str], name: str) -> Markup:
    """True classes as rows, answers as columns; the last column may be 'no answer'. Zeroes are left white."""
    rows, columns = len(counts), len(counts[0])
    named = max(rows, columns) <= CLASSES_NAMED
    cell = 32.0 if rows <= 14 else 22.0 if named else max(4.0, 640.0 / columns)
    margin = 12 + max(svg.width_of(_short(label)) for label in labels) if named else 14.0
    width, height = margin + columns * cell + 4, margin + rows * cell + 4
    wrong = sum(many for row, line in enumerate(counts) for column, many in enumerate(line) if row != column)
    total = sum(map(sum, counts))
    root = picture(
        width, height, f"Confusion matrix of {name}", f"{total - wrong} of {total} clips are on the diagonal"
    )
    widest = "none" if named else "100%"  # names are to be read, in a box that scrolls
    root.set("style", f"width:{width:.0f}px;max-width:{widest}")
    add(root, "rect", class_="track", x=margin, y=margin, width=columns * cell, height=rows * cell)
    for row, line in enumerate(counts):
        most = max(sum(line), 1)
        if named:
            add(
                root,
                "text",
                _short(labels[row]),
                class_="tick",
                x=margin - 6,
                y=margin + (row + 0.5) * cell + 4,
                text_anchor="end",
            )
        for column, many in enumerate(line):
            if many:
                left, top = margin + column * cell, margin + row * cell
                kind = "hit" if row == column else "miss"
                group = add(root, "g", class_=kind)
                answer = labels[column] if column < len(labels) else "no answer"
                add(group, "title", f"{labels[row]} answered as {answer}: {many}")
                share = 0.18 + 0.82 * many / most
                add(group, "rect", x=left + 0.5, y=top + 0.5, width=cell - 1, height=cell - 1, fill_opacity=share)
                if named:
                    strong = " strong" if share > 0.6 else ""
                    add(
                        group,
                        "text",
                        str(many),
                        class_=f"count{strong}",
                        x=left + cell / 2,
                        y=top + cell / 2 + 4,
                        text_anchor="middle",
                    )
    if named:
        for column in range(columns):
            x, y = margin + (column + 0.5) * cell + 4, margin - 7
            text = _short(labels[column]) if column < len(labels) else "no answer"
            add(root, "text", text, class_="tick", transform=f"translate({x:.1f} {y:.1f}) rotate(-90)")
    return markup(root)


def bars(rows: Sequence[tuple[str, float, str]], title: str) -> Markup:
    """Horizontal bars from zero: (name, value, value in words). Long names stand above their bars, whole."""
    above, step, left = _beside([name for name, *_ in rows])
    height = step * len(rows) + 12
    x = Axis(0, max(max(value for _, value, _ in rows), 1e-12), left, _WIDTH - 70)
    root = picture(_WIDTH, height, title, "; ".join(f"{name} {shown}" for name, _, shown in rows))
    for number, (name, value, shown) in enumerate(rows):
        top = _named_bar(root, name, 6 + step * number, left, above)
        add(root, "rect", class_="bar", x=left, y=top + 2, width=max(0.0, x(value) - left), height=16, rx=3)
        add(root, "text", shown, class_="tick", x=max(left, x(value)) + 6, y=top + 14)
    return markup(root)


def _beside(names: Sequence[str]) -> tuple[bool, float, float]:
    """Whether `names` stand above their bars, the height of one, and where bars begin."""
    longest = max(map(svg.width_of, names))
    return (True, 40.0, 2.0) if longest > _NAME_PX else (False, 26.0, 14 + longest)


def _named_bar(parent: svg.Element, name: str, top: float, left: float, above: bool) -> float:
    """Write the name of a bar, and return where the bar itself begins."""
    if above:
        add(parent, "text", _short(name, 48), class_="label", x=left, y=top + 12)
        return top + 16
    add(parent, "text", name, class_="label", x=left - 8, y=top + 14, text_anchor="end")
    return top


def _short(text: str, letters: int = _LETTERS) -> str:
    """`text`, or its beginning and its end: names of classes often begin alike, and those of devices end alike."""
    begin = letters // 2
    return text if len(text) <= letters else text[:begin] + "…" + text[begin + 1 - letters :]
