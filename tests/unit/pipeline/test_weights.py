"""A run knows the weights that it began with by their hash, from its first checkpoint on."""

from __future__ import annotations

from pathlib import Path

import pytest

from d3d_edge import recipe
from d3d_edge.distill.checkpoint import Checkpoint, Which
from d3d_edge.errors import DataError
from d3d_edge.manifest import Clip, Manifest
from d3d_edge.pipeline import weights
from d3d_edge.runs import Run


@pytest.fixture
def data(tmp_path: Path) -> Manifest:
    rows = [(label, split) for split in ("train", "test") for label in ("a", "b")]
    return Manifest(
        clips=tuple(
            Clip.model_validate({"path": str(tmp_path / f"{n}.mp4"), "label": label, "split": split, "group": str(n)})
            for n, (label, split) in enumerate(rows)
        )
    )


@pytest.mark.parametrize("keep", ["last", "best"])
def test_what_is_refused_changes_no_record_of_a_stage_that_was_begun(
    keep: Which, data: Manifest, tmp_path: Path
) -> None:
    run = Run.start(tmp_path / "run", recipe.load("demo", [f"teacher.weights={tmp_path / 'flow.npz'}"]), data)
    weights.record(run, {"teacher": "first"})
    weights.record(run, {"teacher": "second"})  # nothing was begun with the first
    run.folder("teacher").mkdir()
    Checkpoint("mark", 1, {}, {}, {}, [{"epoch": 1.0}], keep=keep).write(run.folder("teacher"))
    with pytest.raises(DataError, match=r"flow\.npz is another file than the teacher of .* began with"):
        weights.record(run, {"teacher": "third"})
    assert weights.mark(run, "teacher") == ["second"]
    assert weights.check(run.recipe, run) == {"teacher": "second"}  # the file is gone
