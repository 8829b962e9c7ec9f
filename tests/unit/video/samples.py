"""Textures and specs that the tests of this folder share."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from d3d_edge.clip import ClipSpec, FlowSpec
from d3d_edge.manifest import Clip
from d3d_edge.progress import Silent
from d3d_edge.video import cache
from d3d_edge.video.cache import Prepared

VideoWriter = Callable[..., Path]
_EXTENSION = b"\x00\x00\x01\xb5"


def textured(height: int, width: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Smooth random colours with a full range: uint8 [height, width, 3]."""
    noise = np.random.default_rng(seed).normal(size=(height, width, 3))
    smooth = cv2.GaussianBlur(noise, (0, 0), 3, borderType=cv2.BORDER_REFLECT)
    return cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)  # type: ignore[call-overload,no-any-return]


def interlaced(path: Path) -> None:
    """Say in an MPEG-2 video, of a height that is a multiple of 32, that its pictures are of two fields each.

    The bits are progressive_sequence and progressive_frame of ISO/IEC 13818-2, 6.2.2.3 and 6.2.3.1.
    """
    data = bytearray(path.read_bytes())
    at = data.find(_EXTENSION)
    while at >= 0:
        kind = data[at + 4] >> 4
        if kind == 1:
            data[at + 5] &= ~0x08
        elif kind == 8:
            data[at + 8] &= ~0x80
        at = data.find(_EXTENSION, at + 4)
    path.write_bytes(data)


def declare(path: Path, duration_s: float) -> None:
    """Give a Matroska file another length (the element Duration, RFC 9559), as sound or a cut off end would."""
    data = bytearray(path.read_bytes())
    struct.pack_into(">d", data, data.index(b"\x44\x89\x88") + 3, 1e3 * duration_s)
    path.write_bytes(data)


def hide(path: Path, frames: int, rate_hz: int = 25) -> None:
    """Begin what an MP4 shows after its first `frames` (its edit list, ISO/IEC 14496-12), as ffmpeg -c copy does."""
    data = bytearray(path.read_bytes())
    edits, media = data.index(b"elst") + 12, data.index(b"mdhd") + 16
    (shown_ms,), (steps_a_s,) = struct.unpack_from(">I", data, edits), struct.unpack_from(">I", data, media)
    struct.pack_into(">II", data, edits, shown_ms - 1000 * frames // rate_hz, steps_a_s * frames // rate_hz)
    path.write_bytes(data)


def spec_of(**changes: Any) -> ClipSpec:
    fields: dict[str, Any] = {
        "frames": 8,
        "sampling": "uniform",
        "stride": None,
        "short_clips": "refuse",
        "short_side": 48,
        "interpolation": "area",
        "height": 40,
        "width": 40,
        "crop": "center",
        "colour": "rgb",
        "layout": "THWC",
        "dtype": "uint8",
    }
    return ClipSpec(**(fields | changes))


def prepared(clips: list[Clip], folder: Path, spec: ClipSpec, flow: FlowSpec, **options: Any) -> Prepared:
    """A cache in `folder`, filled by this process unless `options` say otherwise."""
    return cache.prepare(clips, spec, flow, folder, **({"workers": 0, "progress": Silent()} | options))
