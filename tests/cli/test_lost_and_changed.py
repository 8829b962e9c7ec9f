"""What was lost or changed since, and what can never work, is told in time; no finished work is thrown away."""

from __future__ import annotations

import csv
import json
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch

from d3d_edge.distill import loop
from d3d_edge.distill.checkpoint import Checkpoint
from d3d_edge.distill.job import Job
from d3d_edge.quantize import graph_files, pt2e
from d3d_edge.runs import held
from tests.cli.conftest import D3DEdge, copied_run, refused, run_on


def train_student_to(run: Path, name: str, value: float) -> None:
    """Let the student have ended with the first of its weights whose name ends so at this value."""
    checkpoint = Checkpoint.kept(run / "student")
    assert checkpoint is not None
    next(weight for key, weight in checkpoint.model.items() if key.endswith(name)).fill_(value)
    checkpoint.write(run / "student")
    path = run / "student" / "done.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"weights_hash": checkpoint.weights_hash()}))


def training_video(run: Path) -> Path:
    rows = csv.DictReader((run / "data.csv").read_text().splitlines())
    return next(Path(row["path"]) for row in rows if row["split"] == "train")


def test_one_command_at_a_time_works_on_a_run(
    d3d_edge: D3DEdge, made: Path, clips: Path, cache: Path, recipe_file: Path, tmp_path: Path
) -> None:
    run = copied_run(made, tmp_path)
    distill = ("distill", recipe_file, "--data", clips, "--out", run)
    with held(run):
        for words in (distill, ("quantize", run), ("sensitivity", run), ("probe", run)):
            refused(d3d_edge(*words, "--cache", cache), 8, f"another command is at work on {run}", "wait until it")
    done = d3d_edge("quantize", run, "--cache", cache)
    assert done.code == 0, done.err


@pytest.mark.slow
def test_a_finished_stage_whose_weights_are_damaged_and_then_lost_is_trained_again(
    d3d_edge: D3DEdge, made: Path, clips: Path, cache: Path, recipe_file: Path, tmp_path: Path
) -> None:
    run = copied_run(made, tmp_path)
    weights, words = run / "student" / "last.pt", ("distill", recipe_file, "--data", clips, "--cache", cache)
    before = weights.read_bytes()
    weights.write_bytes(before[: len(before) // 2])
    refused(d3d_edge(*words, "--out", run), 8, "last.pt", "damaged", "delete it to train")
    weights.unlink()
    refused(d3d_edge("evaluate", run, "--cache", cache), 8, "no checkpoint", "d3d-edge distill trains it again")
    done = d3d_edge(*words, "--out", run)
    assert done.code == 0, done.err
    assert "student (RGB): begins again" in done.err
    assert "teacher (flow): finished before" in done.err
    assert torch.load(weights, weights_only=True)["epoch"] == torch.load(BytesIO(before), weights_only=True)["epoch"]


@pytest.mark.slow
@pytest.mark.parametrize("finished", [True, False], ids=["finished", "killed"])
def test_training_is_not_thrown_away_for_a_clip_that_is_gone(
    finished: bool,
    d3d_edge: D3DEdge,
    made: Path,
    own_clips: Path,
    clips: Path,
    cache: Path,
    recipe_file: Path,
    tmp_path: Path,
) -> None:
    run = run_on(own_clips, clips, made, tmp_path)
    if not finished:
        (run / "teacher" / "done.json").unlink()
    words = ("distill", recipe_file, "--data", own_clips, "--out", run, "--cache", cache)
    video = training_video(run)
    kept, before = video.read_bytes(), (run / "teacher" / "last.pt").read_bytes()
    video.write_bytes(b"")
    refused(d3d_edge(*words), 8, "teacher", "other clips", "bring the clips back")
    assert (run / "teacher" / "last.pt").read_bytes() == before
    video.write_bytes(kept)
    done = d3d_edge(*words)
    assert done.code == 0, done.err
    assert "student (RGB): finished before" in done.err


def test_evaluate_needs_no_training_clips(
    d3d_edge: D3DEdge, made: Path, own_clips: Path, clips: Path, cache: Path, tmp_path: Path
) -> None:
    run = run_on(own_clips, clips, made, tmp_path)
    rows = list(csv.DictReader((run / "data.csv").read_text().splitlines()))
    for row in rows:
        if row["split"] != "test":
            Path(row["path"]).unlink()
            (run / "skipped.json").write_text(json.dumps([{"path": row["path"], "reason": "it was damaged"}]))
    words = ("evaluate", run, "--cache", cache, "--workers", 0, "--json")
    there, gone = (json.loads(d3d_edge(*words).out) for run in (made / "run", run))
    assert gone["systems"][0]["top1"] == there["systems"][0]["top1"]
    assert gone["skipped"] == []


@pytest.mark.slow
@pytest.mark.parametrize("command", ["evaluate", "probe"])
def test_weights_of_another_network(command: str, d3d_edge: D3DEdge, made: Path, tmp_path: Path) -> None:
    run = copied_run(made, tmp_path)
    shutil.copyfile(run / "teacher" / "last.pt", run / "student" / "last.pt")
    refused(d3d_edge(command, run, "--cache", tmp_path / "cache"), 8, "student is of another network")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("command", ["evaluate", "quantize"])
def test_a_network_that_gives_no_numbers_is_not_right(
    command: str, d3d_edge: D3DEdge, made: Path, cache: Path, tmp_path: Path
) -> None:
    run = copied_run(made, tmp_path)
    shutil.rmtree(run / "quantized")
    train_student_to(run, "running_var", -1.0)
    refused(d3d_edge(command, run, "--cache", cache, "--workers", 0), 8, "student gives logits that are not finite")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("student.network.temporal_from=Mixed_9z",), "'Mixed_3b'"),
        (("quantize.keep_float=[Mixed_5d]",), "did you mean 'Mixed_5c'?"),
        (
            ("clip.frames=2", "teacher.network.padding=symmetric", "student.network.padding=symmetric"),
            "too small",
        ),
    ],
)
def test_a_network_that_does_not_fit_is_refused_before_anything_is_decoded(
    settings: tuple[str, ...], message: str, d3d_edge: D3DEdge, clips: Path, recipe_file: Path, tmp_path: Path
) -> None:
    words = [word for setting in settings for word in ("--set", setting)]
    refused(d3d_edge("recipes", "check", recipe_file, *words), 2, message)
    refused(d3d_edge("distill", recipe_file, "--data", clips, "--out", tmp_path / "run", *words), 2, message)
    assert not (tmp_path / "run").exists()


def test_a_teacher_that_is_none_is_refused_before_anything_is_decoded(
    d3d_edge: D3DEdge, clips: Path, recipe_file: Path, tmp_path: Path
) -> None:
    words = ("distill", recipe_file, "--data", clips, "--out", tmp_path / "run", "--teacher", tmp_path / "nowhere")
    refused(d3d_edge(*words), 8, "nowhere is not a run")
    assert not (tmp_path / "run").exists()


def test_a_graph_from_before_the_recipe_was_changed_is_not_exported(
    d3d_edge: D3DEdge, made: Path, tmp_path: Path
) -> None:
    run = copied_run(made, tmp_path)
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("scheme: symmetric", "scheme: affine"))
    result = d3d_edge("export", run, "--target", "android", "--out", tmp_path / "bundles")
    refused(result, 8, "was quantized before", f"d3d-edge quantize {run}")
    assert not (tmp_path / "bundles").exists()


def test_a_graph_from_before_the_plan_was_changed_is_not_exported(
    d3d_edge: D3DEdge, made: Path, tmp_path: Path
) -> None:
    run = copied_run(made, tmp_path)
    path = run / "quantized" / "calibration.json"
    kept = json.loads(path.read_text())
    kept["plan"]["seed"] += 1  # as if the plan had been edited since
    path.write_text(json.dumps(kept))
    result = d3d_edge("export", run, "--target", "android", "--out", tmp_path / "bundles")
    refused(result, 8, f"was quantized before its plan {kept['plan']['name']} was changed", f"d3d-edge quantize {run}")
    assert not (tmp_path / "bundles").exists()


def test_a_graph_of_a_student_that_was_trained_again_is_neither_exported_nor_kept(
    d3d_edge: D3DEdge, made: Path, cache: Path, tmp_path: Path
) -> None:
    run = copied_run(made, tmp_path)
    train_student_to(run, "bn.bias", 0.5)
    result = d3d_edge("export", run, "--target", "android", "--out", tmp_path / "bundles")
    refused(result, 8, "was quantized before its student was trained again", f"d3d-edge quantize {run}")
    result = d3d_edge("quantize", run, "--cache", cache, "--workers", 0)
    assert result.code == 0
    assert "finished before" not in result.err
    assert d3d_edge("export", run, "--target", "host", "--out", tmp_path / "bundles", "--workers", 0).code == 0


def test_what_is_left_of_a_stage_that_began_again_is_no_result(
    d3d_edge: D3DEdge,
    made: Path,
    clips: Path,
    cache: Path,
    recipe_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed after the first epoch, say, whose checkpoint is there."""
    run = copied_run(made, tmp_path)
    kept = {stage: (run / stage / "last.pt").read_bytes() for stage in ("student", "quantized")}

    def killed(job: Job, folder: Path, *_: Any) -> None:
        (folder / "last.pt").write_bytes(kept[folder.name])
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "run", killed)
    (run / "student" / "last.pt").unlink()
    common = ("--cache", cache, "--workers", 0)
    assert d3d_edge("distill", recipe_file, "--data", clips, "--out", run, *common).code == 130
    refused(d3d_edge("export", run, "--target", "host", "--out", tmp_path / "b"), 8, "the stage student is not")

    shutil.copyfile(made / "run" / "student" / "done.json", run / "student" / "done.json")
    recipe, changed = run / "recipe.yaml", "learning_rate: 0.0001"
    before = recipe.read_text()
    recipe.write_text(before.replace("learning_rate: 1.0e-05", changed))
    assert changed in recipe.read_text()
    assert d3d_edge("quantize", run, *common).code == 130
    recipe.write_text(before)
    refused(d3d_edge("export", run, "--target", "host", "--out", tmp_path / "b"), 8, "the stage quantized is not")


@pytest.mark.parametrize("command", ["quantize", "sensitivity"])
def test_a_finished_graph_is_not_thrown_away_for_a_clip_that_is_gone(
    command: str, d3d_edge: D3DEdge, made: Path, own_clips: Path, clips: Path, cache: Path, tmp_path: Path
) -> None:
    run = run_on(own_clips, clips, made, tmp_path)
    before = (run / "quantized" / "graph.pt2").read_bytes()
    video = training_video(run)
    video.write_bytes(b"")
    refused(
        d3d_edge(command, run, "--cache", cache, "--workers", 0), 8, "student", "other clips", "bring the clips back"
    )
    assert (run / "quantized" / "graph.pt2").read_bytes() == before


@pytest.mark.parametrize("stage", ["student", "quantized"])
def test_a_graph_that_is_lost_or_damaged_is_written_again(
    stage: str, d3d_edge: D3DEdge, made: Path, clips: Path, cache: Path, recipe_file: Path, tmp_path: Path
) -> None:
    run = copied_run(made, tmp_path)
    graph = run / stage / "graph.pt2"
    command = "distill" if stage == "student" else "quantize"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    for damage, state in ((graph.unlink, "missing"), (lambda: graph.write_bytes(data), "damaged")):
        damage()
        said = (f"graph.pt2 is {state}", f"d3d-edge {command}", "writes it again")
        refused(d3d_edge("export", run, "--target", "host", "--out", tmp_path / "b"), 8, *said)
    words = (recipe_file, "--data", clips, "--out", run) if stage == "student" else (run,)
    again = d3d_edge(command, *words, "--cache", cache, "--workers", 0)
    assert again.code == 0, again.err
    # Weights are in the checkpoint, ranges in the graph alone.
    assert ("student (RGB): finished before" if stage == "student" else "quantized: top-1") in again.err
    program = graph_files.load(graph)
    assert pt2e.form(program.module()) == pt2e.form(graph_files.load(made / "run" / stage / "graph.pt2").module())


@pytest.mark.parametrize("command", ["evaluate", "sensitivity"])
def test_where_the_result_cannot_be_written_nothing_is_decoded(
    command: str, d3d_edge: D3DEdge, made: Path, tmp_path: Path
) -> None:
    run = copied_run(made, tmp_path)
    place = run / {"evaluate": "evaluation.json", "sensitivity": "sensitivity.json"}[command]
    place.unlink(missing_ok=True)
    place.mkdir()
    refused(d3d_edge(command, run, "--cache", tmp_path / "cache", "--workers", 0), 9, f"cannot write {place}")
    assert not (tmp_path / "cache").exists()


def test_a_run_whose_clips_are_away_is_whole_when_they_are_back(
    d3d_edge: D3DEdge, made: Path, own_clips: Path, clips: Path, cache: Path, tmp_path: Path
) -> None:
    run = run_on(own_clips, clips, made, tmp_path)
    own_clips.rename(tmp_path / "away")
    refused(d3d_edge("evaluate", run, "--cache", cache, "--workers", 0), 8, "no readable test clip is left")
    assert json.loads((run / "skipped.json").read_text()) == []
    (tmp_path / "away").rename(own_clips)
    assert d3d_edge("export", run, "--target", "host", "--out", tmp_path / "b", "--workers", 0).code == 0


def test_a_damaged_list_of_skipped_clips(d3d_edge: D3DEdge, made: Path, tmp_path: Path) -> None:
    run = copied_run(made, tmp_path)
    (run / "skipped.json").write_text("[{")
    refused(d3d_edge("export", run, "--target", "host", "--out", tmp_path / "b"), 8, "skipped.json is damaged")


def test_training_of_the_quantized_network_that_diverges_says_so(
    d3d_edge: D3DEdge, made: Path, cache: Path, tmp_path: Path
) -> None:
    run = copied_run(made, tmp_path)
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("learning_rate: 1.0e-05", "learning_rate: 1.0e+30"))
    refused(d3d_edge("quantize", run, "--cache", cache, "--workers", 0), 8, "learning_rate in the recipe")
