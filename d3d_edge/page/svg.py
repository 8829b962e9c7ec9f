"""SVG elements and axes. ElementTree escapes whatever stands in them, and colours are classes of style.css."""

from __future__ import annotations

import math
import unicodedata
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

Element = ET.Element
_TICKS = 5


def add(parent: Element, name: str, text: str = "", **attributes: str | float) -> Element:
    """A new element in `parent`; `class_` is class, and _ in names becomes -."""
    named = {key.rstrip("_").replace("_", "-"): _shown(value) for key, value in attributes.items()}
    element = ET.SubElement(parent, name, named)
    element.text = text or None
    return element


def _shown(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")


def picture(width: float, height: float, title: str, description: str) -> Element:
    """An empty chart. A reader that cannot see it hears title and description."""
    root = ET.Element("svg", {"viewBox": f"0 0 {_shown(width)} {_shown(height)}", "role": "img", "class": "chart"})
    root.set("style", f"max-width:{_shown(1.25 * width)}px")
    root.set("aria-label", f"{title}. {description}")
    add(root, "title", title)
    return root


def markup(root: Element) -> Markup:
    """The element as a part of a page."""
    return Markup(ET.tostring(root, encoding="unicode", short_empty_elements=False))


@dataclass(frozen=True)
class Axis:
    """From a figure to a place in pixels."""

    low: float
    high: float
    begin_px: float
    end_px: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (
            (math.log(v) for v in (self.low, self.high, value))
            if self.logarithmic
            else (
                self.low,
                self.high,
                value,
            )
        )
        share = (value - low) / (high - low) if high > low else 0.5
        return self.begin_px + share * (self.end_px - self.begin_px)

    def ticks(self) -> list[float]:
        """Round figures on the axis, about _TICKS."""
        if self.logarithmic:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for steps in ((1, 2, 5), (1, 3), (1,)):
                found = [step * 10.0**power for power in powers for step in steps]
                found = [value for value in found if self.low <= value <= self.high]
                if len(found) <= _TICKS + 1:
                    break
            return found
        step = round_step((self.high - self.low) / _TICKS)
        first = math.ceil(self.low / step - 1e-9)
        return [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]


def round_step(least: float) -> float:
    """The least of 1, 2, 5 times a power of ten that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least)) if least > 0 else 1.0
    return next(times * power for times in (1, 2, 5, 10) if times * power >= least * (1 - 1e-9))


def frame(
    root: Element,
    x: Axis,
    y: Axis,
    x_name: str,
    y_name: str,
    *,
    percent: bool = False,
    at: Sequence[float] | None = None,
) -> None:
    """Grid, ticks and names of the axes; a share is shown as percent. `at`: where the ticks of x are to be."""
    for value in y.ticks():
        add(root, "line", class_="grid", x1=x.begin_px, x2=x.end_px, y1=y(value), y2=y(value))
        shown = f"{100 * value:g}%" if percent else f"{value:g}"
        add(root, "text", shown, class_="tick", x=x.begin_px - 7, y=y(value) + 4, text_anchor="end")
    for value in x.ticks() if at is None else at:
        add(root, "line", class_="axis", x1=x(value), x2=x(value), y1=y.begin_px, y2=y.begin_px + 4)
        add(root, "text", f"{value:g}", class_="tick", x=x(value), y=y.begin_px + 18, text_anchor="middle")
    add(root, "line", class_="axis", x1=x.begin_px, x2=x.end_px, y1=y.begin_px, y2=y.begin_px)
    middle = (x.begin_px + x.end_px) / 2
    add(root, "text", x_name, class_="name", x=middle, y=y.begin_px + 36, text_anchor="middle")
    add(root, "text", y_name, class_="name", x=x.begin_px - 34, y=y.end_px - 12)


@dataclass(frozen=True)
class Box:
    """A rectangle on the chart."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )


def width_of(text: str) -> float:
    """About the pixels that `text` takes in letters of 13 px: no font is asked, since each browser takes its own."""
    return sum(map(_letter_px, text))


def _letter_px(letter: str) -> float:
    if letter in "MWmw@%":
        return 12.5
    if letter.isupper():
        return 9.8
    return 13.5 if unicodedata.east_asian_width(letter) in "WF" else 7.6


def label_place(x: float, y: float, text: str, taken: Sequence[Box], within: Box) -> tuple[float, float, Box]:
    """Where to write `text` near a point so that it meets none of `taken`: x of its left end, base line, its box.

    To the right of the point if there is room, else higher or lower, else to the left; the least bad place is taken.
    """
    width, height = width_of(text) + 4, 14.0
    steps = (4.0, -11.0, 19.0, -26.0, 34.0, -41.0, 49.0)
    places = [(9.0, down) for down in steps] + [(-width - 9.0, down) for down in steps]

    def box(place: tuple[float, float]) -> Box:
        left, base = x + place[0], y + place[1]
        return Box(left, base - 11, left + width, base - 11 + height)

    def badness(place: tuple[float, float]) -> int:
        own = box(place)
        inside = within.left <= own.left and own.right <= within.right
        inside = inside and within.top <= own.top and own.bottom <= within.bottom
        return sum(own.meets(other) for other in taken) + 9 * (not inside)

    best = min(places, key=badness)
    return x + best[0], y + best[1], box(best)
