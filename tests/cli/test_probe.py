"""`d3d-edge probe`: a row per trained network, a figure, and nothing done twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import pytest
import yaml

from d3d_edge.pipeline.decoding import Network
from d3d_edge.runs import Run
from tests.cli.conftest import D3DEdge, finished, refused

# One epoch of each stage is enough: the probe must work, and what it finds is not the question here.
ONE_EPOCH = ("teacher.train.epochs=1", "student.train.epochs=1", "baselines.spatial=null")


@pytest.fixture(scope="module")
def trained(clips: Path, recipe_file: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with teacher and student. Not to be changed."""
    run = tmp_path_factory.mktemp("trained") / "run"
    settings = [word for setting in ONE_EPOCH for word in ("--set", setting)]
    finished("distill", recipe_file, "--data", clips, "--out", run, "--cache", cache, "--workers", 0, *settings)
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def times(folder: Path) -> dict[str, int]:
    """When each checkpoint and result below `folder` was written."""
    return {str(path): path.stat().st_mtime_ns for name in ("last.pt", "done.json") for path in folder.rglob(name)}


def test_probe_measures_every_network_there_is_and_keeps_it(run: Path, cache: Path, d3d_edge: D3DEdge) -> None:
    stages = times(run)
    words = ("probe", run, "--epochs", 2, "--cache", cache, "--workers", 0)
    first = d3d_edge(*words, "--json")
    assert first.code == 0, first.err
    report = json.loads(first.out)
    assert report == json.loads((run / "probe" / "report.json").read_text())
    assert [(row["stage"], row["sees"]) for row in report["rows"]] == [("student", "RGB"), ("teacher", "flow")]
    assert report["missing"] == ["spatial"]
    assert "RGB stream: not probed" in first.err
    assert report["clips"] == 10
    assert report["flow_frames"] == [0, 2]
    assert report["flow_size"] == [8, 8]
    assert report["zero_epe_px"] > 0
    for row in report["rows"]:
        assert 0 < row["epe_px"] < 2 * report["zero_epe_px"]
        for name in ("top1", "top1_reversed", "top1_shuffled"):
            assert 0 <= row[name] <= 1
        done = json.loads((run / row["stage"] / "done.json").read_text())
        assert row["top1"] == done["top1"], "as training measured it"
    picture = cv2.imread(str(run / "probe" / "flow.png"))
    assert picture is not None
    assert min(picture.shape[:2]) > 500
    assert stages.items() <= times(run).items(), "the probed stages are as they were"

    written = times(run)
    again = d3d_edge(*words)
    assert again.code == 0, again.err
    assert again.err.count("finished before") == 2
    assert times(run) == written
    for words_shown in ("zero flow", "mean flow", "D3D student", "flow stream", "reversed", "not probed: spatial"):
        assert words_shown in again.out


def test_a_report_of_something_else_is_not_lost(run: Path, cache: Path, d3d_edge: D3DEdge) -> None:
    before = (run / "report.json").read_bytes()
    refused(d3d_edge("probe", run, "--cache", cache, "--out", run), 2, "is a report of something else", "--out")
    assert (run / "report.json").read_bytes() == before


def test_a_decoder_that_was_killed_goes_on_and_another_training_begins_anew(
    run: Path, cache: Path, d3d_edge: D3DEdge, tmp_path: Path
) -> None:
    words = ("probe", run, "--cache", cache, "--workers", 0)
    assert d3d_edge(*words, "--epochs", 1).code == 0
    # What a kill after training and before the end of measuring leaves.
    (run / "probe" / "student" / "done.json").unlink()
    before = (run / "probe" / "student" / "last.pt").stat().st_mtime_ns
    result = d3d_edge(*words, "--epochs", 1, "--out", tmp_path / "elsewhere")
    assert result.code == 0, result.err
    assert (run / "probe" / "student" / "last.pt").stat().st_mtime_ns == before
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == ["flow.png", "report.json"]
    assert d3d_edge(*words, "--epochs", 2).code == 0
    assert (run / "probe" / "student" / "last.pt").stat().st_mtime_ns != before
    assert len((run / "probe" / "student" / "log.jsonl").read_text().splitlines()) == 2


def test_the_stream_without_a_teacher_is_probed_where_it_is_trained(run: Path, cache: Path, d3d_edge: D3DEdge) -> None:
    shutil.copytree(run / "student", run / "spatial")
    shutil.rmtree(run / "teacher")
    result = d3d_edge("probe", run, "--epochs", 1, "--cache", cache, "--workers", 0, "--json")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert [row["name"] for row in report["rows"]] == ["RGB stream", "D3D student"]
    assert report["missing"] == ["teacher"]
    # The same weights, probed with the same seed, give the same figures.
    figures = [{key: value for key, value in row.items() if key not in ("name", "stage")} for row in report["rows"]]
    assert figures[0] == figures[1]
    assert report["notes"] == []


def test_other_test_clips_than_were_measured_in_training_are_told(run: Path, cache: Path, d3d_edge: D3DEdge) -> None:
    done = run / "teacher" / "done.json"
    done.write_text(json.dumps(json.loads(done.read_text()) | {"tested": "as they were then"}))
    result = d3d_edge("probe", run, "--epochs", 1, "--cache", cache, "--workers", 0, "--json")
    (note,) = json.loads(result.out)["notes"]
    assert "the test clips are not those that d3d-edge distill measured" in note
    assert note in result.err


def test_somebodys_picture_is_not_replaced(run: Path, cache: Path, d3d_edge: D3DEdge, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "flow.png").write_text("mine")
    result = d3d_edge("probe", run, "--cache", cache, "--out", tmp_path / "mine")
    refused(result, 2, "flow.png is no picture of probe", "another folder with --out")
    assert (tmp_path / "mine" / "flow.png").read_text() == "mine"


def test_a_report_that_was_deleted_is_written_again(run: Path, cache: Path, d3d_edge: D3DEdge) -> None:
    (run / "probe").mkdir()
    (run / "probe" / "flow.png").write_text("of a report that is gone")
    result = d3d_edge("probe", run, "--epochs", 1, "--cache", cache, "--workers", 0)
    assert result.code == 0, result.err
    assert (run / "probe" / "report.json").is_file()


def test_a_network_of_single_frames_is_no_stream(run: Path) -> None:
    shutil.copytree(run / "student", run / "spatial")
    assert Network.of(Run.open(run), "spatial")
    said = yaml.safe_load((run / "recipe.yaml").read_text())
    (run / "recipe.yaml").write_text(yaml.safe_dump(said | {"baselines": {"spatial": {"frames": "one"}}}))
    assert Network.of(Run.open(run), "spatial") is None


def test_a_run_without_a_trained_network_is_refused(run: Path, cache: Path, d3d_edge: D3DEdge) -> None:
    for stage in ("student", "teacher"):
        (run / stage / "done.json").unlink()
    result = d3d_edge("probe", run, "--cache", cache)
    assert result.code == 8
    assert "d3d-edge distill" in result.err
    assert not (run / "probe").exists()
