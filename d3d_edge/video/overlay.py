"""Answers drawn on the frames they belong to. Decides neither what is answered nor where the video goes.

Below the frame's lower edge would change its shape, so a band lies over it: dark, fading upwards, legible on any video.
Small frames are enlarged first, since letters need pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from d3d_edge.video import lettering
from d3d_edge.video.decode import Frame

_SHORTEST_PX = 384
"""Shorter side of what is drawn on, at least, where the longer one allows it."""
_LONGEST_PX = 8190
"""Longer side of what is drawn on, unless the frame's is longer: FFmpeg's MPEG-4 takes no more (tried)."""
SHOWN = 3
"""Classes named: the first large, the others small."""
_WHITE, _GREY, _ACCENT = (255, 255, 255, 255), (205, 210, 218, 255), (255, 196, 61, 255)


class Score(NamedTuple):
    """A class and its probability, 0 to 1."""

    label: str
    probability: float


def canvas_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of the drawn frame: a whole multiple of the frame's, even, as encoders want it."""
    times = max(1, min(-(-_SHORTEST_PX // min(height, width)), _LONGEST_PX // max(height, width)))
    return times * height + times * height % 2, times * width + times * width % 2


class Overlay:
    """Draws on frames of one size. The band is drawn once for each answer, not for each frame."""

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = canvas_size(height, width)
        self._shown: tuple[tuple[Score, ...], str] | None = None
        self._band = np.zeros((0, self.width, 4), np.uint8)

    def draw(self, frame: Frame, scores: Sequence[Score], note: str) -> Frame:
        """`frame` [h, w, 3], enlarged to [height, width, 3], with the first of `scores` and a note in the corner.

        Without scores, the note alone is shown.
        """
        drawn = frame
        if frame.shape[:2] != (self.height, self.width):
            drawn = np.asarray(
                cv2.resize(frame, (self.width, self.height), interpolation=cv2.INTER_CUBIC), dtype=np.uint8
            )
        wanted = (tuple(scores[:SHOWN]), note)
        if wanted != self._shown:
            self._shown, self._band = wanted, self._banded(*wanted)
        top = self.height - len(self._band)
        below = drawn[top:].astype(np.float32)
        alpha = self._band[..., 3:].astype(np.float32) / 255
        mixed = below + alpha * (self._band[..., :3] - below)
        return np.concatenate([drawn[:top], np.rint(mixed).astype(np.uint8)])

    def _banded(self, scores: tuple[Score, ...], note: str) -> npt.NDArray[np.uint8]:
        """The band uint8 [h, width, 4] with its opacity."""
        unit = max(12, round(min(self.height, 0.75 * self.width) / 24))  # the height of a small letter's line
        pad = min(unit, self.width // 4)
        height = min(self.height, round(unit * (7.4 if scores else 3.2)))
        image, draw = lettering.blank(self.width, height, (8, 10, 14, 0))
        fade = 210 * np.sin(np.pi / 2 * np.minimum(np.linspace(0, 1.8, height), 1))
        image.putalpha(_column(fade, self.width))
        right = self.width - pad
        if not scores:
            lettering.write(draw, (pad, height - pad), note, unit, _GREY, width_px=right - pad)
            return np.asarray(image, dtype=np.uint8)
        first, *others = scores
        large = 2 * unit
        base = height - 3.1 * unit
        share = f"{first.probability:.0%}"
        room = right - pad - lettering.font_for(share, large).getlength(share) - unit
        lettering.write(draw, (pad, base), first.label, large, _WHITE, width_px=room)
        lettering.write(draw, (right, base), share, large, _ACCENT, anchor="rs")
        bar = (height - 2.55 * unit, height - 2.2 * unit)
        radius = (bar[1] - bar[0]) / 2
        draw.rounded_rectangle((pad, bar[0], right, bar[1]), radius, fill=(255, 255, 255, 70))
        filled = pad + max(2 * radius, first.probability * (right - pad))
        draw.rounded_rectangle((pad, bar[0], filled, bar[1]), radius, fill=_ACCENT)
        rest = "   ".join(f"{score.label} {score.probability:.0%}" for score in others)
        room = right - pad - lettering.font_for(note, unit).getlength(note) - unit
        lettering.write(draw, (pad, height - 0.8 * unit), rest, unit, _GREY, width_px=room)
        lettering.write(draw, (right, height - 0.8 * unit), note, unit, _GREY, anchor="rs")
        return np.asarray(image, dtype=np.uint8)


def _column(values: npt.NDArray[np.float64], width: int) -> Image.Image:
    """A picture of one channel whose rows have the given values."""
    return Image.fromarray(np.repeat(np.rint(values).astype(np.uint8)[:, None], width, axis=1))
