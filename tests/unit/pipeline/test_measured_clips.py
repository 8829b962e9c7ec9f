"""Which clips are measured, and whether they are those of training."""

from __future__ import annotations

from pathlib import Path

import pytest

from d3d_edge import manifest, recipe
from d3d_edge.pipeline.measured_clips import clips_of

ROWS = ("a1.mp4,a,train", "b1.mp4,b,train", "a2.mp4,a,test", "b2.mp4,b,test")


def listed(folder: Path, *rows: str) -> Path:
    folder.mkdir()
    for row in rows:
        (folder / row.partition(",")[0]).touch()
    path = folder / "clips.csv"
    path.write_text("\n".join(("path,label,split", *rows)))
    return path


@pytest.mark.parametrize("in_order", [False, True], ids=["bundle", "bundle of an older version"])
@pytest.mark.parametrize(
    ("rows", "noted"),
    [
        (ROWS, False),
        (ROWS[::-1], False),
        ((*ROWS[:3], "b2.mp4,b,train"), True),
        (("a1.mp4,b,train", *ROWS[1:]), True),
        (ROWS[1:], True),
    ],
    ids=["the same", "another order", "another split", "another label", "one less"],
)
def test_clips_that_are_not_those_of_training_are_noted(
    rows: tuple[str, ...], noted: bool, in_order: bool, tmp_path: Path
) -> None:
    trained_on = manifest.load(listed(tmp_path / "then", *ROWS)).data_hash(in_order=in_order)
    now = listed(tmp_path / "now", *rows)
    _, notes = clips_of(("a", "b"), trained_on, recipe.load("demo"), now, "test")
    # What an older version wrote down tells no other order from other clips.
    assert bool(notes) is (noted or (in_order and rows == ROWS[::-1]))
