"""A run folder is begun once, gone on with by the same recipe and data, and never taken over."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from unittest.mock import Mock

import pytest

from d3d_edge import manifest, recipe
from d3d_edge.errors import DataError, RecipeError
from d3d_edge.files import files_below
from d3d_edge.manifest import Clip, Manifest
from d3d_edge.report import SkippedClip
from d3d_edge.runs import Run, fingerprint, held


@pytest.fixture
def data(tmp_path: Path) -> Manifest:
    places = (("a", "train"), ("b", "train"), ("a", "test"), ("b", "test"))
    return Manifest(
        clips=tuple(
            Clip.model_validate({"path": str(tmp_path / f"{i}.mp4"), "label": label, "split": split, "group": str(i)})
            for i, (label, split) in enumerate(places)
        )
    )


RECIPE = recipe.load("demo")


def test_a_begun_run_reads_back_equal(tmp_path: Path, data: Manifest) -> None:
    Run.start(tmp_path / "run", RECIPE, data)
    opened = Run.open(tmp_path / "run")
    assert opened.recipe == RECIPE
    assert opened.data == data


@pytest.mark.parametrize("keep_float", ["none", "auto"])
def test_the_gate_is_part_of_quantization_where_groups_are_left_in_float_to_hold_it(
    keep_float: str, tmp_path: Path, data: Manifest
) -> None:
    wanted = (f"quantize.keep_float={keep_float}", "gates.top1_drop_points_max={}")
    hashes = {
        Run(tmp_path, recipe.load("demo", [setting.format(bound) for setting in wanted]), data).quantize_hash
        for bound in (1, 2)
    }
    assert len(hashes) == (2 if keep_float == "auto" else 1)


def test_the_same_recipe_and_data_go_on(tmp_path: Path, data: Manifest) -> None:
    Run.start(tmp_path / "run", RECIPE, data).finish("teacher", "mark", top1=0.5)
    assert Run.start(tmp_path / "run", RECIPE, data).results("teacher", "mark") == {"fingerprint": "mark", "top1": 0.5}


def test_another_recipe_or_other_data_are_refused(tmp_path: Path, data: Manifest) -> None:
    Run.start(tmp_path / "run", RECIPE, data).folder("teacher").mkdir()
    with pytest.raises(
        RecipeError, match=r"another recipe .*what comes after training is changed in .*run/recipe.yaml"
    ):
        Run.start(tmp_path / "run", recipe.load("demo", ["seed=1"]), data)
    with pytest.raises(RecipeError, match=rf"other data, .*: {data.clips[0].path} is gone"):
        Run.start(tmp_path / "run", RECIPE, data.without([data.clips[0].path]))


def test_moved_clips_are_told_by_name_and_go_on_once_their_paths_are_changed(tmp_path: Path, data: Manifest) -> None:
    Run.start(tmp_path / "run", RECIPE, data).folder("teacher").mkdir()
    moved = Manifest(
        clips=tuple(clip.model_copy(update={"path": f"/new/{Path(clip.path).name}"}) for clip in data.clips)
    )
    with pytest.raises(RecipeError, match=r"place: /new/0.mp4 was not there, .*change their paths in .*run/data.csv"):
        Run.start(tmp_path / "run", RECIPE, moved)
    listed = tmp_path / "run" / "data.csv"
    listed.write_text(listed.read_text().replace(str(tmp_path), "/new"))
    assert Run.start(tmp_path / "run", RECIPE, moved).data == moved


def test_published_weights_may_move_or_be_gone_and_not_be_left_out(tmp_path: Path, data: Manifest) -> None:
    (tmp_path / "weights.npz").touch()
    there = recipe.load("demo", [f"teacher.weights={tmp_path / 'weights.npz'}"])
    Run.start(tmp_path / "run", there, data).folder("teacher").mkdir()
    moved = recipe.load("demo", ["teacher.weights=elsewhere.npz"])
    assert Run.start(tmp_path / "run", moved, data).recipe == moved
    with pytest.raises(RecipeError, match="another recipe"):
        Run.start(tmp_path / "run", RECIPE, data)


def test_a_run_in_which_nothing_was_begun_takes_another_recipe_and_other_data(tmp_path: Path, data: Manifest) -> None:
    """What refused it had a hint to change its recipe."""
    Run.start(tmp_path / "run", RECIPE, data)
    other, fewer = recipe.load("demo", ["seed=1"]), data.without([data.clips[0].path])
    Run.start(tmp_path / "run", other, fewer)
    run = Run.open(tmp_path / "run")
    assert (run.recipe, run.data) == (other, fewer)


def test_a_folder_that_is_something_else_is_refused(tmp_path: Path, data: Manifest) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(DataError, match="not a run"):
        Run.start(tmp_path, RECIPE, data)
    with pytest.raises(DataError, match="not a run"):
        Run.open(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_what_a_killed_start_leaves_is_gone_on_with(tmp_path: Path, data: Manifest) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    manifest.write(data, folder / "data.csv")
    (folder / ".recipe.yaml.123.partial").write_text("na")
    assert Run.start(folder, RECIPE, data).data == data


OWN_RECIPE = "extends: demo\nname: mine\n"
UNSPLIT = "path,label,split,group\n/a.mp4,a,,a\n/b.mp4,b,,b\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("data.csv", "path,label,split\na.mp4,a,train\nb.mp4,b,train\n"),
        pytest.param("data.csv", UNSPLIT, id="without a split"),
        ("data.csv", "path,label\n"),
        ("recipe.yaml", OWN_RECIPE),
        ("recipe.yaml", "nam"),
    ],
)
@pytest.mark.parametrize("alone", [True, False])
def test_a_list_or_a_recipe_that_no_run_wrote_is_not_replaced(
    name: str, text: str, alone: bool, tmp_path: Path, data: Manifest
) -> None:
    folder = tmp_path / "mine"
    if alone:
        folder.mkdir()
    else:
        Run.start(folder, RECIPE, data)
    (folder / name).write_text(text)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises((RecipeError, DataError), match="choose another --out"):
        Run.start(folder, RECIPE, data)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_run_without_a_stage_is_begun_anew_from_its_own_recipe_and_list(tmp_path: Path, data: Manifest) -> None:
    run = Run.start(tmp_path / "run", RECIPE, data).path
    changed = recipe.load(str(run / "recipe.yaml"), ["seed=1"])
    assert Run.start(run, changed, manifest.load(run / "data.csv")).data == data
    assert Run.open(run).recipe == changed


def test_a_stage_made_from_something_else_is_not_finished(tmp_path: Path, data: Manifest) -> None:
    run = Run.start(tmp_path / "run", RECIPE, data)
    assert run.results("student") is None
    run.finish("student", "mark")
    assert run.results("student", "mark") is not None
    assert run.results("student", "another mark") is None
    assert run.need("student") == {"fingerprint": "mark"}


@pytest.mark.parametrize(
    ("stage", "hint"),
    [("teacher", "d3d-edge distill ... --out '{}'"), ("quantized", "d3d-edge quantize '{}'")],
)
def test_what_is_not_finished_is_told_with_the_command_that_finishes_it(
    stage: str, hint: str, tmp_path: Path, data: Manifest
) -> None:
    run = Run.start(tmp_path / "a run", RECIPE, data)
    with pytest.raises(DataError, match=f"the stage {stage} is not finished") as refused:
        run.need(stage)
    assert refused.value.hint == hint.format(run.path)


def test_a_stage_that_may_not_be_read_is_not_called_unfinished(
    tmp_path: Path, data: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.start(tmp_path / "run", RECIPE, data)
    run.finish("student", "mark")
    monkeypatch.setattr(Path, "read_text", Mock(side_effect=PermissionError("Permission denied")))
    with pytest.raises(PermissionError):
        run.need("student")


@pytest.mark.parametrize("place", ["", "teacher", "probe/student"])
def test_what_killed_processes_left_is_swept_from_finished_stages_too(
    place: str, tmp_path: Path, data: Manifest
) -> None:
    run = Run.start(tmp_path / "run", RECIPE, data)
    run.finish("teacher", "mark")
    run.finish("probe/student", "mark")
    whole = files_below(run.path)
    old, new = (run.path / place / f".last.pt.0000000{number}.partial" for number in range(2))
    for left in (old, new):
        left.write_text("half")
    os.utime(old, (0, 0))
    run.sweep()
    assert files_below(run.path) == sorted([*whole, new])


def test_skipped_clips_are_kept(tmp_path: Path, data: Manifest) -> None:
    run = Run.start(tmp_path / "run", RECIPE, data)
    assert run.skipped() == ()
    skipped = (SkippedClip(path="x.mp4", reason="damaged"),)
    run.record_skipped(skipped)
    assert run.skipped() == skipped


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000])
def test_a_stage_whose_note_is_damaged_is_not_finished(text: str, tmp_path: Path, data: Manifest) -> None:
    run = Run.start(tmp_path / "run", RECIPE, data)
    run.finish("teacher", "a", top1=0.5)
    assert run.results("teacher") is not None
    (run.folder("teacher") / "done.json").write_text(text)
    assert run.results("teacher") is None


@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 100_000])
def test_a_damaged_list_of_skipped_clips_is_named(text: str, tmp_path: Path, data: Manifest) -> None:
    run = Run.start(tmp_path / "run", RECIPE, data)
    run.record_skipped(())
    (run.path / "skipped.json").write_text(text)
    with pytest.raises(DataError, match=r"skipped\.json is damaged"):
        run.skipped()


def test_a_run_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "new" / "run"
    with held(path), pytest.raises(DataError, match=r"another command is at work on .*run"), held(path):
        pass
    with held(path):
        pass


def test_where_folders_cannot_be_held_work_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcntl.flock", Mock(side_effect=OSError(errno.EBADF, "Bad file descriptor")))
    with held(tmp_path), held(tmp_path):
        pass


def test_a_fingerprint_changes_with_every_part() -> None:
    assert fingerprint("a", 1) == fingerprint("a", 1)
    assert len({fingerprint("a", 1), fingerprint("a", 2), fingerprint("b", 1), fingerprint("a")}) == 4
