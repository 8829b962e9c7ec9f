"""Scores of classes over time, as a picture. Computes no score."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from d3d_edge.files import atomic_file
from d3d_edge.video import lettering

_WIDTH_PX, _HEIGHT_PX = 1600, 600
_LEFT_PX, _RIGHT_PX, _TOP_PX, _FOOT_PX = 90, 290, 96, 136
_SCALE = 2
"""Drawn this much larger and then averaged: Pillow's lines have no smooth edges."""
_PAPER, _INK, _SOFT, _LINE = (255, 255, 255), (28, 32, 38), (104, 112, 122), (226, 229, 233)
# Okabe and Ito's colours, told apart with any colour vision; without their yellow, too light for a line on white.
_COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (140, 100, 20))
_OTHER = (176, 182, 190)
_LIGHT = 400
"""Sum of a colour's parts from which on dark letters are read more easily on it."""


def shown_classes(scores: npt.NDArray[np.float64]) -> list[int]:
    """Which columns of `scores` [windows, classes] get a line: the likeliest at their best moment, best first."""
    order = np.argsort(-scores.max(axis=0), kind="stable")
    return [int(index) for index in order[: len(_COLOURS)]]


def draw(
    times_s: Sequence[float],
    scores: npt.NDArray[np.float64],
    labels: Sequence[str],
    *,
    span_s: tuple[float, float],
    title: str,
    subtitle: str,
) -> Image.Image:
    """A line for each of the likeliest classes, and below them which was first when.

    `times_s`: the middle of each window, rising. `scores`: float [windows, classes], 0 to 1. `span_s`: where the first
    window begins and the last ends; there the lines go on as they are.
    """
    big, ink = lettering.blank(_SCALE * _WIDTH_PX, _SCALE * _HEIGHT_PX, _PAPER)
    chart = _Chart(ink, times_s, span_s)
    chart.text(_LEFT_PX, 44, title, 26, _INK, width_px=_WIDTH_PX - 2 * _LEFT_PX)
    chart.text(_LEFT_PX, 72, subtitle, 17, _SOFT, width_px=_WIDTH_PX - 2 * _LEFT_PX)
    chart.grid()
    classes = shown_classes(scores)
    colour_of = dict(zip(classes, _COLOURS, strict=False))
    for index in reversed(classes):
        chart.line(scores[:, index], colour_of[index])
    chart.key([(labels[index], float(scores[:, index].max()), colour_of[index]) for index in classes])
    chart.strip(scores.argmax(axis=1), labels, colour_of)
    return big.resize((_WIDTH_PX, _HEIGHT_PX), Image.Resampling.LANCZOS)


def save(image: Image.Image, path: Path) -> None:
    """Write a PNG, whole or not at all.

    Raises:
        StorageError: it cannot be written.
    """
    with atomic_file(path) as partial:
        image.save(partial, format="PNG", optimize=True)


class _Chart:
    """Where times and scores lie on the picture, in pixels of the finished one."""

    def __init__(self, draw: ImageDraw.ImageDraw, times_s: Sequence[float], span_s: tuple[float, float]) -> None:
        self._draw = draw
        self._times_s = times_s
        self._begin_s = span_s[0]
        self._span_s = max(span_s[1] - span_s[0], 1e-3)
        self._bottom = _HEIGHT_PX - _FOOT_PX
        self._right = _WIDTH_PX - _RIGHT_PX

    def _x(self, time_s: float) -> float:
        return _LEFT_PX + (self._right - _LEFT_PX) * (time_s - self._begin_s) / self._span_s

    def _y(self, score: float) -> float:
        return self._bottom - (self._bottom - _TOP_PX) * score

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size_px: int,
        colour: lettering.Colour,
        *,
        anchor: str = "ls",
        width_px: float = float("inf"),
    ) -> None:
        place = (_SCALE * x, _SCALE * y)
        lettering.write(self._draw, place, text, _SCALE * size_px, colour, anchor=anchor, width_px=_SCALE * width_px)

    def _path(self, points: Sequence[tuple[float, float]], colour: lettering.Colour, width_px: float) -> None:
        scaled = [(_SCALE * x, _SCALE * y) for x, y in points]
        self._draw.line(scaled, fill=colour, width=round(_SCALE * width_px), joint="curve")

    def grid(self) -> None:
        for share in (0.0, 0.25, 0.5, 0.75, 1.0):
            self._path([(_LEFT_PX, self._y(share)), (self._right, self._y(share))], _LINE, 1)
            self.text(_LEFT_PX - 12, self._y(share), f"{share:.0%}", 16, _SOFT, anchor="rm")
        step_s = _round_step(self._span_s / 8)
        first = int(np.ceil(self._begin_s / step_s - 1e-6))
        for number in range(first, int((self._begin_s + self._span_s) / step_s + 1e-6) + 1):
            x = self._x(number * step_s)
            self._path([(x, self._bottom), (x, self._bottom + 6)], _SOFT, 1)
            self.text(x, _HEIGHT_PX - 30, f"{number * step_s:g} s", 16, _SOFT, anchor="ms")

    def line(self, scores: npt.NDArray[np.float64], colour: lettering.Colour) -> None:
        points = [(self._x(t), self._y(float(score))) for t, score in zip(self._times_s, scores, strict=True)]
        ends = [(_LEFT_PX, points[0][1])], [(self._right, points[-1][1])]
        self._path([*ends[0], *points, *ends[1]], colour, 3)
        if len(points) <= 60:  # more of them would run into one another
            for x, y in points:
                box = [_SCALE * value for value in (x - 4, y - 4, x + 4, y + 4)]
                self._draw.ellipse(box, fill=colour)

    def key(self, entries: Sequence[tuple[str, float, lettering.Colour]]) -> None:
        self.text(self._right + 36, _TOP_PX - 8, "class, highest score", 15, _SOFT)
        for row, (label, highest, colour) in enumerate(entries):
            y = _TOP_PX + 22 + 34 * row
            self._path([(self._right + 36, y), (self._right + 60, y)], colour, 5)
            self.text(self._right + 72, y, label, 19, _INK, anchor="lm", width_px=140)
            self.text(_WIDTH_PX - 24, y, f"{highest:.0%}", 19, _SOFT, anchor="rm")

    def strip(
        self, best: npt.NDArray[np.intp], labels: Sequence[str], colour_of: dict[int, tuple[int, int, int]]
    ) -> None:
        """The first class of each window, from the middle between it and the one before to the one after."""
        halves = np.add(self._times_s[1:], self._times_s[:-1]) / 2
        edges = [self._begin_s, *halves, self._begin_s + self._span_s]
        top, bottom = self._bottom + 28, self._bottom + 76
        self.text(_LEFT_PX - 12, (top + bottom) / 2, "first", 16, _SOFT, anchor="rm")
        starts = [0, *(np.flatnonzero(np.diff(best)) + 1), len(best)]
        for start, stop in pairwise(starts):
            index = int(best[start])
            left, right = self._x(edges[start]), self._x(edges[stop])
            colour = colour_of.get(index, _OTHER)
            end = max(left, right - 1)  # a window of a long video is narrower than a pixel
            self._draw.rectangle([_SCALE * left, _SCALE * top, _SCALE * end, _SCALE * bottom], fill=colour)
            if lettering.font_for(labels[index], 18).getlength(labels[index]) < right - left - 8:
                light = sum(colour) > _LIGHT
                middle = ((left + right) / 2, (top + bottom) / 2)
                self.text(*middle, labels[index], 18, _INK if light else _PAPER, anchor="mm")


def _round_step(least: float) -> float:
    """The least of 1, 2, 5 times a power of ten that is not below `least`."""
    power = 10.0 ** np.floor(np.log10(least))
    return float(next(times * power for times in (1, 2, 5, 10) if times * power >= least - 1e-12))
