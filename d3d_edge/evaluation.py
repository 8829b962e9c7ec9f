"""Evaluation: every system of a run on the same clips, as JSON first. Measures nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from d3d_edge.files import write_json
from d3d_edge.report import Environment, SkippedClip
from d3d_edge.schema import Schema

FILE_NAME = "evaluation.json"
Fusion = Literal["logits", "softmax"]


class System(Schema):
    """One network, or several whose answers are averaged."""

    name: str
    streams: tuple[str, ...]
    """The stages of the run whose networks answer."""
    inputs: tuple[Literal["RGB", "flow"], ...]
    """What it needs at inference."""
    parameters: int
    gmac: float
    """10^9 multiply-accumulates of its networks for one clip; computing flow is not counted."""
    right: int
    """Videos whose first answer is right."""
    top1: float
    top1_low: float
    """Lower end of Wilson's 95 % interval of top1."""
    top1_high: float
    top5: float
    mean_class: float
    """Top-1 of each class, averaged over classes."""


class Evaluation(Schema):
    """evaluation.json."""

    format: Literal["d3d-edge evaluation"] = "d3d-edge evaluation"
    format_version: Literal[1] = 1
    title: str
    classes: int
    split: str
    videos: int
    clips_per_video: int
    fusion: Fusion
    """What is averaged over the clips of a video and over the networks of a system."""
    chance: float
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
