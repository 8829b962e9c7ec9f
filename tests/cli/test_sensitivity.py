"""`d3d-edge sensitivity`: a figure for every group, a picture, nothing measured twice. And groups left in float."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import pytest

from d3d_edge import resources
from d3d_edge.pipeline import mixed
from d3d_edge.pipeline.mixed import HeldOut
from d3d_edge.quantize import graph_files, pt2e
from d3d_edge.quantize.sensitivity import Switched
from tests.cli.conftest import D3DEdge, copied_run, refused


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    ignored = shutil.ignore_patterns("quantized", "spatial")
    return Path(shutil.copytree(made / "run", tmp_path / "run", ignore=ignored))


def test_every_group_is_measured_and_an_interruption_costs_nothing(
    run: Path, cache: Path, d3d_edge: D3DEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    measured = Switched.logits

    def interrupted(self: Switched, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 50:
            raise KeyboardInterrupt
        return measured(self, *arguments)

    monkeypatch.setattr(Switched, "logits", interrupted)
    words = ("sensitivity", run, "--clips", 2, "--cache", cache, "--workers", 0)
    assert d3d_edge(*words).code == 130
    kept = json.loads((run / "sensitivity" / "partial.json").read_text())["found"]
    assert len(kept) == 48, "all but the float answers and the one that was interrupted"
    result = d3d_edge(*words)
    assert result.code == 0, result.err
    report = json.loads((run / "sensitivity.json").read_text())
    costs = [report["whole"], *report["kinds"], *report["groups"]]
    assert calls == 50 + 1 + len(costs) - 48, "nothing is measured twice but the float answers"
    assert all(cost in costs for cost in kept.values())
    assert not (run / "sensitivity" / "partial.json").exists()

    assert report["clips"] == 2
    names = {cost["name"] for cost in report["groups"]}
    assert {"Conv2d_1a_7x7", "Mixed_3b.join", "Mixed_5c.pool", "Logits.Conv2d_0c_1x1"} <= names
    assert {cost["kind"] for cost in report["kinds"]} == {cost["kind"] for cost in report["groups"]}
    noise = [cost["sqnr_db"] for cost in report["groups"]]
    assert noise == sorted(noise)
    assert report["whole"]["sqnr_db"] < 200
    assert report["whole"]["weights"] == sum(cost["weights"] for cost in report["groups"])
    assert cv2.imread(str(run / "sensitivity.png")) is not None
    for shown in ("everything", "every gate", report["groups"][0]["name"]):
        assert shown in result.out
    assert max(map(len, result.out.splitlines()[:-2])) <= 80


@pytest.mark.slow
def test_ranges_that_never_move_are_those_of_the_plan(run: Path, cache: Path, d3d_edge: D3DEdge) -> None:
    """Those of weights are found all the same."""
    recipe = (run / "recipe.yaml").read_text()
    changed = recipe.replace("freeze_share: 0.5", "freeze_share: 0").replace(
        "calibration: balanced", "calibration: mse"
    )
    assert changed.count("freeze_share: 0\n") == changed.count("calibration: mse") == 1
    (run / "recipe.yaml").write_text(changed)
    result = d3d_edge("quantize", run, "--cache", cache, "--workers", 0)
    assert result.code == 0, result.err


@pytest.fixture
def auto(run: Path) -> Path:
    """The run, whose recipe leaves to the gate what stays in float."""
    recipe = (run / "recipe.yaml").read_text()
    qat = recipe[recipe.index("  qat:\n") : recipe.index("  keep_float: none")]
    # Without training, and without a target whose runtime takes long to lower to.
    changed = recipe.replace(qat, "  qat: null\n").replace("keep_float: none", "keep_float: auto")
    # Nor many clips to rank by.
    plan = resources.find("calibration", "balanced").read_text().replace("count: 64", "count: 1")
    (run / "plan.yaml").write_text(plan)
    changed = changed.replace("calibration: balanced", f"calibration: {run / 'plan.yaml'}")
    (run / "recipe.yaml").write_text(changed.replace("  - android\n", ""))
    return run


def test_a_gate_that_no_mix_meets_is_missed(
    auto: Path, cache: Path, d3d_edge: D3DEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = iter([1000.0, 0.0])  # all INT8, all float, and then the mixes
    monkeypatch.setattr(HeldOut, "drop_points", lambda held_out, logits: next(points, 1000.0))
    monkeypatch.setattr(mixed, "ranked", lambda switched, *_: switched.groups)
    result = d3d_edge("quantize", auto, "--cache", cache, "--workers", 0)
    refused(
        result, 4, "no mix of INT8 and float loses at most", "10 val clips (raise gates.top1_drop_points_max", "train"
    )


def test_a_gate_that_int8_misses_is_met_with_some_groups_in_float(
    auto: Path, cache: Path, d3d_edge: D3DEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network this small answers by chance, so the points that it loses are told it, call by call."""
    run = auto
    # All INT8 and all float, with 1 and with 2 groups in float; then with 4, with 3, and the graph made of these.
    points = iter([1000.0, 0.0, 1000.0, 1000.0, 0.0, 0.0, 0.0])
    monkeypatch.setattr(HeldOut, "drop_points", lambda held_out, logits: next(points))
    result = d3d_edge("quantize", run, "--cache", cache, "--workers", 0)
    assert result.code == 0, result.err
    done = json.loads((run / "quantized" / "done.json").read_text())
    assert len(done["float_groups"]) == 3
    assert f"in float: {', '.join(done['float_groups'])}" in result.err
    assert done["held_out"]["split"] == "val"
    assert (done["held_out"]["int8_drop_points"], done["held_out"]["drop_points"]) == (1000.0, 0.0)
    assert not (run / "quantized" / "measured.json").exists()
    program = graph_files.load(run / "quantized" / "graph.pt2")
    assert done["float_convolutions"] == list(pt2e.float_convolutions(program))
    assert done["float_cost"]["weights_bytes"] >= done["float_cost"]["int8_weights_bytes"]
    assert done["float_cost"]["latency"].startswith("not measured")
    report = json.loads((run / "quantized" / "report.json").read_text())
    for row in report["rows"]:
        assert 0 <= row["top1_reversed"] <= 1
        assert 0 <= row["top1_shuffled"] <= 1
    assert report["rows"][1]["agreement_reversed"] is not None
    assert "shuffled" in result.out


@pytest.mark.parametrize(
    ("was", "now", "code", "message"),
    [
        ("keep_float: none", "keep_float: [Mixed_5d]", 2, "no part 'Mixed_5d'; did you mean 'Mixed_5c'?"),
        ("calibration: balanced", "calibration: balance", 2, "did you mean 'balanced'?"),
        ("frames: 4", "frames: 6", 8, "student was finished before the recipe's clip, flow or network was changed"),
        ("preset: ultrafast", "preset: medium", 8, "teacher was finished before the recipe's clip, flow or network"),
    ],
)
def test_a_mistake_in_the_recipe_of_a_run_costs_no_decoding_and_no_graph(
    was: str, now: str, code: int, message: str, d3d_edge: D3DEdge, made: Path, tmp_path: Path
) -> None:
    run = copied_run(made, tmp_path)
    recipe, done = run / "recipe.yaml", (run / "quantized" / "done.json").read_text()
    recipe.write_text(recipe.read_text().replace(was, now))
    for command in ("quantize", "sensitivity") if "keep_float" not in was else ("quantize",):
        refused(d3d_edge(command, run, "--cache", tmp_path / "cache"), code, message)
    assert not (tmp_path / "cache").exists()
    assert (run / "quantized" / "done.json").read_text() == done
