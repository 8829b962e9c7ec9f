"""What is said of clips that are not used. Needs no torch, whose import takes longer than many a cache is filled in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from d3d_edge import manifest
from d3d_edge.manifest import Manifest, Source
from d3d_edge.progress import Progress
from d3d_edge.report import SkippedClip

NAMED = 10
"""Skipped clips, or classes, that are named."""


def note_left_aside(data: Path | Source, found: Manifest, progress: Progress) -> None:
    """Say what else lies in the folder of the clips that were `found`."""
    if text := manifest.left_aside(data, found):
        progress.note(text)


def note_skipped(skipped: Sequence[SkippedClip], progress: Progress) -> None:
    """Name the first clips that were skipped, and count the others: a big set lacks thousands."""
    for clip in skipped[:NAMED]:
        progress.note(f"skipped {clip.path}: {clip.reason}")
    if len(skipped) > NAMED:
        progress.note(f"skipped {len(skipped) - NAMED} more clips")
