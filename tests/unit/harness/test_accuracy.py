"""Accuracy from logits, on small cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from d3d_edge.errors import DataError, LoweringError
from d3d_edge.harness import accuracy
from d3d_edge.report import Answers, ReportClip
from d3d_edge.runner import TensorSpec, Where

LOGITS = np.array([[3, 2, 1], [1, 2, 3], [2, 3, 1], [1, 3, 2]], np.float32)
LABELS = np.array([0, 2, 0, 0])


@pytest.mark.parametrize(("k", "share"), [(1, 0.5), (2, 0.75), (3, 1.0), (5, 1.0)])
def test_topk(k: int, share: float) -> None:
    assert accuracy.topk(LOGITS, LABELS, k) == share


def test_a_tie_is_not_an_answer() -> None:
    assert accuracy.topk(np.zeros((4, 3), np.float32), LABELS, 1) == 0.0
    assert accuracy.topk(np.full((4, 3), np.nan, np.float32), LABELS, 1) == 0.0


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
    assert accuracy.softmax(np.array([[3e38, -3e38]], np.float32)).tolist() == [[1, 0]]
    surer, sure = accuracy.softmax(np.array([[20, 0], [18, 0]], np.float32))
    assert surer[0] > sure[0]


def test_agreement_and_largest_difference() -> None:
    other = LOGITS.copy()
    other[0] = [1, 5, 0]
    assert accuracy.agreement(LOGITS, other) == 0.75
    assert accuracy.largest_difference(LOGITS, other) == 3.0


def test_a_tie_agrees_with_nothing_but_a_tie() -> None:
    dead, sure = np.zeros((2, 3), np.float32), np.array([[1, 0, 0], [0, 1, 0]], np.float32)
    assert accuracy.agreement(dead, sure) == 0
    assert accuracy.agreement(dead, dead) == 1


def test_chance_is_the_commonest_class() -> None:
    assert accuracy.chance(LABELS) == 0.75


CLIPS = [ReportClip(key=f"{index}.mp4", label=int(label)) for index, label in enumerate(LABELS)]


def said(*predicted: int) -> Answers:
    return Answers(predicted=predicted, probability=(1.0,) * len(predicted))


def test_answers_hold_the_first_class_and_its_probability() -> None:
    found = accuracy.answers(np.array([[0, 0, np.log(2)], [5, 1, 5], [0, 0, 0]], np.float32))
    assert found.predicted == (2, -1, -1)
    assert found.probability == pytest.approx((0.5, 0.495463, 1 / 3), abs=1e-6)


def test_top1_is_the_share_of_right_answers() -> None:
    logits = np.random.default_rng(0).integers(0, 4, (200, 3)).astype(np.float32)  # ties, too
    labels = np.random.default_rng(1).integers(0, 3, 200)
    assert np.mean(np.array(accuracy.answers(logits).predicted) == labels) == accuracy.topk(logits, labels, 1)


def test_clip_by_clip_against_the_student() -> None:
    found = accuracy.paired(own=said(0, 2, 1, 1), student=said(0, 1, 0, 2), clips=CLIPS)
    assert (found.gained, found.lost) == (1, 1)
    assert found.difference_points == 0
    assert found.mcnemar_p == 1.0
    assert found.flipped == ("1.mp4", "2.mp4", "3.mp4")  # the last was wrong, and is wrong in another way
    assert -100 <= found.difference_points_low < 0 < found.difference_points_high <= 100


@pytest.mark.parametrize(("gained", "lost", "p"), [(0, 0, 1.0), (0, 5, 0.0625), (0, 6, 0.03125), (2, 10, 0.0385742)])
def test_exact_mcnemar(gained: int, lost: int, p: float) -> None:
    # Twice the tail of a binomial distribution of one half: 2 / 2^5, 2 / 2^6, 2 * (1 + 12 + 66) / 2^12.
    own = np.array([True] * gained + [False] * lost + [True] * 5)
    student = np.array([False] * gained + [True] * lost + [True] * 5)
    assert accuracy.Rights(own, student).mcnemar_p == pytest.approx(p, rel=1e-4)


@pytest.mark.parametrize(("gained", "lost", "count"), [(3, 9, 200), (0, 20, 400), (30, 10, 1000)])
def test_the_bootstrap_is_near_the_normal_interval(gained: int, lost: int, count: int) -> None:
    clips = [ReportClip(key=str(index), label=0) for index in range(count)]
    own = said(*[0] * gained, *[1] * lost, *[0] * (count - gained - lost))
    student = said(*[1] * gained, *[0] * lost, *[0] * (count - gained - lost))
    found = accuracy.paired(own, student, clips)
    error = 1.96 * np.sqrt(gained + lost - (gained - lost) ** 2 / count) / count * 100
    assert found.difference_points_low == pytest.approx(found.difference_points - error, abs=0.25 * error)
    assert found.difference_points_high == pytest.approx(found.difference_points + error, abs=0.25 * error)


def test_slices() -> None:
    alone = accuracy.by_class(said(0, 2, 1, 1), CLIPS, ["a", "b", "c"], None)
    assert [(slice_.label, slice_.clips, slice_.right, slice_.student_right) for slice_ in alone] == [
        ("a", 3, 1, None),
        ("c", 1, 1, None),
    ]
    found = accuracy.by_class(said(0, 2, 1, 1), CLIPS, ["a", "b", "c"], said(0, 2, 0, 0))
    assert [(slice_.student_right, slice_.mcnemar_p) for slice_ in found] == [(3, 0.5), (1, 1.0)]


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


def test_what_was_trained_to_no_number_is_refused() -> None:
    assert accuracy.finite(LOGITS, "student") is LOGITS
    for value in (np.nan, np.inf):
        with pytest.raises(DataError, match=r"student gives logits that are not finite .*lower learning_rate"):
            accuracy.finite(np.where(LOGITS == 3, value, LOGITS), "student")


def test_every_two_bundles_are_compared_on_the_same_clips() -> None:
    other = LOGITS.copy()
    other[3] = [3, 1, 2]
    found = accuracy.pairs({"android": LOGITS, "ios": LOGITS, "jetson": other})
    told = [(pair.first, pair.second, pair.clips, pair.agreement, pair.logit_difference_max) for pair in found]
    assert told == [
        ("android", "ios", 4, 1.0, 0.0),
        ("android", "jetson", 4, 0.75, 2.0),
        ("ios", "jetson", 4, 0.75, 2.0),
    ]
    assert accuracy.pairs({"android": LOGITS}) == ()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_equal_logits_have_no_noise(value: float) -> None:
    logits = np.full((2, 3), value, np.float32)
    assert accuracy.sqnr_db(logits, logits) == pytest.approx(200.0)
