"""d3d-edge models: presets and the networks of a recipe, as a table and as JSON."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest

from d3d_edge import resources
from d3d_edge.recipe import load
from tests import networks
from tests.cli.conftest import D3DEdge, refused


def test_the_presets(d3d_edge: D3DEdge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = d3d_edge("models")
    assert result.code == 0, result.err
    table, _, below = result.out.partition("nano: ")
    assert "64.18" in table
    assert "…" not in table, "the table is to fit 80 columns"
    assert all(name in table for name in ("nano", "small", "medium", "base", "paper"))
    assert "nothing measured: --on host measures times" in below


def test_the_networks_of_a_recipe(d3d_edge: D3DEdge, recipe_file: Path) -> None:
    changes = ("--set", "student.initialise=scratch", "--set", "student.network.width=0.5")
    result = d3d_edge("models", "--recipe", recipe_file, *changes, "--classes", 7, "--json")
    assert result.code == 0, result.err
    teacher, student = json.loads(result.out)["rows"]
    assert (teacher["input"], student["input"]) == ("flow", "RGB")
    assert (teacher["network"]["width"], student["network"]["width"]) == (0.25, 0.5)
    assert (student["frames"], student["height"], student["width"], student["classes"]) == (4, 32, 32, 7)
    assert student["parameters"] > 3 * teacher["parameters"]
    assert student["activation_float32_bytes"] == 4 * student["activation_int8_bytes"]


def test_a_clip_too_small_for_the_network_is_refused(d3d_edge: D3DEdge) -> None:
    changes = [f"clip.{name}=8" for name in ("height", "width")]
    changes += [f"{of}.network.padding=symmetric" for of in ("teacher", "student")]
    result = d3d_edge("models", "--recipe", "compact", *(word for one in changes for word in ("--set", one)))
    assert (result.code, "a clip of 16x8x8 is too small" in result.err) == (2, True), result.err


@pytest.mark.parametrize("classes", [0, 1_000_001, 10**20])
def test_as_many_classes_as_no_data_has_are_refused(classes: int, d3d_edge: D3DEdge) -> None:
    result = d3d_edge("models", "--classes", classes)
    assert (result.code, "is not in the range 1<=x<=1000000" in result.err) == (2, True), result.err


def test_bad_words(d3d_edge: D3DEdge) -> None:
    unknown = d3d_edge("models", "--recipe", "compact", "--set", "preset=bse")
    assert (unknown.code, "did you mean 'base'?" in unknown.err) == (2, True)
    changes = ("--set", "student.initialise=scratch", "--set", "student.network.temporal_from=Mixed_9z")
    layer = d3d_edge("models", "--recipe", "compact", *changes)
    assert (layer.code, "temporal_from" in layer.err) == (2, True)
    alone = d3d_edge("models", "--set", "seed=1")
    assert (alone.code, "--recipe" in alone.err) == (2, True)


@pytest.mark.parametrize(
    "option", [("--frames", 8), ("--width", 0.5), ("--threads", 1), ("--again",), ("--budget-ms", 3)]
)
def test_what_is_measured_has_to_be_measured_somewhere(option: tuple[object, ...], d3d_edge: D3DEdge) -> None:
    result = d3d_edge("models", *option)
    assert (result.code, "--on host" in result.err) == (2, True)


@pytest.mark.parametrize("option", [("--frames", 513), ("--side", 5000)])
def test_a_size_that_no_clip_can_have_is_refused_at_once(option: tuple[str, int], d3d_edge: D3DEdge) -> None:
    result = d3d_edge("models", "--on", "host", *option)
    assert (result.code, "is not in the range" in result.err) == (2, True)


@pytest.fixture
def measured(d3d_edge: D3DEdge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> D3DEdge:
    """`models` on this machine, with one tiny network in the place of presets and grid."""
    monkeypatch.setattr("d3d_edge.cli.models.PRESETS", {})
    monkeypatch.setattr("d3d_edge.pipeline.students.recogniser", lambda _: networks.small())
    monkeypatch.setattr("d3d_edge.pipeline.students.CLASSES", networks.CLASSES)
    size = ("--frames", networks.FRAMES, "--side", networks.SIDE, "--width", 0.25)
    where = ("--on", "host", "--target", "host", "--threads", 1, "--workers", 1, "--cache", tmp_path / "cache")
    return lambda *words: d3d_edge("models", *where, *size, *words)


def test_a_student_for_a_budget(measured: D3DEdge, tmp_path: Path) -> None:
    plot = tmp_path / "latency.svg"
    result = measured("--budget-ms", 100_000, "--plot", plot)
    assert result.code == 0, result.err
    assert "proposed for 100000 ms: 4x16x16, width 0.25" in result.out
    assert "measured on this host" in result.out
    assert plot.read_text().startswith("<?xml")
    # What is printed is a recipe, of the network that was timed; all else is that of the one it extends.
    own = textwrap.dedent(result.out.partition("extends says:\n")[2].partition("what is most")[0])
    compact = resources.find("recipes", "compact").read_text()
    (tmp_path / "own.yaml").write_text(compact.replace("clip:\n", "clip:\n  frames: 32\n  height: 64\n"))
    for extended in ("compact", "own.yaml"):
        recipe = tmp_path / "mine.yaml"
        recipe.write_text(own.replace("extends: compact", f"extends: {extended}"))
        loaded = load(str(recipe))
        assert (loaded.name, loaded.clip.shape) == ("mine", (4, 16, 16, 3))
        for network in (loaded.teacher.network, loaded.student.network):
            assert (network.width, network.gating, network.bn_scale, network.bn_momentum) == (0.25, True, True, 0.1)
    # The same in JSON, without measuring again; and a budget that nothing fits.
    data = json.loads(measured("--budget-ms", 100_000, "--json").out)
    assert data["proposed"] == data["rows"][0]
    took = data["proposed"]["latency_ms_p50"]
    assert f"{took:.2f} ms" in result.out
    none = measured("--budget-ms", took / 2)
    assert (none.code, f"none takes {took / 2:g} ms" in none.out) == (0, True)
    assert json.loads(measured("--budget-ms", took / 2, "--json").out)["proposed"] is None


def test_networks_past_the_budget_are_counted(measured: D3DEdge) -> None:
    sizes = ("--width", 0.25, "--width", 0.5)
    rows = json.loads(measured(*sizes, "--json").out)["rows"]
    fastest, _ = sorted(row["latency_ms_p50"] for row in rows)
    assert "slower than that: 1" in measured(*sizes, "--budget-ms", fastest).out


@pytest.mark.parametrize(
    ("plot", "code", "said"),
    [("/proc/x.svg", 9, "cannot write /proc/x.svg"), ("BUNDLE/x.svg", 2, "choose another --plot")],
)
def test_a_plot_that_cannot_be_written_is_refused_before_anything_is_measured(
    plot: str, code: int, said: str, measured: D3DEdge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("d3d_edge.pipeline.latencies.measure", None)
    (tmp_path / "manifest.json").write_text('{"format": "d3d-edge bundle"}')
    refused(measured("--plot", plot.replace("BUNDLE", str(tmp_path))), code, said)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--budget-ms", 30), "say where with --on host"),
        (("--plot", "x.svg"), "say where with --on host"),
        (("--on", "host", "--recipe", "compact"), "not a recipe"),
        (("--on", "hots", "--budget-ms", 30), "'hots' (known: host, local:FOLDER, ssh:[USER@]HOST[:FOLDER], adb"),
        (("--on", "host", "--target", "androit"), "did you mean 'android'?"),
    ],
    ids=str,
)
def test_bad_words_of_a_budget(d3d_edge: D3DEdge, words: tuple[object, ...], said: str, tmp_path: Path) -> None:
    result = d3d_edge("models", *words, "--cache", tmp_path)
    assert (result.code, said in result.err) == (2, True), result.err
