"""Splits drawn by group and class, where the data gives none. Reads nothing."""

from __future__ import annotations

import random
import unicodedata
from collections import Counter, defaultdict

from d3d_edge.errors import DataError
from d3d_edge.manifest.clips import Clip, Manifest, Split

_Counts = dict[str, Counter[str]]
"""How many clips of each class each group has."""


def with_split(manifest: Manifest, *, val_share: float, test_share: float, seed: int) -> Manifest:
    """`manifest` with a split to train and test on, drawn where it has none (`drawn`).

    Raises:
        DataError: there is nothing to train on or nothing to test on, a class is never trained on, or the names of two
            classes look the same.
    """
    manifest = drawn(manifest, val_share=val_share, test_share=test_share, seed=seed)
    trained = {clip.label for clip in manifest.of("train")}
    if not trained or not manifest.of("test"):
        raise DataError(f"the split has no {'train' if not trained else 'test'} clips", hint="add clips or a split")
    alike = Counter(unicodedata.normalize("NFC", label) for label in manifest.labels)
    if doubled := [name for name, classes in alike.items() if classes > 1]:
        raise DataError(
            f"two classes are called {doubled[0]}, with its letters encoded in two ways (Unicode's NFC and NFD)",
            hint="give the folders, or the labels, one name",
        )
    # Of val too: there it would lower the accuracy by which weights are chosen, and be an answer that is never right.
    if untrained := sorted(set(manifest.labels) - trained):
        raise DataError(f"no training clip for the class {untrained[0]}", hint="add clips, or groups, of that class")
    return manifest


def drawn(manifest: Manifest, *, val_share: float, test_share: float, seed: int) -> Manifest:
    """`manifest` with a split drawn where it has none: by group, stratified by class, decided by `seed`.

    A group is never split. Where each has clips of one class, every class with at least two groups is in train and
    test. Where groups have clips of several, as people do who act out all classes, shares are those of the clips.
    """
    if any(clip.split for clip in manifest.clips):
        return manifest
    members: dict[str, list[Clip]] = defaultdict(list)
    for clip in manifest.clips:
        members[clip.group].append(clip)
    counts = {group: Counter(clip.label for clip in clips) for group, clips in members.items()}
    draw = _by_class if all(len(labels) == 1 for labels in counts.values()) else _across_classes
    split_of = draw(counts, val_share, test_share, seed)
    return Manifest(clips=tuple(clip.model_copy(update={"split": split_of[clip.group]}) for clip in manifest.clips))


def _by_class(counts: _Counts, val_share: float, test_share: float, seed: int) -> dict[str, Split]:
    """The split of each group, where each has one class: that share of the groups of every class."""
    groups_of: dict[str, list[str]] = defaultdict(list)
    for group, (label,) in counts.items():
        groups_of[label].append(group)
    split_of: dict[str, Split] = {}
    for label in sorted(groups_of):
        groups = sorted(groups_of[label])
        random.Random(f"{seed}/{label}").shuffle(groups)
        tests = _share(len(groups), test_share)
        vals = _share(len(groups) - tests, val_share) if len(groups) - tests > 1 else 0
        for place, group in enumerate(groups):
            split_of[group] = "test" if place < tests else "val" if place < tests + vals else "train"
    return split_of


def _across_classes(counts: _Counts, val_share: float, test_share: float, seed: int) -> dict[str, Split]:
    """The same where a group, such as a person, has clips of several classes: shares of the clips of every class."""
    left = sorted(counts)
    random.Random(seed).shuffle(left)
    split_of: dict[str, Split] = dict.fromkeys(left, "train")
    shares: dict[Split, float] = {"test": test_share, "val": val_share}
    for split, share in shares.items():
        for group in _taken({group: counts[group] for group in left}, share):
            split_of[group] = split
            left.remove(group)
    return split_of


def _taken(counts: _Counts, share: float) -> list[str]:
    """Groups with about that share of the clips of every class, and of each class one at least, if any may go.

    They are taken in the order given while that brings the shares nearer. None goes without which a class has no clip.
    """
    if share == 0:
        return []
    total = Counter[str]()
    for labels in counts.values():
        total.update(labels)
    taken, chosen = Counter[str](), list[str]()

    def farther(group: str) -> float:
        """By how much the squared distances of all classes from their share grow with it."""
        far = 0.0
        for label, count in counts[group].items():
            before = taken[label] / total[label] - share
            far += (before + count / total[label]) ** 2 - before**2
        return far

    def may_go(group: str) -> bool:
        return all(taken[label] + count < total[label] for label, count in counts[group].items())

    def take(group: str) -> None:
        taken.update(counts[group])
        chosen.append(group)

    for group in counts:
        if farther(group) < 0 and may_go(group):
            take(group)
    for label in sorted(total):
        # Without its clips, none of them is among those chosen.
        having = [group for group in counts if label in counts[group] and may_go(group)] if not taken[label] else []
        if having:
            take(min(having, key=farther))
    return chosen


def _share(count: int, share: float) -> int:
    """A share of `count` rounded, at least 1 (of more than one) and never all."""
    return 0 if share == 0 or count < 2 else min(max(1, round(count * share)), count - 1)
