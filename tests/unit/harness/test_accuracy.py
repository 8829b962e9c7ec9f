"""Accuracy from logits, on small cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from d3d_edge.errors import LoweringError
from d3d_edge.harness import accuracy
from d3d_edge.runner import TensorSpec, Where

LOGITS = np.array([[3, 2, 1], [1, 2, 3], [2, 3, 1], [1, 3, 2]], np.float32)
LABELS = np.array([0, 2, 0, 0])


@pytest.mark.parametrize(("k", "share"), [(1, 0.5), (2, 0.75), (3, 1.0), (5, 1.0)])
def test_topk(k: int, share: float) -> None:
    assert accuracy.topk(LOGITS, LABELS, k) == share


def test_a_tie_is_not_an_answer() -> None:
    assert accuracy.topk(np.zeros((4, 3), np.float32), LABELS, 1) == 0.0


def test_mean_class_counts_every_class_alike() -> None:
    assert accuracy.mean_class(LOGITS, LABELS) == pytest.approx((1 / 3 + 1) / 2)


@pytest.mark.parametrize(
    ("right", "clips", "low", "high"),
    [(0, 10, 0.0, 0.2775), (9, 10, 0.5958, 0.9821), (50, 100, 0.4038, 0.5962), (10, 10, 0.7225, 1.0)],
)
def test_wilson(right: int, clips: int, low: float, high: float) -> None:
    assert accuracy.wilson(right, clips) == pytest.approx((low, high), abs=1e-4)


def test_softmax() -> None:
    shares = accuracy.softmax(LOGITS * 100)
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-6)
    assert (shares.argmax(axis=1) == LOGITS.argmax(axis=1)).all()


def test_agreement_and_largest_difference() -> None:
    other = LOGITS.copy()
    other[0] = [1, 5, 0]
    assert accuracy.agreement(LOGITS, other) == 0.75
    assert accuracy.largest_difference(LOGITS, other) == 3.0


def test_chance_is_the_commonest_class() -> None:
    assert accuracy.chance(LABELS) == 0.75


class Fake:
    """A runner that answers with the first bytes of the clip."""

    where = Where.HOST_RUNTIME
    runtime = "fake 1"
    inputs = (TensorSpec(name="clip", dtype="uint8", shape=(1, 1, 1, 3)),)
    outputs = (TensorSpec(name="logits", dtype="float32", shape=(3,)),)

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def run(self, clip: np.ndarray) -> np.ndarray:
        return clip.reshape(-1)[:3].astype(np.float32) * self.factor

    def __enter__(self) -> Fake:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass


def test_each_clip_is_decoded_once_and_goes_through_all_runners() -> None:
    decoded = []

    def clips():
        for value in (1, 2):
            decoded.append(value)
            yield np.full((1, 1, 1, 3), value, np.uint8)

    done: list[int] = []
    logits = accuracy.logits_of({"a": Fake(1), "b": Fake(2)}, clips(), lambda: done.append(1))
    assert decoded == [1, 2]
    assert len(done) == 2
    assert logits["a"].tolist() == [[1, 1, 1], [2, 2, 2]]
    assert logits["b"].tolist() == [[2, 2, 2], [4, 4, 4]]


def test_logits_that_are_not_finite_are_refused() -> None:
    with pytest.raises(LoweringError, match="b gives logits that are not finite"):
        accuracy.logits_of({"a": Fake(1), "b": Fake(float("nan"))}, [np.ones((1, 1, 1, 3), np.uint8)])
