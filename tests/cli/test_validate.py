"""`validate`: what it measures, what it says of data that is not that of training, and how a missed gate ends."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import onnx
import pytest

from d3d_edge import runtimes
from d3d_edge.bundle import GOLDEN_LOGITS, Bundle
from d3d_edge.errors import BundleError, MissingDependency
from d3d_edge.report import Report
from d3d_edge.runner import Where
from d3d_edge.runtimes.tensorrt import OnnxRunner
from tests.cli.conftest import TARGETS, D3DEdge, alone, changed, moved_by_noise, refused


def test_validate_measures_every_bundle_against_the_same_references(
    made: Path, clips: Path, d3d_edge: D3DEdge, tmp_path: Path
) -> None:
    bundles = [made / "bundles" / name for name in TARGETS]
    result = d3d_edge("validate", *bundles, "--data", clips, "--out", tmp_path)
    assert result.code == 0, result.err
    report = Report.read(tmp_path / "report.json")
    rows = {row.name: row for row in report.rows}
    assert list(rows) == ["float student", "quantized graph", *TARGETS]
    assert {row.clips for row in report.rows} == {10}
    assert rows["android"].where == rows["jetson"].where == Where.HOST_RUNTIME
    assert rows["ios"].where in (Where.REFERENCE_INTERPRETER, Where.HOST_RUNTIME)
    for name in TARGETS:
        row = rows[name]
        assert row.model_sha256 == Bundle.open(made / "bundles" / name).manifest.model_sha256
        assert row.logit_step is not None
        moved = moved_by_noise(made / "bundles" / name)
        assert row.logit_difference_max is not None
        assert row.logit_difference_max < 2 * moved
        assert row.golden_difference_max is not None
        assert row.golden_difference_max < 2 * moved
        assert name in result.out
    assert not report.notes
    assert len(report.clips) == 10
    assert all((clips / clip.key).is_file() for clip in report.clips)
    for row in report.rows:
        assert row.answers is not None
        right = [clip.label == answer for clip, answer in zip(report.clips, row.answers.predicted, strict=True)]
        assert sum(right) / 10 == row.top1
        assert sum(slice_.right for slice_ in row.classes) == sum(right)
        assert (row.paired is None) == (row.role == "float")
        assert (row.samples is None) == (row.where == Where.REFERENCE_INTERPRETER)
    assert {gate.verdict for gate in report.gates} == {"pass"}
    assert (tmp_path / "report.txt").read_text().count("%") > 10


@pytest.mark.parametrize("name", ["report.json", "report.txt"])
def test_what_is_no_report_of_validate_is_not_replaced(
    name: str, bundle_copy: Path, clips: Path, d3d_edge: D3DEdge, tmp_path: Path
) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / name).write_text('{"my": "own"}')
    words = ("validate", bundle_copy, "--data", clips, "--out", out)
    refused(d3d_edge(*words), 2, f"{name} exists and is no report of validate", "another folder with --out")
    assert [(path.name, path.read_text()) for path in out.iterdir()] == [(name, '{"my": "own"}')]


def test_an_empty_report_may_be_replaced_and_not_what_is_beside_it(
    bundle_copy: Path, clips: Path, d3d_edge: D3DEdge, tmp_path: Path
) -> None:
    (tmp_path / "report.json").touch()
    words = ("validate", bundle_copy, "--data", clips, "--out", tmp_path)
    (tmp_path / "report.txt").write_text("mine")
    refused(d3d_edge(*words), 2, "report.txt exists and is no report of validate")
    (tmp_path / "report.txt").unlink()
    assert d3d_edge(*words).code == 0


def test_references_alone_are_measured_again_and_judged_by_no_gate(
    made: Path, clips: Path, d3d_edge: D3DEdge, tmp_path: Path
) -> None:
    words = ("validate", made / "bundles" / "reference-int8", "--data", clips, "--out", tmp_path)
    result = d3d_edge(*words)
    assert result.code == 0, result.err
    assert "agree" in result.out.splitlines()[2]
    first = Report.read(tmp_path / "report.json").environment.started
    refused(d3d_edge(*words, "--strict-gates"), 4, "no gate was judged", "--target android")
    assert Report.read(tmp_path / "report.json").environment.started > first


def test_clips_of_one_class_alone_are_measured(
    bundle_copy: Path, own_clips: Path, d3d_edge: D3DEdge, tmp_path: Path
) -> None:
    first, *others = sorted(path for path in own_clips.iterdir() if path.is_dir())
    for other in others:
        shutil.rmtree(other)
    words = ("validate", bundle_copy, "--data", own_clips, "--split", "all", "--out", tmp_path / "out")
    result = d3d_edge(*words)
    assert result.code in (0, 4), result.err  # so few clips may miss a gate
    report = Report.read(tmp_path / "out" / "report.json")
    assert {report.labels[clip.label] for clip in report.clips} == {first.name}


def test_a_report_of_training_is_not_replaced(bundle_copy: Path, made: Path, clips: Path, d3d_edge: D3DEdge) -> None:
    before = (made / "run" / "report.json").read_bytes()
    refused(d3d_edge("validate", bundle_copy, "--data", clips, "--out", made / "run"), 2, "no report of validate")
    assert (made / "run" / "report.json").read_bytes() == before


def test_validate_prints_the_report_as_json(bundle_copy: Path, clips: Path, d3d_edge: D3DEdge, tmp_path: Path) -> None:
    result = d3d_edge("validate", bundle_copy, "--data", clips, "--out", tmp_path, "--json")
    assert json.loads(result.out) == json.loads((tmp_path / "report.json").read_text())


def test_bundles_of_one_target_are_told_apart(
    bundle_copy: Path, clips: Path, d3d_edge: D3DEdge, tmp_path: Path
) -> None:
    """The other one says the opposite of everything."""

    def negate(folder: Path) -> None:
        model = onnx.load(folder / "model.onnx")
        (last,) = model.graph.output
        (maker,) = [node for node in model.graph.node if last.name in node.output]
        maker.output[0] = "before"
        model.graph.node.append(onnx.helper.make_node("Neg", ["before"], [last.name], name="negated"))
        onnx.save(model, folder / "model.onnx")

    other = alone(bundle_copy, tmp_path / "other")
    changed(other, negate)
    for order in ([bundle_copy, other], [other, bundle_copy]):
        result = d3d_edge("validate", *order, "--data", clips, "--out", tmp_path)
        rows = {row.name: row for row in Report.read(tmp_path / "report.json").rows}
        assert list(rows) == [f"jetson ({path.parent.name}/jetson)" for path in order], result.err
        right, wrong = (rows[f"jetson ({path.parent.name}/jetson)"] for path in (bundle_copy, other))
        assert right.golden_difference_max is not None
        assert wrong.golden_difference_max is not None
        assert right.golden_difference_max < 0.1 * wrong.golden_difference_max
        assert right.answers != wrong.answers


def test_stored_logits_that_are_not_those_of_the_file_are_told(
    bundle_copy: Path, clips: Path, d3d_edge: D3DEdge, tmp_path: Path
) -> None:
    def answers() -> tuple[int, list[str], list[tuple[str, str]]]:
        """Exit code, notes and gates of it."""
        result = d3d_edge("validate", bundle_copy, "--data", clips, "--out", tmp_path)
        report = Report.read(tmp_path / "report.json")
        gates = [(gate.row, gate.verdict) for gate in report.gates if gate.name == "stored_answers_differ_max"]
        return result.code, [note for note in report.notes if "checks itself" in note], gates

    assert answers() == (0, [], [])
    changed(bundle_copy, lambda folder: np.save(folder / GOLDEN_LOGITS, 50 + np.load(folder / GOLDEN_LOGITS)))
    code, (note,), gates = answers()
    assert note.startswith("jetson: its logits of the clips stored in it differ by up to ")
    assert (code, gates) == (4, [("jetson", "fail")])
    shutil.rmtree(bundle_copy.with_name("before"))
    changed(bundle_copy, lambda folder: None, fallbacks=("it was let through",))
    assert answers() == (0, [note], [])


@pytest.mark.parametrize("graft", ["another input", "a second output"])
def test_a_file_of_another_form_is_refused(
    bundle_copy: Path, clips: Path, d3d_edge: D3DEdge, tmp_path: Path, graft: str
) -> None:
    def ruin(folder: Path) -> None:
        graph = (model := onnx.load(folder / "model.onnx")).graph
        if graft == "another input":
            graph.node.insert(0, onnx.helper.make_node("Identity", ["frames"], [graph.input[0].name], name="renamed"))
            graph.input[0].name = "frames"
        else:
            graph.node.append(onnx.helper.make_node("Identity", [graph.output[0].name], ["again"], name="doubled"))
            graph.output.append(onnx.helper.make_tensor_value_info("again", 1, None))
        onnx.save(model, folder / "model.onnx")

    changed(bundle_copy, ruin)
    for words in (["validate", bundle_copy, "--data", clips, "--out", tmp_path], ["benchmark", bundle_copy]):
        refused(d3d_edge(*words), 6, "model.onnx takes ", "where a bundle's takes clip and gives logits")


@pytest.mark.parametrize("fails", ["open", "run"])
@pytest.mark.parametrize("allowed", [True, False])
def test_a_file_that_does_not_run_is_a_row_if_that_was_allowed(
    allowed: bool,
    fails: str,
    monkeypatch: pytest.MonkeyPatch,
    bundle_copy: Path,
    clips: Path,
    d3d_edge: D3DEdge,
    tmp_path: Path,
) -> None:
    def ruin(folder: Path) -> None:
        if fails == "open":
            (folder / "model.onnx").write_bytes(b"no model")

    def run(*_: object) -> None:
        raise BundleError("cannot run it")

    if fails == "run":
        monkeypatch.setattr(OnnxRunner, "run", run)
    changed(bundle_copy, ruin, fallbacks=("it has five axes",) if allowed else ())
    said = {"open": "cannot load", "run": "cannot run it"}[fails]
    result = d3d_edge("validate", bundle_copy, "--data", clips, "--out", tmp_path)
    if not allowed:
        refused(result, 6, said)
        return
    (row,) = [row for row in Report.read(tmp_path / "report.json").rows if row.role == "bundle"]
    assert (str(row.where), row.top1) == ("not run", None)
    assert said in row.note


def test_a_split_that_was_never_trained_on_is_measured_alone(
    bundle_copy: Path, clips: Path, d3d_edge: D3DEdge, tmp_path: Path
) -> None:
    """Data to measure on needs nothing to train on."""
    rows = [f"{next(folder.glob('*.mp4'))},{folder.name},test" for folder in sorted(clips.iterdir()) if folder.is_dir()]
    listed = tmp_path / "test.csv"
    listed.write_text("\n".join(["path,label,split", *rows]))
    result = d3d_edge("validate", bundle_copy, "--data", listed, "--out", tmp_path)
    assert result.code == 0, result.err
    assert Report.read(tmp_path / "report.json").rows[0].clips == len(rows)


def test_where_the_report_cannot_be_written_nothing_is_measured(
    bundle_copy: Path, clips: Path, d3d_edge: D3DEdge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("d3d_edge.harness.accuracy.logits_of", None)
    (tmp_path / "file").write_text("")
    result = d3d_edge("validate", bundle_copy, "--data", clips, "--out", tmp_path / "file")
    refused(result, 9, "cannot write")
    for inside in (bundle_copy, bundle_copy / "golden"):
        result = d3d_edge("validate", bundle_copy, "--data", clips, "--out", inside)
        refused(result, 2, "is a bundle, which holds nothing else", "choose another --out")
    lost = tmp_path / "typed" / "wrong"
    refused(d3d_edge("validate", lost, "--data", clips), 6, "is not a bundle")
    assert not lost.parent.exists()


def test_a_runtime_that_is_not_installed_leaves_a_row_and_the_report(
    bundle_copy: Path, clips: Path, d3d_edge: D3DEdge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensorrt = type(runtimes.get("tensorrt"))
    package = MissingDependency.of("onnxruntime", "jetson", "running it")
    monkeypatch.setattr(tensorrt, "check_run", Mock(side_effect=package))
    for tools in ("tools", "run_tools"):
        monkeypatch.setattr(tensorrt, tools, Mock(side_effect=PackageNotFoundError("onnxruntime")))
    result = d3d_edge("validate", bundle_copy, "--data", clips, "--out", tmp_path)
    assert result.code == 0, result.err
    report = Report.read(tmp_path / "report.json")
    assert [str(row.where) for row in report.rows if row.role == "bundle"] == ["not run"]
    assert {"torch", "d3d-edge"} <= set(report.environment.tools)


def test_a_missed_gate_still_writes_the_report_and_exits_4(
    bundle_copy: Path, clips: Path, d3d_edge: D3DEdge, tmp_path: Path
) -> None:
    def strict(folder: Path) -> None:
        recipe = folder / "recipe.yaml"
        lines = [
            "  size_bytes_max: 1000" if "size_bytes_max" in line else line for line in recipe.read_text().split("\n")
        ]
        recipe.write_text("\n".join(lines))

    changed(bundle_copy, strict)
    result = d3d_edge("validate", bundle_copy, "--data", clips)
    assert result.code == 4
    assert "size_bytes_max" in result.err
    report = Report.read(tmp_path / "report.json")
    assert [gate.name for gate in report.gates if gate.verdict == "fail"] == ["size_bytes_max"]
    # Alone, without the references beside it, the bundle cannot be compared, and that is said, not passed.
    assert {gate.verdict for gate in report.gates if gate.name != "size_bytes_max"} == {"not measured"}


def test_data_that_was_not_trained_on_is_noted(
    bundle_copy: Path, clips: Path, d3d_edge: D3DEdge, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(clips, tmp_path / "other"))
    next(iter(sorted(other.rglob("*.mp4")))).unlink()
    result = d3d_edge("validate", bundle_copy, "--data", other, "--out", tmp_path)
    assert result.code == 0, result.err
    assert "may have been trained on" in Report.read(tmp_path / "report.json").notes[0]


def test_moving_the_data_does_not_change_the_split(
    bundle_copy: Path, clips: Path, d3d_edge: D3DEdge, tmp_path: Path
) -> None:
    moved = Path(shutil.copytree(clips, tmp_path / "elsewhere" / "clips"))
    result = d3d_edge("validate", bundle_copy, "--data", moved, "--out", tmp_path)
    assert result.code == 0, result.err
    assert not Report.read(tmp_path / "report.json").notes
