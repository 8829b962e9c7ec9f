"""Flow fields as colours, and a figure that shows them beside each other. Computes no flow and writes no file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from d3d_edge.video import lettering

Picture = npt.NDArray[np.uint8]
"""RGB [h, w, 3]."""
Field = npt.NDArray[np.floating[Any]]
"""Flow [h, w, 2] in pixels, x to the right and y down."""

_CELL_PX = 128
"""Shorter side of a field or frame in the figure; a title fits over it."""
_GAP_PX = 6
_LABEL_PX = 136
_TITLE_PX = 36
_WHEEL_PX = 72
_LETTERS_PX = 14
"""Size of the letters."""


class Shown(NamedTuple):
    """A row of the figure."""

    label: str
    frame: Picture
    fields: Sequence[Field]


def colours_of_flow(flow: Field, largest_px: float) -> Picture:
    """A colour for each vector: the hue is its direction, white is no motion, full colour `largest_px` and more."""
    x, y = flow[..., 0].astype(np.float32), flow[..., 1].astype(np.float32)
    hue = np.degrees(np.arctan2(y, x)) % 360
    saturation = np.minimum(np.hypot(x, y) / np.float32(largest_px), 1)
    hsv = np.stack([hue, saturation, np.ones_like(hue)], axis=-1).astype(np.float32)
    return np.rint(255 * cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)).astype(np.uint8)


def wheel(side_px: int) -> Picture:
    """The legend: each point has the colour of the motion from the middle to it, full at the rim; white outside."""
    axis = np.linspace(-1, 1, side_px, dtype=np.float32)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    colours = colours_of_flow(np.stack([x, y], axis=-1), 1.0)
    colours[np.hypot(x, y) > 1] = 255
    return colours


def figure(rows: Sequence[Shown], titles: Sequence[tuple[str, str]], largest_px: float) -> Picture:
    """Rows of a frame and its fields below `titles` of two lines each, with the colour wheel as the legend at the foot.

    All frames have one shape. Fields are enlarged without smoothing: what is seen is what was decoded.
    """
    height, width = rows[0].frame.shape[:2]
    cell = (_CELL_PX * width // min(height, width), _CELL_PX * height // min(height, width))
    lefts = [_LABEL_PX + column * (cell[0] + _GAP_PX) for column in range(len(titles))]
    down = _TITLE_PX + len(rows) * (cell[1] + _GAP_PX)
    image = np.full((down + _WHEEL_PX + _GAP_PX, lefts[-1] + cell[0] + _GAP_PX, 3), 255, np.uint8)
    texts = [
        _Text(text, (left, base), "ls", cell[0])
        for left, lines in zip(lefts, titles, strict=True)
        for text, base in zip(lines, (14, 31), strict=True)
    ]
    for number, row in enumerate(rows):
        top = _TITLE_PX + number * (cell[1] + _GAP_PX)
        texts.append(_Text(row.label, (_LABEL_PX - 2 * _GAP_PX, top + cell[1] / 2), "rm", _LABEL_PX - 3 * _GAP_PX))
        pictures = [cv2.resize(row.frame, cell, interpolation=cv2.INTER_LINEAR)]
        for field in row.fields:
            pictures.append(cv2.resize(colours_of_flow(field, largest_px), cell, interpolation=cv2.INTER_NEAREST))
        for left, picture in zip(lefts, pictures, strict=True):
            image[top : top + cell[1], left : left + cell[0]] = picture
            cv2.rectangle(image, (left - 1, top - 1), (left + cell[0], top + cell[1]), (170, 170, 170))
    image[down : down + _WHEEL_PX, lefts[0] : lefts[0] + _WHEEL_PX] = wheel(_WHEEL_PX)
    legend = f"direction of motion; white: none, rim: {largest_px:.1f} px and more"
    texts.append(_Text(legend, (lefts[0] + _WHEEL_PX + 2 * _GAP_PX, down + _WHEEL_PX / 2), "lm", image.shape[1]))
    return _lettered(image, texts)


class _Text(NamedTuple):
    """What is written where: Pillow's anchor, and the width to which it is cut."""

    text: str
    place: tuple[float, float]
    anchor: str
    width_px: float


def _lettered(image: Picture, texts: Sequence[_Text]) -> Picture:
    # Not cv2.putText, whose font has the letters of few languages.
    canvas = Image.fromarray(image)
    ink = ImageDraw.Draw(canvas)
    for text in texts:
        lettering.write(ink, text.place, text.text, _LETTERS_PX, (0, 0, 0), anchor=text.anchor, width_px=text.width_px)
    return np.array(canvas)
