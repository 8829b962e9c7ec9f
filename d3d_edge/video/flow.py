"""Optical flow between the sampled frames of a clip, as the teacher sees it. Must not read files or store anything."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from d3d_edge.clip import FlowSpec
from d3d_edge.errors import DataError
from d3d_edge.video.preprocess import mirrored

Real = TypeVar("Real", bound=np.floating[Any])
_PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}
_DIS_SIDE_MIN_PX = 12
"""DIS refuses frames whose both sides are shorter."""
_DIS_PATCH_PX = 8
_DIS_FINEST = {"ultrafast": 2, "fast": 2, "medium": 1}
"""The pyramid's level at which DIS ends, which has half the pixels of a side per level (OpenCV, dis_flow.cpp)."""


def flow_of_frames(frames: npt.NDArray[np.uint8], spec: FlowSpec) -> npt.NDArray[np.float32]:
    """The flow of `frames` uint8 [T, h, w, 3] RGB: float32 [T, h, w, 2] in [-1, 1], in units of `spec.bound_px`.

    Field t moves frame t to frame t + 1: x to the right, y down. The last field is the one before it once more, so
    that flow and RGB have the same T and one network shape serves both streams. A single frame has no motion: zeros.

    Raises:
        DataError: the frames are too small for the method.
    """
    if spec.method == "dis" and max(frames.shape[1:3]) < _DIS_SIDE_MIN_PX:
        raise DataError(f"DIS flow needs frames of at least {_DIS_SIDE_MIN_PX} pixels")
    if spec.preset and _is_too_low(frames.shape[1], frames.shape[2], spec.preset):
        raise DataError(
            f"DIS flow of preset {spec.preset} reads beyond frames as wide and low as {frames.shape[1]}x"
            f"{frames.shape[2]}",
            hint="a larger clip.short_side, or flow.method=farneback",
        )
    fields = np.zeros((*frames.shape[:3], 2), dtype=np.float32)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    dis = cv2.DISOpticalFlow.create(_PRESETS[spec.preset]) if spec.preset else None
    for t, (now, following) in enumerate(pairwise(grey)):
        # DIS takes a first guess from its output argument: zeros, so that a field depends on its two frames only.
        fields[t] = dis.calc(now, following, fields[t].copy()) if dis else _farneback(now, following, fields[t].copy())
    if len(frames) > 1:
        fields[-1] = fields[-2]
    return np.clip(fields / np.float32(spec.bound_px), -1, 1)


def _is_too_low(height: int, width: int, preset: str) -> bool:
    """Whether DIS would give no numbers for such frames, or crash.

    It begins at a level that the width alone decides, about log2 of a 20th of it, and finds out only at the finest
    level whether a patch has room. Of 3807 random sizes OpenCV 5.0 failed at 1136, and these are those of this rule (a
    one-off script).
    """
    if min(height, width) >= _DIS_PATCH_PX << _DIS_FINEST[preset] or width < 20:
        return False
    coarsest = int(math.log2(width / 20))
    return height >> coarsest < _DIS_PATCH_PX


def _farneback(now: cv2.typing.MatLike, following: cv2.typing.MatLike, out: cv2.typing.MatLike) -> cv2.typing.MatLike:
    """Farneback's method with the arguments of OpenCV's own example (samples/python/opt_flow.py)."""
    return cv2.calcOpticalFlowFarneback(
        now, following, out, pyr_scale=0.5, levels=3, winsize=15, iterations=3, poly_n=5, poly_sigma=1.2, flags=0
    )


def flip_flow(flow: npt.NDArray[Real]) -> npt.NDArray[Real]:
    """The flow of the mirrored video: [..., h, w, 2] mirrored left to right, and x negated."""
    flipped = mirrored(flow)
    np.negative(flipped[..., 0], out=flipped[..., 0])
    return flipped
