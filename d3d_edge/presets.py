"""Presets: sizes of network and clip that go together, by name. Data only: what a recipe says wins over its preset.

`nano` and `small` are chosen by measured time and accuracy on hand gestures, whose classes differ by motion: few
pixels, a small stem, no gates for `nano`, where they take time and give nothing, and for `small` more frames, which
help where the videos have them (docs/models.md). `medium` and `base` are steps up in pixels, for scenes in which what
moves is small in the picture, and are chosen by computation. `paper` is the published network, and is not meant for a
phone.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_serializer

from d3d_edge.errors import RecipeError
from d3d_edge.resources import near_miss
from d3d_edge.schema import Schema, merge


class StageWidths(Schema):
    """Multipliers of the channel counts of single stages, where they differ from that of the network.

    A stage is the layers between two changes of resolution, and has the name that theirs begin with.
    """

    Conv2d_1: float | None = Field(default=None, gt=0, le=2)
    Conv2d_2: float | None = Field(default=None, gt=0, le=2)
    Mixed_3: float | None = Field(default=None, gt=0, le=2)
    Mixed_4: float | None = Field(default=None, gt=0, le=2)
    Mixed_5: float | None = Field(default=None, gt=0, le=2)

    @model_serializer
    def given(self) -> dict[str, float]:
        """Those that differ, which is also all that is written."""
        return {stage: width for stage, width in self if width is not None}

    def __str__(self) -> str:
        return ",".join(f"{stage}={width:g}" for stage, width in self.given().items())


class Shape(Schema):
    """The sizes of a clip, and of the network of teacher and student alike."""

    frames: int = Field(ge=1)
    """T, the frames of a clip."""
    short_side: int = Field(ge=8)
    """Pixels of the shorter side after the resize, 8/7 of the crop as published (256 to 224)."""
    side: int = Field(ge=8)
    """Pixels of the square crop."""
    width: float = Field(gt=0)
    """Multiplier of every channel count."""
    stage_widths: StageWidths = StageWidths()
    stem: str
    """First layer, as in a recipe's network."""
    temporal_from: str
    """First layer whose separable convolutions have a temporal kernel."""
    gating: bool = True
    """Whether there are gates."""

    @classmethod
    def of(
        cls,
        frames: int,
        side: int,
        width: float,
        temporal_from: str = "Conv2d_2c_3x3",
        stem: str = "conv3d_k3",
        *,
        gating: bool = True,
        **stage_widths: float,
    ) -> Shape:
        """A shape whose resize leaves the margin around the crop that the published one has, 256 to 224."""
        return Shape(
            frames=frames,
            short_side=round(side * 8 / 7),
            side=side,
            width=width,
            stage_widths=StageWidths(**stage_widths),
            stem=stem,
            temporal_from=temporal_from,
            gating=gating,
        )

    def __str__(self) -> str:
        words = (f"{self.frames}x{self.side}x{self.side}", f"{self.width:g}", self.temporal_from, self.stem)
        return " ".join(filter(None, (*words, str(self.stage_widths), "" if self.gating else "ungated")))

    @property
    def network(self) -> dict[str, Any]:
        """The settings of a recipe's network."""
        network = {"width": self.width, "stem": self.stem, "temporal_from": self.temporal_from, "gating": self.gating}
        stages = self.stage_widths.given()
        return network | ({"stage_widths": stages} if stages else {})

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of a recipe."""
        return {
            "clip": {
                "frames": self.frames,
                "short_side": self.short_side,
                "height": self.side,
                "width": self.side,
            },
            "teacher": {"network": self.network},
            "student": {"network": self.network},
        }


class Preset(Shape):
    """A shape with a name."""

    description: str

    @property
    def shape(self) -> Shape:
        """The sizes alone."""
        return Shape.model_validate(self.model_dump(exclude={"description"}))


PRESETS = {
    "nano": Preset(
        description="16 small frames, a quarter of the channels: for continuous use, or small devices",
        frames=16,
        short_side=64,
        side=56,
        width=0.25,
        stem="conv3d_k3_3x3",
        temporal_from="Conv2d_2c_3x3",
        gating=False,
    ),
    "small": Preset(
        description="32 small frames, and gates: what moves fills much of the picture",
        frames=32,
        short_side=64,
        side=56,
        width=0.25,
        stem="conv3d_k3_3x3",
        temporal_from="Conv2d_2c_3x3",
    ),
    "medium": Preset(
        description="four times the pixels of nano, and the published stem: what moves may be smaller",
        frames=16,
        short_side=128,
        side=112,
        width=0.25,
        stem="conv3d_k3",
        temporal_from="Conv2d_2c_3x3",
    ),
    "base": Preset(
        description="16 larger frames, half of the channels, first layers 2D",
        frames=16,
        short_side=184,
        side=160,
        width=0.5,
        stem="conv3d_k3",
        temporal_from="Mixed_3b",
    ),
    "paper": Preset(
        description="S3D-G and D3D as published, in the form of TensorFlow's slim",
        frames=64,
        short_side=256,
        side=224,
        width=1.0,
        stem="conv3d_k3",
        temporal_from="Conv2d_2c_3x3",
    ),
}
"""From the least computation to the most. No stem takes one frame: at stride 2 in time it would drop every other."""


def apply(data: dict[str, Any], source: str) -> dict[str, Any]:
    """The settings `data` of a recipe over those of the preset it names under `preset`, if any; that key is gone then.

    Raises:
        RecipeError: there is no such preset; the hint has the nearest one and the whole list.
    """
    name = data.get("preset")
    settings = {key: value for key, value in data.items() if key != "preset"}
    if name is None:
        return settings
    if str(name) not in PRESETS:
        raise RecipeError(f"{source}: no preset named {str(name)!r}", hint=near_miss(str(name), list(PRESETS)))
    return merge(PRESETS[str(name)].settings, settings)
