"""The clips of a run, decoded once: which can be used, and how a split is read."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from d3d_edge.distill import distributed
from d3d_edge.errors import DataError, RecipeError, listed
from d3d_edge.manifest import Clip, Manifest, Split
from d3d_edge.pipeline.notes import NAMED, note_skipped
from d3d_edge.progress import Progress
from d3d_edge.recipe import Recipe, TrainSpec
from d3d_edge.runs import Run, fingerprint
from d3d_edge.schema import Schema
from d3d_edge.video import cache
from d3d_edge.video.cache import CachedClip
from d3d_edge.video.datasets import Batch, ClipDataset

_SHOWN = 3
"""Copies of one video that are named."""


@dataclass(frozen=True)
class RunData:
    """The clips of a run that can be used, decoded."""

    recipe: Recipe
    labels: tuple[str, ...]
    clips: tuple[CachedClip, ...]

    @property
    def manifest(self) -> Manifest:
        """The same clips, undecoded."""
        return Manifest(clips=tuple(cached.clip for cached in self.clips))

    def of(self, split: Split) -> tuple[CachedClip, ...]:
        """The clips of one split."""
        return tuple(cached for cached in self.clips if cached.clip.split == split)

    def label_indices(self, split: Split) -> NDArray[np.int64]:
        """The class of each clip of one split."""
        return np.array([self.labels.index(cached.clip.label) for cached in self.of(split)], dtype=np.int64)

    def content(self) -> list[list[str]]:
        """What decides training: content, label and split of each clip, in order."""
        return [[cached.content, cached.clip.label, cached.clip.split] for cached in self.clips]

    def hash_of(self, split: Split) -> str:
        """Hash of what decides the figures of one split."""
        return fingerprint([[cached.content, cached.clip.label] for cached in self.of(split)])

    def dataset(self, split: Split, *, training: bool = False, still: bool = False) -> ClipDataset:
        """A split: augmented for training, else centre-cropped; `still` gives single frames."""
        return ClipDataset(
            self.of(split),
            self.labels,
            self.recipe.clip,
            self.recipe.augment if training else None,
            seed=self.recipe.seed,
            still=still,
        )


def prepare(
    run: Run, cache_dir: Path, *, workers: int, strict: bool, progress: Progress, only: Split | None = None
) -> RunData:
    """Decode every clip of a run, or of `only` one split, and compute its flow, where the cache does not have them.

    Clips that cannot be read are left out and recorded in the run; with `strict` the first is an error. What killed
    commands left half-written in the run is deleted.

    Raises:
        RecipeError: a stage keeps its best weights, and there is no val split.
        DataError: a clip cannot be read and `strict` is given, or too few clips are left.
        StorageError: the cache or the run cannot be written.
    """
    _check_keep(run)
    run.check_writable()
    run.sweep()
    clips = run.data.of(only) if only else run.data.clips
    prepared = cache.prepare(
        clips, run.recipe.clip, run.recipe.flow, cache_dir, workers=workers, strict=strict, progress=progress
    )
    skipped = prepared.skipped
    note_skipped(skipped, progress)
    usable = run.data.without(clip.path for clip in skipped)
    splits: tuple[Split, ...] = (only,) if only else ("train", "test")
    for split in splits:
        if lost := sorted(set(run.data.labels) - {clip.label for clip in usable.of(split)}):
            had = {clip.label for clip in run.data.of(split)}
            if broken := [label for label in lost if label in had]:
                keys = {clip.key for clip in run.data.of(split) if clip.label == broken[0]}
                reason = next(clip.reason for clip in skipped if clip.path in keys)
                raise DataError(
                    f"no readable {split} clip is left of the class {broken[0]}, e.g. {reason}",
                    hint="mend or replace such clips, or change what the recipe asks of them",
                )
    # Not before: without its disk a run would lack every clip from now on.
    asked = {clip.key for clip in clips}
    others = tuple(clip for clip in run.skipped() if clip.path not in asked) if only else ()
    run.record_skipped(others + skipped)
    data = RunData(run.recipe, run.data.labels, prepared.clips)
    if not only:
        note_doubtful(data, progress)
    return data


def note_doubtful(data: RunData, progress: Progress) -> None:
    """Name what makes results say less than they seem to, or worse than need be: classes that are not tested, that look
    alike, or that are each other's mirror images; and copies of a video."""
    if untested := sorted(set(data.labels) - {cached.clip.label for cached in data.of("test")}):
        progress.note(f"no test clip, so nothing is said of: {listed(untested, NAMED)}")
    alike: dict[str, list[str]] = defaultdict(list)
    for label in data.labels:
        alike[_looks(label)].append(label)
    if twins := [labels for labels in alike.values() if len(labels) > 1]:
        progress.note(f"classes whose names look alike: {', '.join(map(repr, twins[0]))}")
    if data.recipe.augment.flip:
        of_name = {label.casefold(): label for label in data.labels}
        for name, label in of_name.items():
            if "left" in name and (other := of_name.get(name.replace("left", "right"))):
                progress.note(
                    f"augment.flip shows {label} mirrored, perhaps as {other}: unless a mirrored clip keeps its label, "
                    "set augment.flip: false"
                )
                break
    tested = {cached.video_sha256 for cached in data.of("test")}
    trained = {cached.video_sha256 for cached in data.of("train")}
    if trained and trained <= tested:
        progress.note(
            "each training video is in the test split too, so d3d-edge quantize will have no clips to calibrate on: "
            "give the clips of one video one group"
        )
    # Copies, and not paths, which a list must not hold twice. Of two parts of a video, each may be of another class.
    for what, same, field in (("under two labels", "content", "label"), ("in two splits", "video_sha256", "split")):
        copies: dict[str, list[Clip]] = defaultdict(list)
        for cached in data.clips:
            copies[getattr(cached, same)].append(cached.clip)
        if several := [clips for clips in copies.values() if len({getattr(clip, field) for clip in clips}) > 1]:
            first: dict[str, Clip] = {}
            for clip in several[0]:
                first.setdefault(getattr(clip, field), clip)
            # One of each before the others, since those that agree are no example.
            shown = sorted(several[0], key=lambda clip: clip is not first[getattr(clip, field)])[:_SHOWN]
            example = ", ".join(f"{clip.key} ({getattr(clip, field)})" for clip in shown)
            progress.note(f"videos that stand {what}: {len(several)}, e.g. {example}")


def _looks(label: str) -> str:
    """What two labels have in common that a reader takes for one: forms of letters, case, spaces, what has no width."""
    plain = unicodedata.normalize("NFKC", label).casefold()
    return "".join(letter for letter in plain if not letter.isspace() and unicodedata.category(letter) != "Cf")


def batch_size(dataset: ClipDataset, spec: TrainSpec) -> int:
    """Clips in a training batch of all processes together: the recipe's number for each, or fewer in a small set.

    Raises:
        DataError: there are more processes than clips.
    """
    processes = distributed.processes()
    if processes > len(dataset):
        raise DataError(f"{len(dataset)} training clips are too few for {processes} processes", hint="start fewer")
    return processes * min(spec.batch_size, len(dataset) // processes)


def epochs(dataset: ClipDataset, size: int, share: tuple[int, int] = (0, 1)) -> Callable[[int, int], Iterator[Batch]]:
    """The training batches of an epoch from one of them on, `size` clips each; of these only the i-th of n parts, if
    `share` is (i, n)."""
    pinned = distributed.device().type == "cuda"
    loaders = distributed.loaders()
    return lambda epoch, first: dataset.batches(
        size, epoch=epoch, first=first, shuffle=True, drop_last=True, workers=loaders, share=share, pinned=pinned
    )


def _check_keep(run: Run) -> None:
    """The best weights need clips to choose by; this is said before hours of training."""
    for name, spec in _train_specs(run.recipe):
        if spec.keep == "best" and not run.data.of("val"):
            raise RecipeError(
                f"{name}.keep is 'best', but the data has no val split to choose by",
                hint=f"--set {name}.keep=last, or give some clips the split val",
            )


def _train_specs(section: Schema, at: str = "") -> Iterator[tuple[str, TrainSpec]]:
    """Every TrainSpec of a recipe, with its dotted name."""
    for name, value in section:
        if isinstance(value, TrainSpec):
            yield at + name, value
        elif isinstance(value, Schema):
            yield from _train_specs(value, f"{at}{name}.")
        elif name == "baselines":
            for baseline, spec in value.items():
                yield from _train_specs(spec, f"{at}{name}.{baseline}.")
