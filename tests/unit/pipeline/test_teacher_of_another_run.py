"""A teacher is taken from another run whole, or not at all; and again where the copy's weights are lost."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from d3d_edge import files
from d3d_edge.distill.checkpoint import Checkpoint
from d3d_edge.errors import DataError, RecipeError
from d3d_edge.manifest import Manifest
from d3d_edge.pipeline import distill, marks
from d3d_edge.pipeline.data import RunData
from d3d_edge.runs import Run
from tests.unit.pipeline.conftest import Make

WEIGHTS = "last.pt"


class Both:
    """A run with a finished teacher, and one of the same recipe and data that has none yet."""

    def __init__(self, source: Run, run: Run, data: RunData) -> None:
        self.theirs = source.folder("teacher")
        self.own = run.folder("teacher")
        self._source = source
        self._run = run
        self._data = data

    def copy(self) -> None:
        distill._copy_teacher(self._source, self._run, self._data)

    def assert_taken(self) -> None:
        mark = marks.teacher(self._run, self._data)
        assert self._run.results("teacher", mark) is not None
        assert (self.own / WEIGHTS).read_bytes() == (self.theirs / WEIGHTS).read_bytes()


@pytest.fixture
def both(make: Make, tmp_path: Path) -> Both:
    made = make()
    made.run.finish("teacher", marks.teacher(made.run, made.data), top1=0.0)
    return Both(made.run, Run.start(tmp_path / "new", made.run.recipe, made.run.data), made.data)


def damage(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def test_a_teacher_without_weights_is_refused_and_nothing_is_copied(both: Both) -> None:
    (both.theirs / WEIGHTS).unlink()
    with pytest.raises(DataError, match=rf"{both.theirs} has no weights .*d3d-edge distill .*without --teacher"):
        both.copy()
    assert not both.own.exists()


def test_a_teacher_of_the_same_clips_in_another_order_is_refused_for_that(make: Make, tmp_path: Path) -> None:
    made = make()
    made.run.finish("teacher", "another mark", top1=0.0)
    turned = Manifest(clips=made.run.data.clips[::-1])
    both = Both(made.run, Run.start(tmp_path / "new", made.run.recipe, turned), made.data)
    with pytest.raises(RecipeError, match="or on other data or another seed: the order is another"):
        both.copy()


def test_what_a_killed_process_left_beside_a_teacher_is_not_copied(both: Both) -> None:
    (both.theirs / ".best.pt.1a2b3c4d.partial").write_text("half")
    both.copy()
    both.assert_taken()
    assert not list(both.own.glob(".*"))


def test_a_teacher_that_is_being_copied_is_not_swept_as_forsaken(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    """By another command on the same run, after the last file came and before the copy has its name."""
    for path in (*both.theirs.iterdir(), both.theirs):
        os.utime(path, (0, 0))
    monkeypatch.setattr(files, "_sync", lambda file: files.sweep(both.own.parent))
    both.copy()
    both.assert_taken()


def test_a_teacher_whose_best_weights_are_gone_is_refused(both: Both) -> None:
    checkpoint = Checkpoint.kept(both.theirs)
    assert checkpoint is not None
    checkpoint.keep = "best"
    checkpoint.write(both.theirs)
    with pytest.raises(DataError, match="has no weights"):
        both.copy()
    checkpoint.write(both.theirs, "best")
    both.copy()
    both.assert_taken()


def test_a_teacher_with_damaged_weights_is_refused_until_it_is_mended(both: Both) -> None:
    whole = (both.theirs / WEIGHTS).read_bytes()
    damage(both.theirs / WEIGHTS)
    with pytest.raises(DataError, match=rf"{both.theirs / WEIGHTS} is damaged"):
        both.copy()
    assert not both.own.exists()
    (both.theirs / WEIGHTS).write_bytes(whole)
    both.copy()
    both.assert_taken()


@pytest.mark.parametrize("lose", [Path.unlink, damage], ids=["lost", "damaged"])
def test_a_copy_without_its_weights_is_taken_again(lose: Callable[[Path], None], both: Both) -> None:
    both.copy()
    lose(both.own / WEIGHTS)
    both.copy()
    both.assert_taken()


def test_a_whole_copy_needs_the_other_run_no_more(both: Both) -> None:
    both.copy()
    shutil.rmtree(both.theirs)
    both.copy()
    assert (both.own / WEIGHTS).is_file()
