"""Text on pictures, in a proportional font that comes with Pillow. Draws nothing else."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Colour = tuple[int, int, int] | tuple[int, int, int, int]

# Pillow's own font has Latin letters. For other scripts, what systems usually have, asked for when it is needed.
_OTHERS = ("DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "msyh.ttc")


@functools.cache
def _fonts(size_px: int) -> tuple[Font, ...]:
    """Pillow's font and the others that this system has."""
    fonts: list[Font] = [ImageFont.load_default(size_px)]
    for name in _OTHERS:
        try:
            fonts.append(ImageFont.truetype(name, size_px))
        except OSError:
            continue
    return tuple(fonts)


def font_for(text: str, size_px: int) -> Font:
    """The first font that has every letter of `text`; Pillow's own, with boxes for what it lacks, where none has."""
    fonts = _fonts(size_px) if not text.isascii() else (ImageFont.load_default(size_px),)
    return next((font for font in fonts if _has(font, text)), fonts[0])


def _has(font: Font, text: str) -> bool:
    # A letter that a font lacks is drawn as the one of a code point that no font has.
    missing = bytes(font.getmask("\U0010ffff"))
    return text.isascii() or not any(bytes(font.getmask(letter)) == missing for letter in text if not letter.isspace())


def fitted(text: str, size_px: int, width_px: float) -> str:
    """`text`, cut and ended by an ellipsis where it is wider than `width_px`."""
    font = font_for(text, size_px)
    if font.getlength(text) <= width_px:
        return text
    kept = next((n for n in range(len(text), 0, -1) if font.getlength(text[:n] + "…") <= width_px), 0)
    return text[:kept].rstrip() + "…"


def write(
    draw: ImageDraw.ImageDraw,
    place: Sequence[float],
    text: str,
    size_px: int,
    colour: Colour,
    *,
    anchor: str = "ls",
    width_px: float = float("inf"),
) -> None:
    """`text` at x, y; the anchor is Pillow's: 'ls' is the left end of the base line, 'rm' the middle of the right."""
    shown = fitted(text, size_px, width_px)
    draw.text((place[0], place[1]), shown, fill=colour, font=font_for(shown, size_px), anchor=anchor)


def blank(width: int, height: int, colour: Colour) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """An empty picture, RGB or RGBA as its colour is, and what draws on it."""
    image = Image.new("RGBA" if len(colour) == 4 else "RGB", (width, height), colour)
    return image, ImageDraw.Draw(image)
