"""Accuracy from logits: pure functions of what runners returned."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from d3d_edge.errors import LoweringError
from d3d_edge.report import Answers, ClassSlice, Paired, ReportClip
from d3d_edge.runner import Runner

Logits = NDArray[np.float32]


def logits_of(
    runners: Mapping[str, Runner], clips: Iterable[NDArray[np.uint8]], on_clip: Callable[[], None] = lambda: None
) -> dict[str, Logits]:
    """Logits float32 [N, classes] of N clips uint8 [T, H, W, C], by runner: each decoded clip goes through all of them.

    `on_clip` is called after each clip.

    Raises:
        LoweringError: a runner gives a logit that is not finite.
    """
    rows: dict[str, list[Logits]] = {name: [] for name in runners}
    for clip in clips:
        for name, runner in runners.items():
            logits = runner.run(clip)
            if not np.isfinite(logits).all():
                raise LoweringError(f"{name} gives logits that are not finite", stage="run", runtime=runner.runtime)
            rows[name].append(logits)
        on_clip()
    return {name: np.stack(found) for name, found in rows.items()}


def topk(logits: Logits, labels: NDArray[np.int64], k: int) -> float:
    """Share of clips whose label is among the `k` largest logits.

    Ties count against the model: a label whose logit equals k others is not among the first k.
    """
    own = logits[np.arange(len(labels)), labels][:, None]
    not_below = (logits >= own).sum(axis=1)
    return float((not_below <= k).mean())


def mean_class(logits: Logits, labels: NDArray[np.int64]) -> float:
    """Top-1 of each class that `labels` holds, averaged: every class counts the same, however many clips it has."""
    return float(np.mean([topk(logits[labels == label], labels[labels == label], 1) for label in np.unique(labels)]))


def wilson(right: int, clips: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of the share `right` of `clips`, without continuity correction."""
    from scipy.stats import binomtest  # takes half a second, and only evaluation needs it

    interval = binomtest(right, clips).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def softmax(logits: Logits) -> Logits:
    """Rows of `logits` as probabilities."""
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True), dtype=np.float32)


def agreement(logits: Logits, reference: Logits) -> float:
    """Share of clips with the same first answer."""
    return float((logits.argmax(axis=1) == reference.argmax(axis=1)).mean())


def largest_difference(logits: Logits, reference: Logits) -> float:
    """Largest absolute difference of a logit."""
    return float(np.abs(logits - reference).max())


def chance(labels: NDArray[np.int64]) -> float:
    """Top-1 of always naming the commonest label."""
    return float(np.bincount(labels).max() / len(labels))


def answers(logits: Logits) -> Answers:
    """First answer and its probability, clip by clip."""
    best = logits.max(axis=1, keepdims=True)
    alone = (logits == best).sum(axis=1) == 1
    return Answers(
        predicted=tuple(np.where(alone, logits.argmax(axis=1), -1).tolist()),
        probability=tuple(round(float(value), 6) for value in softmax(logits).max(axis=1)),
    )


def by_class(
    own: Answers, clips: Sequence[ReportClip], labels: Sequence[str], student: Answers | None
) -> tuple[ClassSlice, ...]:
    """The classes that `clips` hold, in the order of `labels`, with what was right of each."""
    of = np.array([clip.label for clip in clips])
    right = np.array(own.predicted) == of
    student_right = None if student is None else np.array(student.predicted) == of
    return tuple(
        ClassSlice(
            label=labels[index],
            clips=int((of == index).sum()),
            right=int(right[of == index].sum()),
            student_right=None if student_right is None else int(student_right[of == index].sum()),
        )
        for index in np.unique(of).tolist()
    )


BOOTSTRAP_DRAWS = 10_000


def paired(own: Answers, student: Answers, clips: Sequence[ReportClip]) -> Paired:
    """`own` against the float student's answers, clip by clip.

    The bootstrap is over clips: as many are drawn with replacement, 10000 times from a fixed seed, and the middle 95 %
    of the differences make the interval. Where no clip tells the two apart it has no width, whatever the number of
    clips: gates are judged by an interval that does not collapse (`harness.gates`).
    """
    from scipy.stats import binomtest

    of = np.array([clip.label for clip in clips])
    right, before = np.array(own.predicted) == of, np.array(student.predicted) == of
    gained, lost = int((right & ~before).sum()), int((before & ~right).sum())
    count = len(clips)
    shares = np.array([gained, lost, count - gained - lost]) / count
    drawn = np.random.default_rng(0).multinomial(count, shares, size=BOOTSTRAP_DRAWS)
    low, high = np.percentile(100 * (drawn[:, 0] - drawn[:, 1]) / count, [2.5, 97.5])
    return Paired(
        gained=gained,
        lost=lost,
        difference_points=100 * (gained - lost) / count,
        difference_points_low=float(low),
        difference_points_high=float(high),
        mcnemar_p=float(binomtest(lost, gained + lost).pvalue) if gained + lost else 1.0,
        flipped=tuple(
            clip.key for clip, one, other in zip(clips, own.predicted, student.predicted, strict=True) if one != other
        ),
    )
