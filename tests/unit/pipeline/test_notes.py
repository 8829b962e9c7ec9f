"""What is said of clips and of training before, or instead of, a wrong figure."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from torch import nn

from d3d_edge import recipe
from d3d_edge.manifest import Clip, Manifest, Split, drawn
from d3d_edge.pipeline.data import RunData
from d3d_edge.pipeline.notes import note_classes, note_copies, note_drawn, note_unsettled
from d3d_edge.video.cache import CachedClip
from tests.notes import Notes


def clips(*groups: str, split: Split | Literal[""] = "") -> Manifest:
    made = (Clip(path=f"/{place}", label="a", split=split, group=group) for place, group in enumerate(groups))
    return Manifest(clips=tuple(made))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (clips("0", "1", "2", "3"), ["split drawn by file: 2 train, 1 val, 1 test; a CSV with a column `group` keeps"]),
        (clips("anna", "anna", "ben", "cleo"), ["split drawn by group, 3 of them: "]),
        (clips("0", "1", split="train"), []),
    ],
    ids=["files", "people", "as given"],
)
def test_how_a_split_was_drawn_is_told(given: Manifest, said: list[str]) -> None:
    notes = Notes()
    note_drawn(given, drawn(given, val_share=0.25, test_share=0.25, seed=0), notes)
    assert [note.startswith(start) for note, start in zip(notes.notes, said, strict=True)] == [True] * len(said)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["b", "a", "b"], "2 classes: a, b"),
        ([f"{number:02}" for number in range(12)], "12 classes: 00, 01, 02, 03, 04, 05, 06, 07, 08, 09 and 2 more"),
    ],
    ids=["few", "many"],
)
def test_the_classes_are_named(labels: list[str], said: str) -> None:
    notes = Notes()
    made = (Clip(path=f"/{n}", label=label, split="", group=str(n)) for n, label in enumerate(labels))
    note_classes(Manifest(clips=tuple(made)), notes)
    assert notes.notes == [said]


@pytest.mark.parametrize(("end_s", "copies"), [(None, 1), (1.0, 0)], ids=["the same", "another part"])
def test_test_clips_that_are_training_clips_too_are_counted(end_s: float | None, copies: int) -> None:
    def cached(name: str, split: str, sha256: str, end_s: float | None = None) -> CachedClip:
        clip = Clip.model_validate({"path": name, "label": "a", "split": split, "group": name, "end_s": end_s})
        return CachedClip(clip, sha256, Path("frames.npy"), Path("flow.npy"), 1)

    entries = (cached("/a", "train", "1"), cached("/b", "test", "2"), cached("/copy", "test", "1", end_s))
    notes = Notes()
    note_copies(RunData(recipe.load("demo"), ("a",), entries), notes)
    assert [note.partition("too much: ")[2] for note in notes.notes] == ["1, e.g. /copy"] * copies


@pytest.mark.parametrize(
    ("momentum", "epochs", "published", "said"),
    [
        (0.001, 25, False, ["in 75 the running statistics of its batch norms come 7% of their way"]),
        (0.001, 25, False, ["2302 steps in all would do; network.bn_momentum is 0.001, and 0.1 suits few steps)"]),
        (0.1, 7, False, ["in 21 the running statistics of its batch norms come 89% of their way"]),
        (0.1, 7, False, ["22 steps in all would do)"]),
        (0.1, 8, False, []),
        (0.1, 25, False, []),
        (0.001, 767, False, ["2301"]),
        (0.001, 768, False, []),
        (0.001, 1000, False, []),
        (0.001, 25, True, []),
    ],
)
def test_training_too_short_for_the_batch_norms_is_told(
    momentum: float, epochs: int, published: bool, said: list[str]
) -> None:
    norm = nn.BatchNorm2d(2, momentum=momentum)
    if published:
        norm.running_var.fill_(0.5)
    job: Any = SimpleNamespace(
        title="teacher (flow)", model=nn.Sequential(norm), batches_per_epoch=3, spec=SimpleNamespace(epochs=epochs)
    )
    notes = Notes()
    note_unsettled(job, notes)
    assert len(notes.notes) == len(said)
    assert all(words in note for words, note in zip(said, notes.notes, strict=True))
