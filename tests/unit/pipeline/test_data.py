"""What makes a data set say less than it seems to is said, in one line each."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from d3d_edge import recipe
from d3d_edge.errors import DataError, StorageError
from d3d_edge.manifest import Clip, Manifest
from d3d_edge.pipeline.data import RunData, note_doubtful, prepare
from d3d_edge.pipeline.notes import note_waiting
from d3d_edge.progress import Silent
from d3d_edge.report import SkippedClip
from d3d_edge.runs import Run
from d3d_edge.video import cache
from d3d_edge.video.cache import CachedClip, Prepared
from tests.notes import Notes

ALL_TESTED = (
    "each training video is in the test split too, so d3d-edge quantize will have no clips to calibrate on: "
    "give the clips of one video one group"
)


@pytest.mark.parametrize(
    ("rows", "notes"),
    [
        (["1 a train", "2 b train", "3 a test", "4 b test"], []),
        (["1 a train", "2 b train", "3 a test"], ["no test clip, so nothing is said of: b"]),
        (
            ["1 a train", "2 b train", "1 a test", "4 b test", "2 b test"],
            [ALL_TESTED, "videos that stand in two splits: 2, e.g. /0 (train), /2 (test)"],
        ),
        (["1 a train", "2 b train", "1 a train", "3 a test", "4 b test"], []),
        (
            ["1 a train", "1 b train", "3 a test", "4 b test"],
            ["videos that stand under two labels: 1, e.g. /0 (a), /1 (b)"],
        ),
        (
            ["1 a train", "1 a train", "1 a train", "1 a train", "1 b train", "3 a test", "4 b test"],
            ["videos that stand under two labels: 1, e.g. /0 (a), /4 (b), /1 (a)"],
        ),
        (["1 a train 0", "1 b train 5", "3 a test", "4 b test"], []),
        (
            ["1 a train 0", "2 b train", "1 a test 5", "4 b test"],
            ["videos that stand in two splits: 1, e.g. /0#t=0 (train), /2#t=5 (test)"],
        ),
    ],
    ids=["nothing", "untested", "leaked", "twice", "two labels", "two labels late", "parts", "parts leaked"],
)
def test_what_is_doubtful_is_noted(rows: list[str], notes: list[str]) -> None:
    clips = []
    for place, row in enumerate(rows):
        video, label, split, *start_s = row.split()
        clip = Clip.model_validate(
            {"path": f"/{place}", "label": label, "split": split, "group": row, "start_s": (*start_s, None)[0]}
        )
        clips.append(CachedClip(clip, video, Path("frames"), Path("flow"), 1))
    progress = Notes()
    note_doubtful(RunData(recipe.load("demo"), ("a", "b"), tuple(clips)), progress)
    assert progress.notes == notes


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (("cafe", "wave"), False),
        (("caf\u00e9", "cafe\u0301"), True),
        (("Wave", "wave"), True),
        (("high five", "highfive\u200b"), True),
    ],
)
def test_classes_whose_names_look_alike_are_named(labels: tuple[str, str], said: bool) -> None:
    notes = doubts(labels)
    expected = f"classes whose names look alike: {labels[0]!r}, {labels[1]!r}"
    assert notes == ([expected] if said else [])


@pytest.mark.parametrize(
    ("labels", "flip", "said"),
    [
        (("Move_Left", "move_right"), True, True),
        (("move_left", "move_right"), False, False),
        (("cleft", "wave"), True, False),
    ],
)
def test_flipping_is_doubted_where_it_makes_one_class_of_another(
    labels: tuple[str, str], flip: bool, said: bool
) -> None:
    expected = (
        f"augment.flip shows {labels[0]} mirrored, perhaps as {labels[1]}: unless a mirrored clip keeps its label, set "
        "augment.flip: false"
    )
    assert doubts(labels, f"augment.flip={str(flip).lower()}") == ([expected] if said else [])


def doubts(labels: tuple[str, ...], *settings: str) -> list[str]:
    """What is noted of a test clip of each class."""
    clips = [
        CachedClip(Clip(path=f"/{place}", label=label, split="test", group=""), str(place), Path("a"), Path("b"), 1)
        for place, label in enumerate(labels)
    ]
    progress = Notes()
    note_doubtful(RunData(recipe.load("demo", settings), labels, tuple(clips)), progress)
    return progress.notes


def test_a_class_without_a_readable_clip_is_refused_with_the_reason_of_its_own_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [("a", "train"), ("b", "train"), ("a", "test"), ("b", "test"), ("a", "test")]
    clips = [
        Clip.model_validate({"path": f"/{place}", "label": label, "split": split, "group": str(place)})
        for place, (label, split) in enumerate(rows)
    ]
    skipped = tuple(SkippedClip(path=f"/{place}", reason=f"/{place} is empty") for place in (2, 3))
    ready = tuple(CachedClip(clips[place], str(place), Path("frames"), Path("flow"), 1) for place in (0, 1, 4))
    monkeypatch.setattr(cache, "prepare", lambda *args, **options: Prepared(ready, skipped, 0, 0))
    run = Run.start(tmp_path / "run", recipe.load("demo"), Manifest(clips=tuple(clips)))
    with pytest.raises(DataError, match=r"no readable test clip is left of the class b, e\.g\. /3 is empty"):
        prepare(run, tmp_path, workers=0, strict=False, progress=Silent())


def test_what_a_killed_process_left_in_a_finished_stage_is_deleted_by_whatever_uses_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = Clip.model_validate({"path": "/0", "label": "a", "split": "test", "group": "0"})
    ready = (CachedClip(clip, "0", Path("frames"), Path("flow"), 1),)
    monkeypatch.setattr(cache, "prepare", lambda *args, **options: Prepared(ready, (), 0, 0))
    run = Run.start(tmp_path / "run", recipe.load("demo"), Manifest(clips=(clip,)))
    run.finish("teacher", "mark")
    left = run.folder("teacher") / ".last.pt.1a2b3c4d.partial"
    left.write_text("half")
    os.utime(left, (0, 0))
    prepare(run, tmp_path, workers=0, strict=False, progress=Silent(), only="test")
    assert not left.exists()


def test_a_run_that_cannot_be_written_is_told_of_before_any_clip_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = Clip.model_validate({"path": "/0", "label": "a", "split": "test", "group": "0"})
    run = Run.start(tmp_path / "run", recipe.load("demo"), Manifest(clips=(clip,)))
    (run.path / "skipped.json").mkdir()
    monkeypatch.setattr(cache, "prepare", lambda *args, **options: pytest.fail("clips were decoded"))
    with pytest.raises(StorageError, match=r"cannot write .*skipped\.json"):
        prepare(run, tmp_path, workers=0, strict=False, progress=Silent())


@pytest.mark.parametrize(("shares", "said"), [((0.9, 0.1, 0.0), True), ((0.3, 0.1, 0.2), False), ((), False)])
@pytest.mark.parametrize("suffix", [".npy", ".png"])
def test_a_device_that_mostly_waits_for_clips_is_told_of(shares: tuple[float, ...], said: bool, suffix: str) -> None:
    """The last row is of a checkpoint that an older version wrote."""
    clip = Clip(path="/0", label="a", split="train", group="0")
    entry = CachedClip(clip, "0", Path(f"frames{suffix}"), Path(f"flow{suffix}"), 1)
    notes = Notes()
    history = [*({"loss": 1.0, "waiting_for_data": share} for share in shares), {"loss": 1.0}]
    note_waiting("teacher", history, RunData(recipe.load("demo"), ("a",), (entry,)), notes)
    assert [note.partition(" of the")[0] for note in notes.notes] == (["teacher: 33%"] if said else [])
    assert all(("without --compress" in note) is (suffix == ".png") for note in notes.notes)
