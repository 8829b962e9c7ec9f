"""The log is readable at any moment, and a resumed run shows each step once."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path

import pytest

from d3d_edge.distill.log import Log, note_what_is_missing
from d3d_edge.errors import StorageError
from tests.notes import Notes

ROWS = [{"epoch": 1.0, "loss": 2.5, "top1": 0.25}, {"epoch": 2.0, "loss": 1.5}]


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values by name, as TensorBoard shows them."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    read = accumulator.EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def test_both_logs_have_every_epoch(tmp_path: Path) -> None:
    with Log(tmp_path, 0) as log:
        log.step(1, 2.5, 0.1)
        log.epoch(1, ROWS[:1])
        log.step(2, 1.5, 0.05)
        log.epoch(2, ROWS)
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == ROWS
    assert events(tmp_path) == {
        "step/loss": [(1, 2.5), (2, 1.5)],
        "step/learning_rate": [(1, pytest.approx(0.1)), (2, pytest.approx(0.05))],
        "epoch/loss": [(1, 2.5), (2, 1.5)],
        "epoch/top1": [(1, 0.25)],
    }


def test_what_a_killed_run_logged_after_its_checkpoint_is_replaced(tmp_path: Path) -> None:
    with Log(tmp_path, 0) as log:
        for step in range(1, 6):
            log.step(step, 10.0, 0.1)
    with Log(tmp_path, 3) as log:
        for step in range(4, 7):
            log.step(step, 1.0, 0.1)
    assert events(tmp_path)["step/loss"] == [(1, 10), (2, 10), (3, 10), (4, 1), (5, 1), (6, 1)]


def test_a_full_disk_while_tensorboard_writes_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its thread would print where it was, and then keep the error for the next call."""
    records = pytest.importorskip("tensorboard.summary.writer.record_writer")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def logged() -> None:
        with Log(tmp_path, 0) as log:
            log.step(1, 2.5, 0.1)
            monkeypatch.setattr(records.RecordWriter, "write", full)
            for epoch in range(1, 4):
                log.epoch(epoch, ROWS)

    with pytest.raises(StorageError, match="No space left"):
        logged()
    assert capfd.readouterr().err == ""


def test_a_log_to_which_nothing_comes_leaves_no_file(tmp_path: Path) -> None:
    with Log(tmp_path, 5):
        pass
    assert not list(tmp_path.iterdir())


def test_without_tensorboard_the_lines_are_written_and_a_note_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with Log(tmp_path, 0) as log:
        log.step(1, 2.5, 0.1)
        log.epoch(1, ROWS[:1])
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]
    progress = Notes()
    note_what_is_missing(progress)
    assert len(progress.notes) == 1
    assert "pip install 'd3d-edge[train]'" in progress.notes[0]


def test_with_tensorboard_there_is_nothing_to_note() -> None:
    pytest.importorskip("tensorboard")
    progress = Notes()
    note_what_is_missing(progress)
    assert not progress.notes
