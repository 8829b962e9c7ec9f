"""CalibrationSet: which clips calibrate a quantized network, drawn by a plan and named by hash. Decodes nothing."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import Literal, Self, TypeVar

from pydantic import Field, model_validator

from d3d_edge import resources
from d3d_edge.errors import DataError
from d3d_edge.manifest import Clip, Manifest
from d3d_edge.schema import Schema, build, read_yaml

T = TypeVar("T")

Observer = Literal["minmax", "moving_average", "histogram", "percentile", "mse"]
"""How a range is found from what calibration clips do; see `CalibrationPlan.observer`."""


class CalibrationPlan(Schema):
    """How to draw calibration clips, and the observer that turns what they do into scales."""

    name: str
    description: str
    split: Literal["train"]
    """Clips come from the training split only."""
    count: int = Field(ge=1)
    """Clips to draw, fewer where the split has fewer."""
    per_class_max: int = Field(ge=1)
    """Most clips of one class."""
    seed: int
    observer: Observer
    """How a range is found. minmax: all-time extremes. moving_average: of the extremes of each clip. histogram:
    torchao's search for the least error. percentile: what holds that share of the values. mse: the least squared error
    of rounding, every candidate tried. The last three leave outliers out."""
    percentile: float | None = Field(default=None, gt=50, le=100)
    """Share in % of the values that the range of the observer `percentile` holds."""

    @model_validator(mode="after")
    def _percentile_belongs_to_its_observer(self) -> Self:
        if (self.observer == "percentile") != (self.percentile is not None):
            raise ValueError("the observer 'percentile' needs percentile, e.g. 99.99, and no other takes it")
        return self


class CalibrationSet(Schema):
    """The drawn clips. Its hash, in every manifest, says which clips decided the scales."""

    plan: CalibrationPlan
    clip_hash: str
    """Hash of the ClipSpec the clips were decoded by."""
    clips: tuple[str, ...]
    """SHA-256 of each video file, in order of use."""


def load_plan(name_or_path: str) -> CalibrationPlan:
    """The plan of a shipped name or at a path.

    Raises:
        RecipeError: there is none, or it holds a mistake.
    """
    path = resources.given("calibration", name_or_path)
    data, places = read_yaml(path)
    return build(CalibrationPlan, data, str(path), places)


def draw(plan: CalibrationPlan, manifest: Manifest, evaluating: Collection[str] = ()) -> tuple[Clip, ...]:
    """Clips of the plan's split, the classes taking turns, decided by the plan's seed.

    `evaluating`: keys of clips whose video is in the evaluation split too. The next of their class are drawn instead;
    where none of them would be drawn, the draw is the same without them.

    Raises:
        DataError: the split is empty, or evaluates too.
    """
    of_class: dict[str, list[Clip]] = defaultdict(list)
    for clip in manifest.of(plan.split):
        of_class[clip.label].append(clip)
    for label, clips in of_class.items():
        clips.sort(key=lambda clip: clip.key)
        random.Random(f"{plan.seed}/{label}").shuffle(clips)
        clips[:] = [clip for clip in clips if clip.key not in evaluating]  # after the shuffle, so that the others stay
    capped = {label: clips[: plan.per_class_max] for label, clips in of_class.items()}
    drawn = in_turns(capped, plan.count, plan.seed)
    if not drawn:
        why = "each training video is in the evaluation split too" if of_class else "the training split is empty"
        hint = "give the clips of one video one group, so that they stand in one split"
        raise DataError(f"no clips to calibrate on: {why}", hint=hint if of_class else "")
    return drawn


def in_turns(of_class: Mapping[str, Sequence[T]], count: int, seed: int) -> tuple[T, ...]:
    """`count` clips, or all, the classes taking turns in the order of their names.

    Where there are more classes than that, the seed decides which have one: else the first letters alone would.
    """
    labels = sorted(label for label, clips in of_class.items() if clips)
    if len(labels) > count:
        random.Random(seed).shuffle(labels)
    turns = max((len(of_class[label]) for label in labels), default=0)
    rounds = (of_class[label][turn] for turn in range(turns) for label in labels if turn < len(of_class[label]))
    return tuple(islice(rounds, count))


def refuse_overlap(calibrating: Iterable[str], evaluating: Iterable[str]) -> None:
    """Check that no video (by SHA-256) both calibrates and evaluates.

    Raises:
        DataError: at least one does.
    """
    if common := set(calibrating) & set(evaluating):
        raise DataError(
            f"{len(common)} calibration clip(s) are also in the evaluation split, e.g. sha256 {min(common)[:12]}",
            hint="remove the copies from one of the splits",
        )
