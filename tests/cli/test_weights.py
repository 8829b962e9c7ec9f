"""A recipe's networks start from published weights, which are checked before any work and are part of the run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from d3d_edge import recipe
from tests.cli.conftest import TINY, D3DEdge, refused
from tests.unit.models import published


def save(path: Path, *, channels: int, classes: int = 7, seed: int = 0) -> None:
    slim = published.Slim(classes, 0.25, temporal_from="5b", gating_from="5c")
    slim.random = np.random.default_rng(seed)
    slim.logits(torch.zeros(1, channels, 4, 32, 32, dtype=torch.float64))
    np.savez(path, **{name: value.astype(np.float32) for name, value in slim.variables.items()})


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """rgb.npz and flow.npz, of slim's S3D-G, and s3d.pt, of torchvision's S3D."""
    folder = tmp_path_factory.mktemp("weights")
    save(folder / "rgb.npz", channels=3)
    save(folder / "flow.npz", channels=2)
    torch.save(published.Torchvision(7, 0.25).state_dict(), folder / "s3d.pt")
    return folder


@pytest.fixture
def mine(files: Path, tmp_path: Path) -> Path:
    """A recipe beside the files, whose student starts from rgb.npz and whose teacher starts from flow.npz."""
    folder = Path(shutil.copytree(files, tmp_path / "recipe"))
    path = folder / "mine.yaml"
    text = TINY.replace("teacher: {", "teacher: {weights: flow.npz, ").replace("{qat: {", "{qat: null} #")
    text = text.replace("epochs: 2", "epochs: 1")
    path.write_text(text.replace("student: {", "student: {initialise: scratch, weights: rgb.npz, "))
    return path


def test_a_path_is_relative_to_the_recipe(mine: Path) -> None:
    loaded = recipe.load(str(mine))
    assert loaded.student.weights == str(mine.parent / "rgb.npz")
    assert loaded.teacher.weights == str(mine.parent / "flow.npz")


def test_weights_that_are_gone_do_not_hinder_reading_a_recipe(mine: Path, d3d_edge: D3DEdge) -> None:
    (mine.parent / "rgb.npz").unlink()
    assert recipe.load(str(mine)).student.weights == "rgb.npz"
    checked = d3d_edge("recipes", "check", mine)
    assert (checked.code, "there is no checkpoint" in checked.err) == (8, True)


def test_a_student_has_one_start(mine: Path, d3d_edge: D3DEdge) -> None:
    checked = d3d_edge("recipes", "check", mine, "--set", "student.initialise=teacher")
    assert (checked.code, "a student has one start" in checked.err) == (2, True)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            ("student.weights=s3d.pt",),
            (
                "is a torchvision checkpoint, which needs stem: separable, gating: false, padding: symmetric, "
                "temporal_from: Conv2d_2c_3x3 in student.network, not stem: conv3d_k3, gating: true, padding: same, "
                "temporal_from: Mixed_5b",
                "--set student.network.stem=separable",
                "--set student.network.gating=false",
                "--set student.network.padding=symmetric",
                "--set student.network.temporal_from=Conv2d_2c_3x3",
            ),
        ),
        (("student.network.width=0.5",), ("needs width: 0.25 in student.network, not width: 0.5",)),
        (
            ("student.network.stage_widths.Mixed_3=0.5",),
            ("of one width; student.network.stage_widths must be left out",),
        ),
        (("teacher.network.temporal_from=Mixed_4b",), ("needs temporal_from: Mixed_5b in teacher.network",)),
        (
            ("student.network.gating_from=Mixed_3b",),
            ("needs gating_from: Mixed_5c in student.network, not gating_from: Mixed_3b",),
        ),
        (("teacher.weights=rgb.npz",), ("for 3 input channels, and the teacher sees flow, which has 2",)),
        (("student.weights=flow.npz",), ("for 2 input channels, and the student sees RGB, which has 3",)),
    ],
    ids=lambda value: value[0][:40],
)
def test_weights_of_another_network_are_told_with_what_to_set(
    settings: tuple[str, ...], words: tuple[str, ...], mine: Path, clips: Path, d3d_edge: D3DEdge
) -> None:
    changes = [word for setting in settings for word in ("--set", setting)]
    out = mine.parent / "run"
    for command in (("recipes", "check", mine), ("distill", mine, "--data", clips, "--out", out)):
        result = d3d_edge(*command, *changes)
        assert result.code == 2
        for word in words:
            assert word in result.err
    assert not out.exists()


def test_what_the_hint_says_is_enough(mine: Path, d3d_edge: D3DEdge) -> None:
    words = [mine, "--set", "student.weights=s3d.pt", "--set", "clip.frames=8"]
    hint = d3d_edge("recipes", "check", *words).err.rpartition("(")[2].rstrip(")\n")
    assert d3d_edge("recipes", "check", *words, *hint.split()).code == 0


@pytest.mark.slow
def test_a_run_starts_from_its_weights_and_other_weights_are_another_training(
    mine: Path, clips: Path, cache: Path, d3d_edge: D3DEdge, tmp_path: Path
) -> None:
    words = ("distill", mine, "--data", clips, "--out", tmp_path / "run", "--cache", cache, "--workers", 0)
    first = d3d_edge(*words)
    assert first.code == 0, first.err
    assert "student: starts from" in first.err
    assert "rgb.npz (slim, 7 classes), the classifier starts from scratch" in " ".join(first.err.split())
    recorded = json.loads((tmp_path / "run" / "weights.json").read_text())
    assert set(recorded) == {"teacher", "student"}
    trained = torch.load(tmp_path / "run" / "student" / "last.pt", weights_only=True)["model"]
    # After an epoch, a kernel is still nearest to where it started.
    name = "Mixed_4d.Branch_1.Conv2d_0b_3x3.spatial.conv.weight"
    kernel = np.load(mine.parent / "rgb.npz")["InceptionV1/Mixed_4d/Branch_1/Conv2d_0b_3x3/weights"]
    start = torch.from_numpy(kernel).squeeze(0).permute(3, 2, 0, 1)
    assert torch.corrcoef(torch.stack([trained[name].flatten(), start.flatten()]))[0, 1] > 0.5

    assert "student (RGB): finished before" in d3d_edge(*words).err
    (tmp_path / "run" / "weights.json").unlink()
    assert "student (RGB): finished before" in d3d_edge(*words).err, "the record is written again"
    save(mine.parent / "rgb.npz", channels=3, seed=1)
    refused(d3d_edge(*words), 8, "rgb.npz is another file than the student", "bring that one back")
    assert json.loads((tmp_path / "run" / "weights.json").read_text()) == recorded

    # Trained, the run needs the files no more.
    (mine.parent / "rgb.npz").unlink()
    (mine.parent / "flow.npz").unlink()
    for same in (mine, tmp_path / "run" / "recipe.yaml"):
        assert "student (RGB): finished before" in d3d_edge("distill", same, *words[2:]).err
    quantized = d3d_edge("quantize", tmp_path / "run", "--cache", cache, "--workers", 0)
    assert quantized.code == 0, quantized.err
