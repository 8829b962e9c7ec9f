"""Evaluation: every system of a run on the same clips, as JSON first. Measures nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from d3d_edge.files import write_json
from d3d_edge.report import Environment, Share, SkippedClip
from d3d_edge.schema import Schema
from d3d_edge.timing import Count

FILE_NAME = "evaluation.json"
Fusion = Literal["logits", "softmax"]


class System(Schema):
    """One network, or several whose answers are averaged."""

    name: str
    streams: tuple[str, ...]
    """The stages of the run whose networks answer."""
    inputs: tuple[Literal["RGB", "flow"], ...]
    """What it needs at inference."""
    parameters: Count
    gmac: float = Field(ge=0)
    """10^9 multiply-accumulates of its networks for one clip; computing flow is not counted."""
    right: Count
    """Videos whose first answer is right."""
    top1: Share
    top1_low: Share
    """Lower end of Wilson's 95 % interval of top1."""
    top1_high: Share
    top5: Share
    mean_class: Share
    """Top-1 of each class, averaged over classes."""


class Evaluation(Schema):
    """evaluation.json."""

    format: Literal["d3d-edge evaluation"] = "d3d-edge evaluation"
    format_version: Literal[1] = 1
    title: str
    classes: Count
    split: str
    videos: Count
    clips_per_video: Count
    fusion: Fusion
    """What is averaged over the clips of a video and over the networks of a system."""
    chance: Share
    """Top-1 of always naming the commonest class."""
    environment: Environment
    systems: tuple[System, ...]
    skipped: tuple[SkippedClip, ...] = ()
    notes: tuple[str, ...] = ()

    def write(self, path: Path) -> None:
        """Write as JSON, whole or not at all.

        Raises:
            StorageError: it cannot be written; what was there before is unchanged.
        """
        write_json(path, self.model_dump(mode="json"))
