"""Accuracy from logits: pure functions of what runners returned."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from d3d_edge.errors import LoweringError
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
