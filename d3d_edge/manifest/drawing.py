"""Splits drawn by group and class, where the data gives none. Reads nothing."""

from __future__ import annotations

import random
from collections import Counter, defaultdict

from d3d_edge.errors import DataError
from d3d_edge.manifest.clips import Clip, Manifest, Split


def with_split(manifest: Manifest, *, val_share: float, test_share: float, seed: int) -> Manifest:
    """`manifest` with a split drawn where it has none: by group, stratified by class, decided by `seed`.

    Groups are dealt class by class (a group counts for its commonest class), so every class for which at least two
    groups count is in train and test. A group is never split.

    Raises:
        DataError: there is nothing to train on or nothing to test on, or a class is never trained on.
    """
    if not any(clip.split for clip in manifest.clips):
        manifest = _draw(manifest, val_share, test_share, seed)
    trained = {clip.label for clip in manifest.of("train")}
    if not trained or not manifest.of("test"):
        raise DataError(f"the split has no {'train' if not trained else 'test'} clips", hint="add clips or a split")
    # Of val too: there it would lower the accuracy by which weights are chosen, and be an answer that is never right.
    if untrained := sorted(set(manifest.labels) - trained):
        raise DataError(f"no training clip for the class {untrained[0]}", hint="add clips, or groups, of that class")
    return manifest


def _draw(manifest: Manifest, val_share: float, test_share: float, seed: int) -> Manifest:
    members: dict[str, list[Clip]] = defaultdict(list)
    for clip in manifest.clips:
        members[clip.group].append(clip)
    groups_of: dict[str, list[str]] = defaultdict(list)
    for group, clips in members.items():
        groups_of[Counter(clip.label for clip in clips).most_common(1)[0][0]].append(group)
    split_of: dict[str, Split] = {}
    for label in sorted(groups_of):
        groups = sorted(groups_of[label])
        random.Random(f"{seed}/{label}").shuffle(groups)
        tests = _share(len(groups), test_share)
        vals = _share(len(groups) - tests, val_share) if len(groups) - tests > 1 else 0
        for place, group in enumerate(groups):
            split_of[group] = "test" if place < tests else "val" if place < tests + vals else "train"
    drawn = (clip.model_copy(update={"split": split_of[clip.group]}) for clip in manifest.clips)
    return Manifest(clips=tuple(drawn))


def _share(count: int, share: float) -> int:
    """A share of `count` rounded, at least 1 (of more than one) and never all."""
    return 0 if share == 0 or count < 2 else min(max(1, round(count * share)), count - 1)
