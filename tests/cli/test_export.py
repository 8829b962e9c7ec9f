"""What `export` refuses, what --allow-fallback does of it, and the precisions and options of targets."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch

from d3d_edge import resources
from d3d_edge.bundle import Bundle
from d3d_edge.errors import LoweringError
from d3d_edge.pipeline import export as exporting
from d3d_edge.pipeline import golden
from d3d_edge.quantize import graph_files
from d3d_edge.quantize.origin import layer_of
from d3d_edge.report import Report
from tests import networks
from tests.cli.conftest import D3DEdge, alone, refused, with_references

LAYER = "Mixed_3b.Branch_1.Conv2d_0b_3x3.spatial"


@pytest.fixture
def planted(made: Path, tmp_path: Path) -> Path:
    """The run, with a zero point in a layer of its quantized graph: TensorRT would refuse to build the engine."""
    run = Path(shutil.copytree(made / "run", tmp_path / "run"))
    path = run / "quantized" / "graph.pt2"
    program = graph_files.load(path)
    quantize = torch.ops.quantized_decomposed.quantize_per_tensor.default
    node = next(node for node in program.graph.nodes if layer_of(node) == LAYER and node.target is quantize)
    node.args = (*node.args[:2], 3, *node.args[3:])
    graph_files.save(program, path)
    return run


def test_a_refusal_names_the_layer_and_a_fallback_is_told_by_export_and_validate(
    planted: Path, made: Path, clips: Path, d3d_edge: D3DEdge, tmp_path: Path
) -> None:
    out = with_references(made, tmp_path / "bundles")
    words = ("export", planted, "--target", "jetson", "--out", out, "--workers", 0)
    refused = d3d_edge(*words)
    assert refused.code == 5
    assert f"has the zero point 3, and TensorRT takes only 0 [stage check, layer {LAYER}, operator" in refused.err
    assert "quantized/graph.pt2 is another graph than quantized was finished with" in refused.err
    assert "scheme: symmetric" in refused.err
    assert not (tmp_path / "bundles" / "jetson").exists()

    allowed = d3d_edge(*words, "--allow-fallback")
    assert allowed.code == 0, allowed.err
    assert f"layer {LAYER}" in next(line for line in allowed.out.splitlines() if line.startswith("fallback in jetson"))
    bundle = Bundle.open(tmp_path / "bundles" / "jetson")
    assert any(LAYER in text for text in bundle.manifest.fallbacks)
    # The fallback was allowed once, not for ever: what is there is not taken for an answer.
    assert d3d_edge(*words).code == 5

    validated = d3d_edge("validate", alone(bundle.path, tmp_path / "alone"), "--data", clips)
    notes = Report.read(tmp_path / "alone" / "report.json").notes
    assert any(note.startswith("jetson was exported with --allow-fallback:") and LAYER in note for note in notes)
    assert "--allow-fallback" in validated.out


def test_a_bundle_of_another_recipe_is_made_again(
    made: Path, d3d_edge: D3DEdge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its gates are those of its recipe, so it may not keep looser ones."""
    run, bundles = (Path(shutil.copytree(made / name, tmp_path / name)) for name in ("run", "bundles"))
    words = ("export", run, "--target", "jetson", "--out", bundles, "--workers", 0)

    def made_again(*_: object) -> Bundle:
        raise LoweringError("made again", stage="lower")

    monkeypatch.setattr("d3d_edge.pipeline.export._export", made_again)
    assert d3d_edge(*words).err.count("exported before") == 3
    recipe = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(recipe.replace("agreement_min: 0.0", "agreement_min: 0.9"))
    refused(d3d_edge(*words), 5, "made again")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--target", "android", "--precision", "float16"), 2, "android does not take the precision float16"),
        (("--target", "ios", "--set", "minimum_deployment_target=iOS15"), 2, "is 'iOS15', not one of iOS17, iOS18"),
        (
            ("--target", "jetson", "--precision", "int8+float16", "--set", "opset=18"),
            2,
            "opset is 18, and DequantizeLinear gives float16 from 19 on only",
        ),
        (("--target", "jetson", "--set", "opsett=18"), 2, "did you mean 'opset'"),
    ],
)
def test_a_precision_or_option_that_a_target_does_not_take_is_refused(
    words: tuple[str, ...], code: int, said: str, made: Path, d3d_edge: D3DEdge, tmp_path: Path
) -> None:
    result = d3d_edge("export", made / "run", *words, "--out", tmp_path, "--workers", 0)
    assert (result.code, result.err.count("\n")) == (code, 1), result.err
    assert said in result.err
    assert not list(tmp_path.iterdir())


def test_ios_takes_weights_of_int8_and_another_ios(made: Path, clips: Path, d3d_edge: D3DEdge, tmp_path: Path) -> None:
    out = with_references(made, tmp_path)
    words = ("export", made / "run", "--target", "ios", "--precision", "weights-int8", "--out", out)
    exported = d3d_edge(*words, "--set", "minimum_deployment_target=iOS18", "--workers", 0)
    assert exported.code == 0, exported.err
    manifest = Bundle.open(tmp_path / "ios-weights-int8").manifest
    assert manifest.options == {"minimum_deployment_target": "iOS18"}
    assert manifest.lowering["specification_version"] == 9
    assert manifest.scheme is manifest.logit_step is None
    validated = d3d_edge("validate", tmp_path / "ios-weights-int8", "--data", clips)
    assert validated.code == 0, validated.err
    row = next(row for row in Report.read(tmp_path / "report.json").rows if row.role == "bundle")
    assert (row.name, row.precision) == ("ios weights-int8", "weights-int8")
    assert row.agreement is not None


@pytest.mark.parametrize(
    ("swapped", "target", "said"),
    [
        ("student", "android", "is not quantized, and int8 is asked for"),
        ("quantized", "host", "is quantized, and float32"),
    ],
)
def test_a_graph_in_the_place_of_the_other_is_refused(
    swapped: str, target: str, said: str, made: Path, d3d_edge: D3DEdge, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(made / "run", tmp_path / "run"))
    other = "quantized" if swapped == "student" else "student"
    shutil.copyfile(run / swapped / "graph.pt2", run / other / "graph.pt2")
    words = ("export", run, "--target", target, "--out", tmp_path / "bundles", "--workers", 0)
    refused(d3d_edge(*words, *(("--precision", "float32") if target == "host" else ())), 5, said)


def test_what_was_exported_needs_no_clips_any_more(
    made: Path, d3d_edge: D3DEdge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "load_clip", lambda *_, **__: pytest.fail("a clip is decoded"))
    out = with_references(made, tmp_path / "bundles")
    shutil.copytree(made / "bundles" / "jetson", out / "jetson")
    result = d3d_edge("export", made / "run", "--target", "jetson", "--out", out, "--workers", 0)
    assert result.code == 0, result.err
    assert result.err.count("exported before") == 3


def test_where_no_bundle_can_be_written_nothing_is_lowered(
    made: Path, d3d_edge: D3DEdge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("d3d_edge.pipeline.lowering.write", None)
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "bundles"):
        refused(d3d_edge("export", made / "run", "--target", "jetson", "--out", out, "--workers", 0), 9, "cannot write")
    assert (tmp_path / "file").read_text() == "mine"


def test_two_targets_of_one_name_are_refused(made: Path, d3d_edge: D3DEdge, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(resources.find("targets", "host").parent, tmp_path / "mine"))
    words = ("export", made / "run", "--target", "host", "--target", copied, "--out", tmp_path / "bundles")
    refused(d3d_edge(*words), 2, f"2 bundles would be written to {tmp_path / 'bundles' / 'host'}")
    assert not (tmp_path / "bundles").exists()


@pytest.mark.parametrize(
    ("name", "precision"), [("reference-int8", "int8"), ("reference-float32", "int8"), ("reference", "float32")]
)
def test_a_target_with_the_folder_of_a_reference_is_refused(
    name: str, precision: str, made: Path, d3d_edge: D3DEdge, tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(resources.find("targets", "host").parent, tmp_path / "mine"))
    described = (copied / "target.yaml").read_text()
    (copied / "target.yaml").write_text(described.replace("name: host", f"name: {name}"))
    words = ("export", made / "run", "--target", copied, "--precision", precision, "--out", tmp_path / "bundles")
    refused(d3d_edge(*words), 2, "2 bundles would be written to")
    assert not (tmp_path / "bundles").exists()


def test_a_board_called_reference_may_be_validated_next(made: Path, d3d_edge: D3DEdge, tmp_path: Path) -> None:
    """Only the two references themselves are left out of what is to be validated; it is told as a shell takes it."""
    copied = Path(shutil.copytree(resources.find("targets", "host").parent, tmp_path / "mine"))
    described = (copied / "target.yaml").read_text()
    (copied / "target.yaml").write_text(described.replace("name: host", "name: reference-board"))
    out = with_references(made, tmp_path / "my bundles")
    exported = d3d_edge("export", made / "run", "--target", copied, "--out", out, "--workers", 0)
    assert f"next: d3d-edge validate '{out / 'reference-board'}' --data DIR" in exported.out


def test_a_graph_of_other_classes_is_refused(made: Path, d3d_edge: D3DEdge, tmp_path: Path) -> None:
    run = Path(shutil.copytree(made / "run", tmp_path / "run"))
    graph_files.save(networks.quantized(), run / "quantized" / "graph.pt2")
    refused(
        d3d_edge("export", run, "--target", "jetson", "--out", tmp_path / "bundles", "--workers", 0),
        5,
        f"gives [1, {networks.CLASSES}], the run has clips of [4, 32, 32, 3] and 10 classes",
    )


def test_a_target_may_not_promise_what_its_runtime_does_not_do(made: Path, d3d_edge: D3DEdge, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(resources.find("targets", "android").parent, tmp_path / "mine"))
    own = folder / "target.yaml"
    own.write_text(re.sub(r"precisions: .*", "precisions: [int8, float16]", own.read_text()))
    words = ("export", made / "run", "--target", folder, "--out", tmp_path / "bundles", "--workers", 0)
    refused(
        d3d_edge(*words, "--precision", "float16"), 5, "promises float16, and executorch lowers to int8, float32 only"
    )
    own.write_text(own.read_text().replace("name: android", "name: ../../elsewhere"))
    refused(d3d_edge(*words), 2, "target.yaml:", "name")


def test_nothing_lies_beside_a_bundle_when_it_appears(
    made: Path, d3d_edge: D3DEdge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a kill in that moment would leave it there, and what is whole is not exported again."""
    write, beside = golden.write, list[str]()

    def last_of_all(folder: Path, clips: golden.Golden) -> None:
        write(folder, clips)
        beside.extend(path.name for path in tmp_path.iterdir() if path.name.endswith(".lowering"))

    monkeypatch.setattr(golden, "write", last_of_all)
    assert d3d_edge("export", made / "run", "--target", "host", "--out", tmp_path, "--workers", 0).code == 0
    assert beside == []
