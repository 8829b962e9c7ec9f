"""The clips that bundles are measured on: which they are, how they are read, and what a report calls them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from d3d_edge import manifest
from d3d_edge.bundle import Bundle
from d3d_edge.errors import DataError
from d3d_edge.manifest import Clip, Source
from d3d_edge.recipe import Recipe
from d3d_edge.report import ReportClip, SkippedClip
from d3d_edge.resources import near_miss
from d3d_edge.video.preprocess import load_clip


def clips_of(
    labels: Sequence[str], trained_on: str, rules: Recipe, data: Path | Source, split: str
) -> tuple[tuple[Clip, ...], tuple[str, ...]]:
    """The clips to measure on, and notes about them. A missing split is drawn as training drew it.

    Raises:
        DataError: the data cannot be used, the split is empty, or a label is not among `labels`.
    """
    found = manifest.load(data, classes=1)  # the network knows more
    notes: tuple[str, ...] = ()
    if split == "all":
        clips = found.clips
        notes = ("every clip was measured, whatever its split: in the data of training, those trained on too",)
    else:
        ways = rules.split
        found = manifest.drawn(found, val_share=ways.val_share, test_share=ways.test_share, seed=ways.seed)
        clips = tuple(clip for clip in found.clips if clip.split == split)
        if trained_on not in (found.data_hash(), found.data_hash(in_order=True)):
            notes = ("these are not the clips and splits of training; some may have been trained on",)
    if not clips:
        raise DataError(f"{data} has no {split} clips", hint="--split chooses another split")
    if unknown := sorted({clip.label for clip in clips} - set(labels)):
        raise DataError(
            f"{data} has the label {unknown[0]!r}, which the bundles do not know", hint=near_miss(unknown[0], labels)
        )
    return clips, notes


class Decoding:
    """Clips decoded one at a time, by the bundle's ClipSpec; those that cannot be are kept apart."""

    def __init__(self, clips: Sequence[Clip], bundle: Bundle, strict: bool) -> None:
        self._clips, self._spec, self._strict = clips, bundle.manifest.clip, strict
        self.used: list[Clip] = []
        self.skipped: list[SkippedClip] = []

    def decoded(self) -> Iterator[NDArray[np.uint8]]:
        """Clips uint8 [T, H, W, C]; `used` grows with each."""
        for clip in self._clips:
            try:
                frames = load_clip(Path(clip.path), self._spec, start_s=clip.start_s, end_s=clip.end_s)
            except DataError as error:
                if self._strict:
                    raise
                self.skipped.append(SkippedClip(path=clip.key, reason=str(error)))
                continue
            self.used.append(clip)
            yield frames


def named(clips: Sequence[Clip], labels: NDArray[np.int64], root: Path) -> tuple[ReportClip, ...]:
    """Clips as a report has them; `root` is that of `root_of`."""
    return tuple(ReportClip(key=_key(clip, root), label=int(label)) for clip, label in zip(clips, labels, strict=True))


def root_of(data: Path | Source) -> Path:
    """The folder that the keys of the clips in a report start from."""
    source = data if isinstance(data, Source) else Source(path=data)
    path = (source.videos or source.path).resolve()
    return path if path.is_dir() else path.parent


def _key(clip: Clip, root: Path) -> str:
    path = Path(clip.path)
    return (path.relative_to(root).as_posix() if path.is_relative_to(root) else clip.path) + clip.span
