"""`d3d-edge sensitivity`: a figure for every group, a picture, nothing measured twice. And groups left in float."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import pytest

from d3d_edge.quantize import pt2e
from tests.cli.conftest import D3DEdge


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "run", tmp_path / "run"))


def set_in_recipe(run: Path, old: str, new: str) -> None:
    recipe = run / "recipe.yaml"
    assert old in recipe.read_text()
    recipe.write_text(recipe.read_text().replace(old, new))


def test_every_group_is_measured_and_an_interruption_costs_nothing(run: Path, cache: Path, d3d_edge: D3DEdge) -> None:
    words = ("sensitivity", run, "--clips", 4, "--cache", cache, "--workers", 0)
    first = d3d_edge(*words, "--json")
    assert first.code == 0, first.err
    report = json.loads(first.out)
    assert report == json.loads((run / "sensitivity.json").read_text())
    assert report["clips"] == 4
    names = {cost["name"] for cost in report["groups"]}
    assert {"Conv2d_1a_7x7", "Mixed_3b.join", "Mixed_5c.pool", "Logits.Conv2d_0c_1x1"} <= names
    assert {cost["kind"] for cost in report["kinds"]} == {cost["kind"] for cost in report["groups"]}
    noise = [cost["sqnr_db"] for cost in report["groups"]]
    assert noise == sorted(noise)
    assert report["whole"]["sqnr_db"] < 200
    assert report["whole"]["weights"] == sum(cost["weights"] for cost in report["groups"])
    assert cv2.imread(str(run / "sensitivity.png")) is not None

    # What a kill after half of the groups leaves.
    done = run / "sensitivity" / "done.json"
    kept = json.loads(done.read_text())
    costs = {f"group {cost['name']}": cost | {"sqnr_db": 1.5} for cost in report["groups"][:60]}
    (run / "sensitivity" / "partial.json").write_text(json.dumps({"fingerprint": kept["fingerprint"], "costs": costs}))
    done.unlink()
    again = d3d_edge(*words)
    assert again.code == 0, again.err
    measured = json.loads((run / "sensitivity.json").read_text())["groups"]
    assert [cost["sqnr_db"] for cost in measured].count(1.5) == 60, "taken over, not measured again"
    assert not (run / "sensitivity" / "partial.json").exists()
    assert "finished before" in d3d_edge(*words).err
    for shown in ("everything", "every gate", "1.5"):
        assert shown in again.out


@pytest.mark.parametrize(
    ("keep", "kept"), [("[stem, head]", ["Conv2d_1a_7x7", "Logits.Conv2d_0c_1x1"]), ("auto", None)], ids=str
)
def test_quantize_leaves_in_float_what_the_recipe_says(
    keep: str, kept: list[str] | None, run: Path, cache: Path, d3d_edge: D3DEdge
) -> None:
    set_in_recipe(run, "keep_float: none", f"keep_float: {keep}")
    # Without training, and without a target whose runtime takes long to lower to.
    recipe = (run / "recipe.yaml").read_text()
    qat = recipe[recipe.index("  qat:\n") : recipe.index("  keep_float:")]
    set_in_recipe(run, qat, "  qat: null\n")
    set_in_recipe(run, "  - android\n", "")
    result = d3d_edge("quantize", run, "--cache", cache, "--workers", 0)
    assert result.code == 0, result.err
    done = json.loads((run / "quantized" / "done.json").read_text())
    program = pt2e.load(run / "quantized" / "graph.pt2")
    assert done["float_convolutions"] == list(pt2e.float_convolutions(program))
    if kept is None:
        # The gate of the tests' recipe lets everything pass.
        assert done["float_groups"] == []
        assert done["held_out"]["split"] == "val"
    else:
        assert done["float_groups"] == ["stem", "head"]
        assert len(done["float_convolutions"]) == len(kept)
        assert done["float_cost"]["weights_bytes"] > done["float_cost"]["int8_weights_bytes"]
        assert done["float_cost"]["latency"].startswith("not measured")
        assert "in float: stem, head" in result.err


def test_a_gate_that_int8_misses_is_met_with_some_groups_in_float(
    run: Path, cache: Path, d3d_edge: D3DEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network this small answers by chance, so the points that it loses are told it, call by call."""
    from d3d_edge.pipeline.mixed import HeldOut

    set_in_recipe(run, "keep_float: none", "keep_float: auto")
    recipe = (run / "recipe.yaml").read_text()
    set_in_recipe(run, recipe[recipe.index("  qat:\n") : recipe.index("  keep_float:")], "  qat: null\n")
    set_in_recipe(run, "  - android\n", "")
    # All INT8, with 1 and with 2 groups in float; then with 4, with 3, and the graph made of these.
    points = iter([1000.0] * 3 + [0.0] * 3)
    monkeypatch.setattr(HeldOut, "drop_points", lambda held_out, logits: next(points))
    result = d3d_edge("quantize", run, "--cache", cache, "--workers", 0)
    assert result.code == 0, result.err
    done = json.loads((run / "quantized" / "done.json").read_text())
    assert len(done["float_groups"]) == 3
    assert done["held_out"]["int8_drop_points"] == 1000.0
    assert done["held_out"]["drop_points"] == 0.0
