"""ClipSpec: how a video becomes the tensor that the model takes. The contract only; `video.preprocess` carries it out.

Shape legend, used everywhere: B clips in a batch, T frames, H rows, W columns, C colours (R, G, B).
`clip: uint8 [T, H, W, C] RGB` is what every exported model takes, and `flow: float [T, H, W, 2]` has x (to the right)
and y (down), in units of the flow bound.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from d3d_edge.schema import Schema

MAX_CLIP_BYTES = 2**31
"""Of a clip: what a clip takes is held several times, and in float."""


class ClipSpec(Schema):
    """The preprocessing contract. Nothing that changes a pixel has a default."""

    frames: int = Field(ge=1, le=512)
    """T, the frames the model sees."""
    sampling: Literal["uniform", "dense"]
    """uniform: T frames spread evenly over the whole video. dense: every `stride`-th frame around its middle."""
    stride: int | None = Field(default=None, ge=1)
    """Step between frames for dense sampling; not given for uniform sampling."""
    short_clips: Literal["refuse", "repeat_last"]
    """What happens to a video with fewer frames than needed: it is an error, or its last frame is held."""
    short_side: int = Field(ge=8, le=4096)
    """Pixels of the shorter side after the resize, which keeps the aspect ratio."""
    interpolation: Literal["area", "bilinear"]
    """area averages all source pixels when shrinking (OpenCV INTER_AREA); bilinear is OpenCV INTER_LINEAR."""
    height: int = Field(ge=8, le=4096)
    """H, rows of the crop."""
    width: int = Field(ge=8, le=4096)
    """W, columns of the crop."""
    crop: Literal["center"]
    """Where the crop is taken outside training."""
    colour: Literal["rgb"]
    """Order of the colours."""
    layout: Literal["THWC"]
    """Order of the axes."""
    dtype: Literal["uint8"]
    """Type of a value; the range is 0 to 255, and normalisation is inside the model."""

    @model_validator(mode="after")
    def _consistent(self) -> ClipSpec:
        if (self.sampling == "dense") != (self.stride is not None):
            raise ValueError("stride is given for dense sampling, and only then")
        if math.prod(self.shape) > MAX_CLIP_BYTES:
            size = "x".join(map(str, self.shape))
            raise ValueError(f"a clip of {size} has {math.prod(self.shape)} bytes, at most {MAX_CLIP_BYTES} are taken")
        if self.short_side < min(self.height, self.width):
            raise ValueError(f"the crop {self.height}x{self.width} does not fit into a short side of {self.short_side}")
        return self

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """[T, H, W, C] of a clip."""
        return (self.frames, self.height, self.width, 3)

    @property
    def frames_needed(self) -> int:
        """Frames a video must have when short clips are refused."""
        return self.frames if self.stride is None else (self.frames - 1) * self.stride + 1


class FlowSpec(Schema):
    """Optical flow between neighbouring sampled frames, computed on grey frames after the resize."""

    method: Literal["dis", "farneback"]
    """OpenCV's dense inverse search, or Farneback's polynomial expansion."""
    preset: Literal["ultrafast", "fast", "medium"] | None = None
    """Preset of DIS; not given for Farneback."""
    bound_px: float = Field(ge=0.01, le=4096)
    """Displacements are clipped to +-this many pixels and divided by it (I3D uses 20)."""

    @model_validator(mode="after")
    def _consistent(self) -> FlowSpec:
        if (self.method == "dis") != (self.preset is not None):
            raise ValueError("preset is given for the method dis, and only then")
        return self
