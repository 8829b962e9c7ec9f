"""Textures and specs that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from d3d_edge.clip import ClipSpec

VideoWriter = Callable[..., Path]


def textured(height: int, width: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Smooth random colours with a full range: uint8 [height, width, 3]."""
    noise = np.random.default_rng(seed).normal(size=(height, width, 3))
    smooth = cv2.GaussianBlur(noise, (0, 0), 3, borderType=cv2.BORDER_REFLECT)
    return cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)  # type: ignore[call-overload,no-any-return]


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
