"""A run goes on from its checkpoint to the weights of an unbroken one, and keeps the weights that the recipe wants."""

from __future__ import annotations

import dataclasses
import errno
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from d3d_edge.distill import loop
from d3d_edge.distill.checkpoint import Checkpoint, Which
from d3d_edge.distill.job import Job
from d3d_edge.distill.loss import Answer
from d3d_edge.errors import DataError, RecipeError
from d3d_edge.progress import Silent, Task
from d3d_edge.video.datasets import Batch
from tests.notes import Notes
from tests.unit.distill.jobs import CUDA, SPEC, VARIANTS, Killed, assert_equal, batches, job, variant


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=CUDA)])
@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("killed_after", [1, 3, 5])
def test_a_killed_run_ends_with_the_weights_of_an_unbroken_one(
    killed_after: int, name: str, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("D3D_EDGE_DEVICE", device)
    top1s = (0.5, 0.25, 0.75, 0.75, 0.5, 0.25)

    def start() -> Job:
        started = job(variant(name))
        return dataclasses.replace(started, evaluate=lambda: top1s[epochs[-1]], begin_epoch=epochs.append)

    epochs: list[int] = []
    unbroken = start()
    loop.run(unbroken, tmp_path / "unbroken", "mark", Silent())

    def stop(epoch: int) -> None:
        epochs.append(epoch)
        if epoch == killed_after:
            raise Killed

    with pytest.raises(Killed):
        loop.run(dataclasses.replace(start(), begin_epoch=stop), tmp_path / "killed", "mark", Silent())
    torch.manual_seed(12345)  # A new process has another random state.
    resumed = start()
    loop.run(resumed, tmp_path / "killed", "mark", Silent())
    assert_equal(resumed.model, unbroken.model)
    assert len((tmp_path / "killed" / "log.jsonl").read_text().splitlines()) == 6
    for which in ("last", "best"):
        read = [Checkpoint.read(tmp_path / run, which) for run in ("unbroken", "killed")]
        ours, theirs = (checkpoint for checkpoint in read if checkpoint)
        assert ours.epoch == theirs.epoch == {"last": 6, "best": 3}[which]
        for key, value in ours.model.items():
            assert torch.equal(value, theirs.model[key]), key


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize(("save_s", "left_out"), [(-1.0, 2), (1e9, 0)], ids=["saved", "not yet due"])
def test_a_run_that_is_killed_within_an_epoch_goes_on_within_it(
    save_s: float, left_out: int, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_PART_STEPS", 1)
    monkeypatch.setattr(loop, "_SAVE_S", save_s)
    asked: list[tuple[int, int]] = []

    def start(kill: bool = False) -> Job:
        def noted(epoch: int, first: int) -> Iterator[Batch]:
            asked.append((epoch, first))
            for place, batch in enumerate(batches(epoch, first), first):
                if kill and (epoch, place) == (3, 2):
                    raise Killed
                yield batch

        return dataclasses.replace(job(variant(name)), batches=noted, evaluate=lambda: 0.5)

    unbroken = start()
    history = loop.run(unbroken, tmp_path / "unbroken", "mark", Silent())
    with pytest.raises(Killed):
        loop.run(start(kill=True), tmp_path / "killed", "mark", Silent())
    torch.manual_seed(12345)
    asked.clear()
    resumed, progress = start(), Started()
    rows = loop.run(resumed, tmp_path / "killed", "mark", progress)
    assert asked == [(3, left_out), (4, 0), (5, 0)]
    assert progress.done == 9 + left_out
    assert_equal(resumed.model, unbroken.model)
    for mine, theirs in zip(rows, history, strict=True):
        assert {key: mine[key] for key in ("epoch", "loss", "learning_rate")}.items() <= theirs.items()
    checkpoint = Checkpoint.read(tmp_path / "killed")
    assert checkpoint is not None
    assert checkpoint.within == {}


def test_dropout_is_another_in_each_part_of_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_PART_STEPS", 1)
    started, seeds = job(), list[int]()

    def noted(batch: Batch) -> Answer:
        seeds.append(torch.initial_seed())
        return started.forward(batch)

    loop.run(dataclasses.replace(started, forward=noted), tmp_path, "mark", Silent())
    assert len(seeds) == len(set(seeds)) == 3 * SPEC.epochs


class Started(Silent):
    """Notes how much was done when the work began."""

    def task(self, description: str, total: int, done: int = 0) -> AbstractContextManager[Task]:
        self.done = done
        return super().task(description, total, done)


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    first = job()
    loop.run(first, tmp_path, "mark", Silent())
    before = (tmp_path / "last.pt").stat().st_mtime_ns
    again = job()
    loop.run(again, tmp_path, "mark", Silent())
    assert_equal(again.model, first.model)
    assert (tmp_path / "last.pt").stat().st_mtime_ns == before


def test_a_checkpoint_of_something_else_is_not_gone_on_with_and_that_is_told(tmp_path: Path) -> None:
    progress = Notes()
    loop.run(job(), tmp_path, "mark", progress)
    loop.run(job(), tmp_path, "mark", progress)
    assert progress.notes == []
    other = job(seed=1)
    loop.run(other, tmp_path, "another mark", progress)
    (told,) = progress.notes
    assert told.startswith(
        f"test: begins again, since the checkpoint in {tmp_path} is of other data or settings, or of"
    )
    checkpoint = Checkpoint.read(tmp_path)
    assert checkpoint is not None
    assert checkpoint.fingerprint == "another mark"
    assert checkpoint.epoch == 6


@pytest.mark.parametrize("start", [b"damaged", b"0", b".", b"}.", b"\x80\x02M", b"\x80\x02h\x00."])
def test_a_damaged_checkpoint_is_named(start: bytes, tmp_path: Path) -> None:
    (tmp_path / "last.pt").write_bytes(start)
    with pytest.raises(DataError, match=r"last\.pt is damaged"):
        Checkpoint.read(tmp_path)


def test_one_that_may_not_be_read_is_not_called_damaged(
    whole_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "open", Mock(side_effect=PermissionError(errno.EACCES, "Permission denied")))
    with pytest.raises(DataError) as caught:
        Checkpoint.read(whole_checkpoint)
    assert str(caught.value) == f"cannot read {whole_checkpoint / 'last.pt'}: Permission denied"


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_one_changed_bit_is_seen_or_changes_nothing(place: float, bit: int, whole_checkpoint: Path) -> None:
    before = Checkpoint.read(whole_checkpoint)
    with tempfile.TemporaryDirectory() as name:
        data = bytearray((whole_checkpoint / "last.pt").read_bytes())
        data[int(place * len(data))] ^= 1 << bit
        (Path(name) / "last.pt").write_bytes(data)
        try:
            after = Checkpoint.read(Path(name))
        except DataError:
            return
    assert after is not None
    assert before is not None
    assert (after.fingerprint, after.epoch, after.history) == (before.fingerprint, before.epoch, before.history)
    assert after.model.keys() == before.model.keys()
    assert all(torch.equal(value, before.model[key]) for key, value in after.model.items())


@pytest.fixture(scope="module")
def whole_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    Checkpoint("mark", 1, nn.Linear(20, 30).state_dict(), {}, {}, [{"loss": 1.0}]).write(folder)
    return folder


def test_weights_are_told_apart_and_the_rest_of_a_checkpoint_does_not_count() -> None:
    def of(epoch: int, **model: torch.Tensor) -> str:
        return Checkpoint("mark", epoch, model, {}, {}, []).weights_hash()

    one, many = torch.tensor(1.0), torch.arange(6.0).to(torch.bfloat16)
    assert of(1, one=one, many=many) == of(2, many=many.clone(), one=one.clone())
    others = [of(1, one=one, many=many.reshape(2, 3)), of(1, one=one, many=many + 1), of(1, many=many)]
    assert len({of(1, one=one, many=many), *others}) == 4


def test_a_checkpoint_keeps_the_version_numbers_of_a_state_dict(tmp_path: Path) -> None:
    state = nn.Sequential(nn.BatchNorm2d(3)).state_dict()
    Checkpoint("mark", 1, state, {}, {}, []).write(tmp_path)
    read = Checkpoint.read(tmp_path)
    assert read is not None
    assert read.model._metadata == state._metadata  # type: ignore[attr-defined]
    assert read.model._metadata["0"] == {"version": 2}  # type: ignore[attr-defined]


@pytest.mark.parametrize(("top1s", "best"), [((0.1, 0.3, 0.2, 0.3, 0.3, 0.0), 2), ((0.0, 0.0, 0.0, 0.0, 0.0, 0.0), 1)])
@pytest.mark.parametrize("keep", ["last", "best"])
def test_the_best_checkpoint_is_the_earliest_of_the_highest(
    keep: str, top1s: tuple[float, ...], best: int, tmp_path: Path
) -> None:
    measured = iter(top1s)
    started = job(SPEC.model_copy(update={"keep": keep}))
    loop.run(dataclasses.replace(started, evaluate=lambda: next(measured)), tmp_path, "mark", Silent())
    kept = Checkpoint.kept(tmp_path)
    assert kept is not None
    assert kept.epoch == {"last": 6, "best": best}[keep]
    for name, value in started.model.state_dict().items():
        assert torch.equal(value, kept.model[name]), name
    found = Checkpoint.read(tmp_path, "best")
    assert found is not None
    assert found.epoch == best


@pytest.mark.parametrize(("again", "best"), [(0.9, 3), (0.5, 1)])
def test_a_kill_between_two_checkpoints_leaves_a_best_one_that_the_log_knows(
    again: float, best: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU an epoch that is run again comes out otherwise."""
    write = Checkpoint.write

    def killed(self: Checkpoint, folder: Path, which: Which = "last") -> None:
        if self.epoch == 3 and which == killed_before:
            raise Killed
        write(self, folder, which)

    def measured(*top1s: float) -> Job:
        return dataclasses.replace(job(SPEC.model_copy(update={"keep": "best"})), evaluate=iter(top1s).__next__)

    killed_before: Which = "best" if again == 0.9 else "last"
    monkeypatch.setattr(Checkpoint, "write", killed)
    with pytest.raises(Killed):
        loop.run(measured(0.6, 0.5, 0.9), tmp_path, "mark", Silent())
    monkeypatch.undo()
    later = (again, 0.2, 0.2, 0.2)
    loop.run(measured(*(later[1:] if killed_before == "best" else later)), tmp_path, "mark", Silent())
    kept = Checkpoint.kept(tmp_path)
    assert kept is not None
    assert (kept.epoch, kept.history[-1]["top1"]) == (best, max(again, 0.6))


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    loop.run(job(), tmp_path, "mark", Silent())
    found = Checkpoint.read(tmp_path)
    assert found is not None
    found.model.popitem()
    found.write(tmp_path)
    with pytest.raises(DataError, match=r"holds a checkpoint of another network \(delete the folder"):
        loop.run(job(), tmp_path, "mark", Silent())


def test_without_held_out_clips_the_best_cannot_be_kept(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"test: keep is 'best', but there are no val clips"):
        loop.run(job(variant("best")), tmp_path, "mark", Silent())


def test_the_best_of_an_earlier_training_does_not_outlive_it(tmp_path: Path) -> None:
    loop.run(dataclasses.replace(job(), evaluate=lambda: 1.0), tmp_path, "mark", Silent())
    loop.run(job(), tmp_path, "another mark", Silent())
    assert Checkpoint.read(tmp_path, "best") is None
