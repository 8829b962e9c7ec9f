"""Each stage asks the networks, and looks at the clips, that it is said to; another would train and measure as well."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from d3d_edge import calibset
from d3d_edge.distill import loop
from d3d_edge.distill.job import Job
from d3d_edge.distill.loss import Outputs
from d3d_edge.pipeline import calibration, decoding, distill, evaluate, mixed, motion, probe, qat, sensitivity, streams
from d3d_edge.pipeline.decoding import Fields, Network
from d3d_edge.pipeline.kept import Kept
from d3d_edge.pipeline.mixed import HeldOut
from d3d_edge.progress import Silent
from d3d_edge.quantize.groups import Group
from d3d_edge.recipe import QATSpec
from d3d_edge.video.datasets import Batch
from tests.notes import Notes
from tests.unit.pipeline.conftest import Made, Make

CLOSE = {"rtol": 1e-4, "atol": 1e-3}


class Stop(Exception):
    """Raised where training would begin."""


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """What would be trained; it is not."""
    jobs: list[Job] = []

    def stop(job: Job, *_: Any) -> None:
        jobs.append(job)
        raise Stop

    monkeypatch.setattr(loop, "run", stop)
    return jobs


def batch_of(made: Made, split: Any = "test") -> Batch:
    return made.data.dataset(split).batch([0, 1])


class TestTheStudent:
    def test_learns_from_the_flow_teacher(self, make: Make) -> None:
        made = make()
        teacher = streams.teacher_of(made.run)
        assert teacher is not None
        expected = made.logits("teacher", batch_of(made))
        assert (expected[0] - expected[1]).abs().max() > 0.01, "two clips, two answers"
        torch.testing.assert_close(teacher(batch_of(made)).logits, expected, **CLOSE)

    def test_learns_from_both_streams_of_a_two_stream_teacher(self, make: Make) -> None:
        made = make("distill.teacher=two_stream")
        teacher = streams.teacher_of(made.run)
        assert teacher is not None
        expected = (made.logits("teacher", batch_of(made)) + made.logits("spatial", batch_of(made))) / 2
        torch.testing.assert_close(teacher(batch_of(made)).logits, expected, **CLOSE)

    def test_learns_from_nobody_whose_weight_is_zero(self, make: Make) -> None:
        assert streams.teacher_of(make("distill.weight=0").run) is None

    @pytest.mark.parametrize("initialise", ["teacher", "scratch"])
    def test_is_trained_with_its_teacher_from_the_weights_that_the_recipe_says(
        self, initialise: str, make: Make, begun: list[Job]
    ) -> None:
        made = make(f"student.initialise={initialise}")
        shutil.rmtree(made.run.folder("student"))
        with pytest.raises(Stop):
            distill._student(made.run, made.data, Silent())
        (job,) = begun
        assert job.teacher is not None
        expected = made.logits("teacher", batch_of(made))
        torch.testing.assert_close(job.teacher(batch_of(made)).logits, expected, **CLOSE)
        own, taught = job.model.state_dict(), made.networks["teacher"].state_dict()
        kernels = [name for name in own if name.endswith("spatial.conv.weight")]
        assert len(kernels) > 50
        assert {torch.equal(own[name], taught[name]) for name in kernels} == {initialise == "teacher"}

    @pytest.mark.parametrize("source", ["teacher", "student"])
    def test_learns_in_quantization_aware_training_from_whom_the_recipe_says(self, source: str, make: Make) -> None:
        made = make()
        spec = QATSpec.model_validate({"train": made.run.recipe.student.train, "distill": {"from": source}})
        taught = qat._taught(made.run, spec, Silent())
        assert taught is not None
        answers = taught(batch_of(made))
        said = {"teacher": answers.teacher, "student": answers.student}
        outputs = said.pop(source)
        assert isinstance(outputs, Outputs)
        assert list(said.values()) == [None]
        torch.testing.assert_close(outputs.logits, made.logits(source, batch_of(made)), **CLOSE)

    @pytest.mark.parametrize("source", ["teacher", "both"])
    def test_asks_no_teacher_of_features_alone_in_quantization_aware_training(self, source: str, make: Make) -> None:
        made, progress = make("distill.weight=0", "distill.features_weight=1.0"), Notes()
        spec = QATSpec.model_validate({"train": made.run.recipe.student.train, "distill": {"from": source}})
        shutil.rmtree(made.run.folder("teacher"))
        taught = qat._taught(made.run, spec, progress)
        assert (taught is None) == (source == "teacher")
        assert taught is None or taught(batch_of(made)).teacher is None
        (note,) = progress.notes
        assert note.startswith("quantization-aware training learns nothing from the teacher, of which only features")


class TestEvaluation:
    @pytest.mark.parametrize("fusion", ["logits", "softmax"])
    def test_two_streams_are_the_mean_of_both(self, fusion: str, make: Make) -> None:
        """Each alone names half of the clips; the mean names all, and the first or second alone does not."""
        made = make()
        networks = evaluate._networks(made.run)
        labels = np.array([0, 0])
        sure, unsure = [4.0, 0.0, 0.0], [0.0, 1.0, 0.0]
        logits = {"spatial": np.array([sure, unsure]), "teacher": np.array([unsure, sure])}
        if fusion == "softmax":
            logits = {stage: np.exp(rows) / np.exp(rows).sum(1, keepdims=True) for stage, rows in logits.items()}
        found = {
            stages: evaluate._system("", [networks[stage] for stage in stages], stages, made.run, logits, labels)
            for stages in (("spatial",), ("teacher",), ("spatial", "teacher"))
        }
        assert [system.right for system in found.values()] == [1, 1, 2]

    def test_each_network_sees_the_clips_of_the_split_that_is_asked_for(self, make: Make) -> None:
        made = make()
        networks = evaluate._networks(made.run)
        assert networks.keys() == {"teacher", "spatial", "student"}
        batches = evaluate._cached(made.data, "val", Silent())
        logits, labels = evaluate._answers(networks, batches, made.data, "val", 1, "logits")
        whole = made.data.dataset("val").batch(list(range(len(labels))))
        assert labels.tolist() == whole.label.tolist()
        for stage, said in logits.items():
            torch.testing.assert_close(torch.from_numpy(said), made.logits(stage, whole), **CLOSE)

    def test_several_clips_of_a_video_are_several(self, make: Make) -> None:
        made = make()
        first = next(iter(evaluate._sampled(made.data, "test", 3, 1, Silent())))
        seen = [clip.numpy().tobytes() for clip in first.clip]
        assert len(set(seen)) == 3
        assert len({field.numpy().tobytes() for field in first.flow}) == 3
        assert len(set(first.label.tolist())) == 1


class Seen:
    """A stream that keeps what it is shown."""

    def __init__(self, classes: int) -> None:
        self.clips: list[Tensor] = []
        self._classes = classes

    def __call__(self, batch: Batch) -> Outputs:
        self.clips += list(batch.clip)
        return Outputs(torch.zeros(len(batch.label), self._classes))


def assert_three_orders(clips: Sequence[Tensor], count: int) -> None:
    """As they are, backwards, and shuffled: the same frames, in another order."""
    whole, backwards, shuffled = (clips[start : start + count] for start in range(0, 3 * count, count))
    assert len(clips) == 3 * count
    for clip, back, mixed_up in zip(whole, backwards, shuffled, strict=True):
        assert torch.equal(back, clip.flip(0))
        assert not torch.equal(mixed_up, clip)
        frames, others = ({frame.numpy().tobytes() for frame in one} for one in (clip, mixed_up))
        assert frames == others


class TestMotion:
    def test_int8_is_compared_on_three_orders(self, make: Make) -> None:
        made = make()
        seen = Seen(len(made.data.labels))
        motion.answers({"": seen}, made.data, Silent())
        assert_three_orders(seen.clips, len(made.data.of("test")))

    def test_the_probe_measures_three_orders(self, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        made = make()
        network = Network.of(made.run, "student")
        assert network is not None
        seen = Seen(len(made.data.labels))
        monkeypatch.setattr(Network, "outputs", lambda _, batch: seen(batch))
        probe._top1(made.run, made.data, network, Silent())
        assert_three_orders(seen.clips, len(made.data.of("test")))

    def test_guesses_of_flow_know_the_train_split_and_err_on_the_test_split(self, make: Make) -> None:
        made = make()
        network = Network.of(made.run, "student")
        assert network is not None
        fields = Fields.of(made.run, network)
        fields_of = {
            split: torch.stack([fields.reference(made.data.dataset(split).batch([place])) for place in range(count)])
            for split, count in (("train", len(made.data.of("train"))), ("test", len(made.data.of("test"))))
        }
        mean = fields_of["train"].mean((0, 1, 3, 4))
        assert mean.norm() > 1e-3
        guesses = probe._guesses(made.run, made.data, fields)
        for name, guess in (("zero_epe_px", torch.zeros(2)), ("mean_epe_px", mean)):
            error = (fields_of["test"] - guess[:, None, None]).norm(dim=2).mean()
            assert guesses[name] == pytest.approx(float(error), rel=1e-4)
        assert torch.allclose(decoding.mean_vector(fields, made.data.dataset("train")).flatten(), mean, rtol=1e-4)


class TestQuantization:
    def test_clips_are_shown_in_the_order_of_the_draw(self, make: Make) -> None:
        made = make()
        plan = calibset.load_plan("balanced").model_copy(update={"count": 7})
        drawn = calibration.drawn_clips(made.data, plan, Silent())
        assert [cached.clip for cached in drawn] == list(calibset.draw(plan, made.data.manifest))
        assert len({cached.clip.label for cached in drawn[:3]}) == 3, "the classes take turns"
        dataset = made.data.dataset("train")
        shown = calibration.decoded(drawn, made.data)
        places = [[cached.clip for cached in dataset.clips].index(cached.clip) for cached in drawn]
        assert places != sorted(places)
        for place, clip in zip(places, shown, strict=True):
            assert np.array_equal(dataset.item(place)[0], clip.numpy())

    def test_copies_of_test_videos_are_not_shown(self, make: Make) -> None:
        data = make().data
        plan = calibset.load_plan("balanced").model_copy(update={"count": 7})
        progress = Notes()
        before = calibration.drawn_clips(data, plan, progress)
        assert not progress.notes
        tested = data.of("test")[0].video_sha256
        copy = replace(before[2], video_sha256=tested)
        data = replace(data, clips=tuple(copy if cached == before[2] else cached for cached in data.clips))
        drawn = calibration.drawn_clips(data, plan, progress)
        assert tested not in {cached.video_sha256 for cached in drawn}
        assert (len(drawn), len({cached.clip for cached in drawn} - {cached.clip for cached in before})) == (7, 1)
        assert progress.notes == [
            "training clips left out of calibration, since their videos are in the test split too: 1, "
            f"e.g. {copy.clip.key}"
        ]

    def test_classes_that_no_clip_is_shown_of_are_told_and_a_few_clips_are_of_many_classes(self, make: Make) -> None:
        data = make().data
        progress = Notes()
        for seed in range(3):
            plan = calibset.load_plan("balanced").model_copy(update={"count": 2, "seed": seed})
            assert len({cached.clip.label for cached in calibration.drawn_clips(data, plan, progress)}) == 2
        assert progress.notes == ["2 of 3 classes calibrate: a plan of more clips than 2 shows more"] * 3
        plan = plan.model_copy(update={"count": 7})
        drawn = calibration.drawn_clips(data, plan, progress)
        assert calibration.some(drawn, 4, plan) == drawn[:4]
        some = calibration.some(drawn, 2, plan)
        assert len({cached.clip.label for cached in some}) == 2
        assert some != drawn[:2], "the seed decides which"

    def test_sensitivity_knows_the_labels_of_its_clips(self, make: Make) -> None:
        made = make()
        drawn = calibration.drawn_clips(made.data, calibset.load_plan("balanced"), Silent())[:5]
        clips = sensitivity._Clips(made.data, drawn, 2)
        assert clips.labels.tolist() == [made.data.labels.index(cached.clip.label) for cached in drawn]
        assert len(set(clips.labels.tolist())) > 1

    def test_mixed_precision_is_decided_on_the_val_split_and_counts_what_is_lost(self, make: Make) -> None:
        made = make()
        held_out = HeldOut.of(made.run, made.data, made.data.of("train")[:4])
        assert held_out.split == "val"
        assert [cached.clip for cached in held_out.dataset.clips] == [cached.clip for cached in made.data.of("val")]
        right = torch.eye(len(made.data.labels))[torch.from_numpy(held_out.labels)]
        clips = len(held_out.labels)
        known = replace(held_out, float_right=clips - 1)
        assert known.drop_points(right) == pytest.approx(-100 / clips)
        assert known.drop_points(right.roll(1, 1)) == pytest.approx(100 - 100 / clips)
        twenty = replace(held_out, labels=np.zeros(20, np.int64), float_right=17)
        logits = torch.eye(2)[[0] * 14 + [1] * 6]
        assert twenty.drop_points(logits) == 15  # and no hair more, which a gate of 15 would refuse

    def test_without_a_val_split_calibration_clips_decide(self, make: Make) -> None:
        made = make()
        drawn = made.data.of("train")[:4]
        data = replace(made.data, clips=made.data.of("train") + made.data.of("test"))
        held_out = HeldOut.of(made.run, data, drawn)
        assert (held_out.split, tuple(held_out.dataset.clips)) == ("train", drawn)

    def test_groups_are_ranked_the_worst_first(self, tmp_path: Path) -> None:
        noise = {Group("mild", "gate"): 0.01, Group("worst", "spatial"): 1.0, Group("bad", "stem"): 0.1}

        class Switched:
            groups = tuple(noise)

            def first(self, groups: Sequence[Group]) -> int:
                return 0

            def logits(self, rounded: Sequence[Group], _: Any) -> Tensor:
                return torch.ones(2, 3) + sum(noise[group] for group in rounded)

        ranked = sensitivity.ranked(Switched(), [], Kept(tmp_path / "kept", "", float), Silent())  # type: ignore[arg-type]
        assert [group.name for group in ranked] == ["worst", "bad", "mild"]
        assert mixed._in_order(Switched(), ranked[:2]) == ("worst", "bad")  # type: ignore[arg-type]
