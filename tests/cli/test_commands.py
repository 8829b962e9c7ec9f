"""Each command on good input: what it prints, what it leaves, and that doing it again is harmless."""

from __future__ import annotations

import csv
import errno
import json
import re
import shutil
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from d3d_edge import recipe
from d3d_edge.bundle import Bundle
from d3d_edge.errors import DataError
from d3d_edge.evaluation import Evaluation
from d3d_edge.pipeline import quantize
from d3d_edge.report import Report
from tests.cli.conftest import TARGETS, D3DEdge, Result, copied_run, refused, run_on, with_references

NO_BASELINE = "baselines.spatial=null"


def test_help_names_every_command(d3d_edge: D3DEdge) -> None:
    result = d3d_edge("--help")
    assert result.code == 0
    for command in (
        *("demo", "recipes", "models", "targets", "doctor", "prepare", "distill", "evaluate", "probe", "quantize"),
        *("export", "validate", "benchmark", "report", "predict"),
    ):
        assert command in result.out
        helped = d3d_edge(command, "--help")
        assert helped.code == 0
        assert "Usage: d3d-edge" in helped.out


def test_a_misspelt_command_gets_the_near_miss(d3d_edge: D3DEdge) -> None:
    result = d3d_edge("distil")
    assert result.code == 2
    assert "did you mean 'distill'?" in result.err


def test_recipes(d3d_edge: D3DEdge, tmp_path: Path) -> None:
    assert "compact" in d3d_edge("recipes", "ls").out
    assert "extends: compact" in d3d_edge("recipes", "show", "demo").out
    copy = tmp_path / "mine.yaml"
    assert d3d_edge("recipes", "cp", "compact", copy).code == 0
    assert "well-formed" in d3d_edge("recipes", "check", copy).out
    again = d3d_edge("recipes", "cp", "compact", copy)
    assert again.code == 2
    assert "exists already" in again.err


def test_a_target_that_does_not_take_the_scheme_is_told_before_training_for_int8(
    d3d_edge: D3DEdge, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "the target jetson of export.targets does not take quantize.scheme: affine"
    refused(d3d_edge("recipes", "check", "demo", "--set", "quantize.scheme=affine"), 2, said)
    run = copied_run(made, tmp_path)
    recipe_file = run / "recipe.yaml"
    recipe_file.write_text(recipe_file.read_text().replace("scheme: symmetric", "scheme: affine"))
    monkeypatch.setattr(quantize, "prepare", Mock(side_effect=DataError("no clip")))
    assert f"note: {said}" in d3d_edge("quantize", run).err


@pytest.mark.parametrize("name", ["mine", "7", "no", "a: b #c", "café", "\\1", "w " * 80 + "w"])
def test_a_copy_of_a_recipe_is_named_after_its_file_and_is_else_the_same(
    name: str, d3d_edge: D3DEdge, tmp_path: Path
) -> None:
    copy = tmp_path / f"{name}.yaml"
    assert d3d_edge("recipes", "cp", "gestures", copy).code == 0
    lines = zip(copy.read_text().splitlines(), recipe.find("gestures").read_text().splitlines(), strict=True)
    assert [there for here, there in lines if here != there] == ["name: gestures"]
    assert recipe.load(str(copy)).hash() == recipe.load("gestures").model_copy(update={"name": name}).hash()


AS_IT_WAS = ""


@pytest.mark.parametrize(
    ("text", "copied"),
    [
        ("extends: demo\nname: yours", "extends: demo\nname: mine"),
        ("extends: demo\r\nname: yours # so far\r\nseed: 1\r\n", "extends: demo\nname: mine # so far\nseed: 1\n"),
        ("extends: demo\nname: yours\n  and ours\nseed: 1\n", "extends: demo\nname: mine\nseed: 1\n"),
        ('"name" : "yours"\nseed: 1\n', '"name" : mine\nseed: 1\n'),
        ("# Mine\n---\nextends: demo\n", "# Mine\n---\nname: mine\nextends: demo\n"),
        ("  extends: demo\n  seed: 1\n", "  name: mine\n  extends: demo\n  seed: 1\n"),
        ("data:\n  name: yours\n", "name: mine\ndata:\n  name: yours\n"),
        ("{extends: demo, name: yours}\n", "{extends: demo, name: mine}\n"),
        ('description: "a\nname: b"\nname: yours\n', 'description: "a\nname: b"\nname: mine\n'),
        ("{extends: demo}\n", AS_IT_WAS),
        ("name: &n yours\ndescription: *n\n", AS_IT_WAS),
        ("name: yours\nname: ours\n", AS_IT_WAS),
        ("name: [\n", AS_IT_WAS),
        ("- name\n", AS_IT_WAS),
        pytest.param(100_000 * "[", AS_IT_WAS, id="deep"),
        pytest.param(
            "".join(f"a{n}: &a{n} [{', '.join(9 * [f'*a{n - 1}' if n else 'x'])}]\n" for n in range(9)),
            AS_IT_WAS,
            id="aliases of aliases",
        ),
        ("", AS_IT_WAS),
    ],
)
def test_a_copy_of_your_own_recipe(text: str, copied: str, d3d_edge: D3DEdge, tmp_path: Path) -> None:
    (tmp_path / "yours.yaml").write_bytes(text.encode())
    copy = tmp_path / "mine.yaml"
    result = d3d_edge("recipes", "cp", tmp_path / "yours.yaml", copy)
    assert (result.code, result.out) == (0, f"wrote {copy}\n" if copied else f"wrote {copy}, whose name is as it was\n")
    assert copy.read_text() == (copied or text)


@pytest.mark.parametrize("name", TARGETS)
def test_targets(name: str, d3d_edge: D3DEdge) -> None:
    assert name in d3d_edge("targets", "ls").out
    shown = d3d_edge("targets", "show", name).out
    assert "needs:" in shown
    assert "limits:" in shown


def test_doctor_names_what_is_ready_and_what_is_missing(d3d_edge: D3DEdge, monkeypatch: pytest.MonkeyPatch) -> None:
    result = d3d_edge("doctor")
    assert result.code == 0
    assert result.err == ""
    for target in TARGETS:
        assert f"ready    {target}: export" in result.out
    assert re.search(r"ready    jetson: run here +onnxruntime \d", result.out)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("D3D_EDGE_ANDROID_BENCH", "nowhere")
    shown = d3d_edge("doctor").out
    assert "missing  adb" in shown
    assert "missing  bench program      for Android devices: the program that runs ExecuTorch" in shown


def test_doctor_says_what_every_command_needs_and_is_not_there(
    d3d_edge: D3DEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    result = d3d_edge("doctor")
    assert (result.code, result.err) == (3, "")
    assert "missing  cv2" in result.out
    assert "ready    torch" in result.out


def test_a_package_that_every_installation_has_is_named_where_it_is_gone(
    d3d_edge: D3DEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("d3d_edge.recipe.load", Mock(side_effect=ModuleNotFoundError("no", name="PIL")))
    refused(d3d_edge("recipes", "ls"), 3, "the package PIL is not installed (pip install --force-reinstall d3d-edge)")
    monkeypatch.setattr("d3d_edge.recipe.load", Mock(side_effect=OSError(errno.EMFILE, "Too many open files")))
    refused(d3d_edge("recipes", "ls"), 8, "too many files are open (fewer --workers, or ulimit -n)")


def test_a_run_holds_its_recipe_data_and_stages(made: Path) -> None:
    run = made / "run"
    assert "name: tiny" in (run / "recipe.yaml").read_text()
    header, *rows = (run / "data.csv").read_text().splitlines()
    assert header == "path,label,split,group"
    assert {row.split(",")[2] for row in rows} == {"train", "val", "test"}
    for stage in ("teacher", "student", "quantized"):
        assert len((run / stage / "log.jsonl").read_text().splitlines()) == 2
        assert 0 <= json.loads((run / stage / "done.json").read_text())["top1"] <= 1
    assert [row.name for row in Report.read(run / "report.json").rows] == ["flow teacher", "spatial", "D3D student"]


def test_bundles_say_where_they_come_from(made: Path) -> None:
    bundles = {name: Bundle.open(made / "bundles" / name).manifest for name in (*TARGETS, "reference-int8")}
    assert len({bundle.graph_sha256 for bundle in bundles.values()}) == 1
    for bundle in bundles.values():
        assert bundle.calibration_hash
        assert bundle.clip_hash == bundle.clip.hash()
        assert bundle.input.dtype == "uint8"
        assert bundle.input.shape == (4, 32, 32, 3)
        assert {"labels.txt", "recipe.yaml", "golden/clips.npy", "golden/logits.npy"} <= set(bundle.files)


@pytest.mark.slow
def test_the_int8_pte_is_at_most_0_3_of_the_float_one(made: Path, d3d_edge: D3DEdge, tmp_path: Path) -> None:
    out = with_references(made, tmp_path)
    words = ("export", made / "run", "--target", "android", "--precision", "float32", "--out", out, "--workers", 0)
    assert d3d_edge(*words).code == 0
    whole = (tmp_path / "android-float32" / "model.pte").stat().st_size
    assert (made / "bundles" / "android" / "model.pte").stat().st_size <= 0.3 * whole


@pytest.mark.parametrize("options", [(), ("--clips", 3, "--fusion", "softmax")])
def test_evaluate(options: tuple[object, ...], made: Path, cache: Path, d3d_edge: D3DEdge) -> None:
    result = d3d_edge("evaluate", made / "run", "--cache", cache, "--workers", 0, "--json", *options)
    assert result.code == 0, result.err
    found = Evaluation.model_validate_json(result.out)
    assert found == Evaluation.model_validate_json((made / "run" / "evaluation.json").read_text())
    systems = {system.name: system for system in found.systems}
    assert list(systems) == ["spatial stream", "temporal stream", "two-stream", "D3D", "D3D + spatial stream"]
    assert systems["D3D"].inputs == ("RGB",)
    assert systems["two-stream"].inputs == ("RGB", "flow")
    assert systems["two-stream"].parameters > systems["D3D"].parameters
    for system in systems.values():
        assert system.top1_low <= system.top1 <= system.top1_high
        assert system.right == pytest.approx(system.top1 * found.videos)


def test_one_clip_evaluates_as_training_did(made: Path, cache: Path, d3d_edge: D3DEdge) -> None:
    assert d3d_edge("evaluate", made / "run", "--cache", cache, "--workers", 0).code == 0
    systems = Evaluation.model_validate_json((made / "run" / "evaluation.json").read_text()).systems
    measured = {system.streams: system.top1 for system in systems}
    for stage in ("teacher", "spatial", "student"):
        assert measured[(stage,)] == json.loads((made / "run" / stage / "done.json").read_text())["top1"]


def test_a_network_of_single_frames_is_left_out_and_said_to_be(
    made: Path, cache: Path, d3d_edge: D3DEdge, tmp_path: Path
) -> None:
    run = copied_run(made, tmp_path)
    recipe = (run / "recipe.yaml").read_text()
    one = "baselines:\n  one:\n    frames: one\n    train: null\n    initialise: scratch\n"
    (run / "recipe.yaml").write_text(recipe.replace("baselines:\n", one))
    shutil.copytree(run / "spatial", run / "one")
    result = d3d_edge("evaluate", run, "--cache", cache, "--workers", 0)
    assert result.code == 0, result.err
    assert "one is left out: it sees single frames" in " ".join(result.out.split())


def test_other_test_clips_than_were_measured_in_training_are_told(
    own_clips: Path, clips: Path, made: Path, cache: Path, d3d_edge: D3DEdge, tmp_path: Path
) -> None:
    run = run_on(own_clips, clips, made, tmp_path)
    words = ("evaluate", run, "--cache", cache, "--workers", 0, "--json")
    assert not [note for note in json.loads(d3d_edge(*words).out)["notes"] if "test clips" in note]
    tested = [
        row["path"] for row in csv.DictReader((run / "data.csv").read_text().splitlines()) if row["split"] == "test"
    ]
    shutil.copyfile(tested[0], tested[-1])
    assert "the test clips are not those that d3d-edge distill measured" in d3d_edge(*words).out


def test_a_split_without_clips_cannot_be_evaluated(made: Path, cache: Path, d3d_edge: D3DEdge, tmp_path: Path) -> None:
    run = Path(shutil.copytree(made / "run", tmp_path / "run"))
    data = run / "data.csv"
    data.write_text(data.read_text().replace(",val,", ",train,"))
    result = d3d_edge("evaluate", run, "--cache", cache, "--workers", 0, "--split", "val")
    assert result.code == 8
    assert "no clips in the split val" in result.err


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        (NO_BASELINE, "distill.features_weight=1", "teacher.network.width=0.3", "student.initialise=scratch"),
        (NO_BASELINE, "distill.features_weight=1", "distill.weight=0"),
        ("distill.teacher=two_stream", "distill.divergence_weight=1"),
    ],
    ids=["features of another width", "features of one width", "two streams"],
)
def test_a_student_learns_from_what_the_recipe_says(
    settings: tuple[str, ...], clips: Path, recipe_file: Path, cache: Path, d3d_edge: D3DEdge, tmp_path: Path
) -> None:
    few = ("teacher.train.epochs=1", "student.train.epochs=1")
    options = [word for setting in (*few, *settings) for word in ("--set", setting)]
    common = ("--cache", cache, "--workers", 0)
    trained = d3d_edge("distill", recipe_file, "--data", clips, "--out", tmp_path / "run", *common, *options)
    assert trained.code == 0, trained.err
    assert d3d_edge("evaluate", tmp_path / "run", *common).code == 0


@pytest.mark.parametrize("name", [*TARGETS, "reference-int8", "reference-float32"])
def test_predict_needs_a_bundle_and_a_video_only(name: str, made: Path, clips: Path, d3d_edge: D3DEdge) -> None:
    result = d3d_edge("predict", made / "bundles" / name, next(clips.rglob("*.mp4")))
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert len(lines) == 6
    shares = [float(line.split()[-1].rstrip("%")) for line in lines[:5]]
    assert shares == sorted(shares, reverse=True)
    assert "network" in lines[5]


def test_a_teacher_is_taken_from_another_run(
    made: Path, clips: Path, recipe_file: Path, cache: Path, d3d_edge: D3DEdge, tmp_path: Path
) -> None:
    def distill(*options: object) -> Result:
        common = ("--data", clips, "--cache", cache, "--workers", 0, "--teacher", made / "run")
        return d3d_edge("distill", recipe_file, "--out", tmp_path / "run", *common, *options)

    refused = distill("--set", "teacher.train.epochs=1")
    assert refused.code == 2
    assert "trained by another recipe" in refused.err
    shutil.rmtree(tmp_path / "run")
    taken = distill("--set", "student.train.epochs=1", "--set", NO_BASELINE)
    assert taken.code == 0, taken.err
    assert "teacher (flow): finished before" in taken.err
    names = [tmp_path / "run" / "teacher" / "last.pt", made / "run" / "teacher" / "last.pt"]
    assert names[0].read_bytes() == names[1].read_bytes()


def test_doing_a_stage_again_keeps_what_is_finished(
    made: Path, clips: Path, recipe_file: Path, cache: Path, d3d_edge: D3DEdge
) -> None:
    stages = ("teacher", "student", "quantized")
    files = [made / "run" / stage / "last.pt" for stage in stages] + [made / "bundles" / "jetson" / "model.onnx"]
    before = [file.stat().st_mtime_ns for file in files]
    words = ("distill", recipe_file, "--data", clips, "--out", made / "run", "--cache", cache, "--workers", 0)
    again = d3d_edge(*words)
    assert again.code == 0, again.err
    assert "finished before" in again.err
    assert d3d_edge("quantize", made / "run", "--cache", cache, "--workers", 0).code == 0
    exported = d3d_edge("export", made / "run", "--target", "jetson", "--out", made / "bundles", "--workers", 0)
    assert "exported before" in exported.err
    assert [file.stat().st_mtime_ns for file in files] == before
