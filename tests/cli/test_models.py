"""d3d-edge models: presets and the networks of a recipe, as a table and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import D3DEdge


def test_the_presets(d3d_edge: D3DEdge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = d3d_edge("models")
    assert result.code == 0, result.err
    table, _, below = result.out.partition("nano: ")
    assert "64.18" in table
    assert "…" not in table, "the table is to fit 80 columns"
    assert all(name in table for name in ("nano", "small", "base", "paper"))
    assert "nothing measured on a device" in below


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


def test_bad_words(d3d_edge: D3DEdge) -> None:
    unknown = d3d_edge("models", "--recipe", "compact", "--set", "preset=bse")
    assert (unknown.code, "did you mean 'base'?" in unknown.err) == (2, True)
    changes = ("--set", "student.initialise=scratch", "--set", "student.network.temporal_from=Mixed_9z")
    layer = d3d_edge("models", "--recipe", "compact", *changes)
    assert (layer.code, "temporal_from" in layer.err) == (2, True)
    alone = d3d_edge("models", "--set", "seed=1")
    assert (alone.code, "--recipe" in alone.err) == (2, True)
