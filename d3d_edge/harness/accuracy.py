"""Accuracy from logits: pure functions of what runners returned."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from d3d_edge.errors import DataError, LoweringError
from d3d_edge.report import Answers, ClassSlice, Pair, Paired, ReportClip
from d3d_edge.runner import Runner

Logits = NDArray[np.float32]
Scores = NDArray[np.floating]
"""Logits, or probabilities."""

BOOTSTRAP_DRAWS = 10_000


def logits_of(
    runners: Mapping[str, Runner], clips: Iterable[NDArray[np.uint8]], on_clip: Callable[[], None] = lambda: None
) -> dict[str, Logits]:
    """Logits float32 [N, classes] of N clips uint8 [T, H, W, C], by runner: each decoded clip goes through all of them.

    `on_clip` is called after each clip. Without any clip there is nothing to tell: an empty result.

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
    return {name: np.stack(found) for name, found in rows.items() if found}


def finite(logits: Logits, whose: str) -> Logits:
    """`logits` of a network that was trained here.

    Raises:
        DataError: one is NaN or infinite.
    """
    if not np.isfinite(logits).all():
        raise DataError(
            f"{whose} gives logits that are not finite", hint="train it again, with a lower learning_rate in the recipe"
        )
    return logits


def topk(logits: Scores, labels: NDArray[np.int64], k: int) -> float:
    """Share of clips whose label is among the `k` largest logits.

    Ties count against the model: a label whose logit equals k others is not among the first k. So does NaN.
    """
    own = logits[np.arange(len(labels)), labels][:, None]
    not_below = (~(logits < own)).sum(axis=1)
    return float((not_below <= k).mean())


def right(logits: Scores, labels: NDArray[np.int64]) -> int:
    """How many clips are named rightly: differences of shares of them are no whole clips, by a hair."""
    return round(topk(logits, labels, 1) * len(labels))


def mean_class(logits: Scores, labels: NDArray[np.int64]) -> float:
    """Top-1 of each class that `labels` holds, averaged: every class counts the same, however many clips it has."""
    return float(np.mean([topk(logits[labels == label], labels[labels == label], 1) for label in np.unique(labels)]))


def wilson(right: int, clips: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of the share `right` of `clips`, without continuity correction."""
    from scipy.stats import binomtest  # takes half a second, and only evaluation needs it

    interval = binomtest(right, clips).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def softmax(logits: Logits) -> NDArray[np.float64]:
    """Rows of `logits` as probabilities, in float64: in float32 the surest ones would all be 1, and tie."""
    raised = np.exp(logits - logits.max(axis=1, keepdims=True).astype(np.float64))  # float32 could overflow
    return np.asarray(raised / raised.sum(axis=1, keepdims=True), dtype=np.float64)


def agreement(logits: Logits, reference: Logits) -> float:
    """Share of clips with the same first answer. A tie is none, and agrees with another tie only."""
    return float(np.mean(np.equal(answers(logits).predicted, answers(reference).predicted)))


def pairs(logits: Mapping[str, Logits]) -> tuple[Pair, ...]:
    """How far every two of `logits`, of the same clips, agree."""
    return tuple(
        Pair(
            first=first,
            second=second,
            clips=len(logits[first]),
            agreement=agreement(logits[first], logits[second]),
            logit_difference_max=largest_difference(logits[first], logits[second]),
        )
        for first, second in combinations(logits, 2)
    )


def largest_difference(logits: Logits, reference: Logits) -> float:
    """Largest absolute difference of a logit."""
    return float(np.abs(logits - reference).max())


def sqnr_db(logits: Logits, reference: Logits) -> float:
    """Signal to quantization noise in dB: the power of the reference to that of the difference, over all clips.

    At most 200, where the two are equal or all but.
    """
    signal = float(np.square(reference, dtype=np.float64).sum())
    noise = float(np.square(np.subtract(logits, reference, dtype=np.float64)).sum())
    if noise == 0:
        return 200.0  # of a reference of zeros too
    return float(10 * np.log10(max(signal, 1e-30) / max(noise, 1e-20 * signal, 1e-30)))


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


class Rights:
    """How two models differ on the same clips, given which clips each names rightly; see `report.Paired`."""

    def __init__(self, own: NDArray[np.bool_], other: NDArray[np.bool_]) -> None:
        self.gained = int((own & ~other).sum())
        self.lost = int((other & ~own).sum())
        self.clips = len(own)

    @property
    def difference_points(self) -> float:
        """Top-1 of the own model minus that of the other, in percentage points."""
        return 100 * (self.gained - self.lost) / self.clips

    @property
    def mcnemar_p(self) -> float:
        """Exact McNemar test: the clips that tell the two apart, as throws of a coin."""
        from scipy.stats import binomtest

        apart = self.gained + self.lost
        return float(binomtest(self.lost, apart).pvalue) if apart else 1.0

    def bootstrap_points(self) -> tuple[float, float]:
        """The 95 % interval of `difference_points`, by bootstrap over clips.

        As many clips are drawn with replacement, BOOTSTRAP_DRAWS times from a fixed seed, and the middle 95 % of the
        differences make the interval. Where no clip tells the two apart it has no width, whatever the number of clips:
        gates are judged by an interval that does not collapse (`harness.gates`).
        """
        shares = np.array([self.gained, self.lost, self.clips - self.gained - self.lost]) / self.clips
        drawn = np.random.default_rng(0).multinomial(self.clips, shares, size=BOOTSTRAP_DRAWS)
        low, high = np.percentile(100 * (drawn[:, 0] - drawn[:, 1]) / self.clips, [2.5, 97.5])
        return float(low), float(high)


def by_class(
    own: Answers, clips: Sequence[ReportClip], labels: Sequence[str], student: Answers | None
) -> tuple[ClassSlice, ...]:
    """The classes that `clips` hold, in the order of `labels`, with what was right of each."""
    of, right = _right(own, clips)
    before = None if student is None else _right(student, clips)[1]
    slices = []
    for index in np.unique(of).tolist():
        here = of == index
        slices.append(
            ClassSlice(
                label=labels[index],
                clips=int(here.sum()),
                right=int(right[here].sum()),
                student_right=None if before is None else int(before[here].sum()),
                mcnemar_p=None if before is None else Rights(right[here], before[here]).mcnemar_p,
            )
        )
    return tuple(slices)


def paired(own: Answers, student: Answers, clips: Sequence[ReportClip]) -> Paired:
    """`own` against the float student's answers, clip by clip."""
    rights = Rights(_right(own, clips)[1], _right(student, clips)[1])
    low, high = rights.bootstrap_points()
    return Paired(
        gained=rights.gained,
        lost=rights.lost,
        difference_points=rights.difference_points,
        difference_points_low=low,
        difference_points_high=high,
        mcnemar_p=rights.mcnemar_p,
        flipped=tuple(
            clip.key for clip, one, other in zip(clips, own.predicted, student.predicted, strict=True) if one != other
        ),
    )


def _right(answers: Answers, clips: Sequence[ReportClip]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The class of each clip, and whether it was answered."""
    of = np.array([clip.label for clip in clips])
    return of, np.array(answers.predicted) == of
