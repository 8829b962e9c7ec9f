"""A target is a folder with a target.yaml: data, and no Python."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from d3d_edge import resources, runtimes, target
from d3d_edge.errors import RecipeError
from d3d_edge.target import RuntimeName

OWN = """\
name: watch
description: a watch of our own
runtime: executorch
schemes: [symmetric]
precisions: [int8]
needs: [a cable]
"""


def test_the_three_platforms_and_the_host_ship() -> None:
    assert {"android", "host", "ios", "jetson"} <= set(resources.names("targets"))


@pytest.mark.parametrize("name", resources.names("targets"))
def test_a_shipped_target_loads_under_the_name_of_its_folder(name: str) -> None:
    loaded = target.load(name)
    assert loaded.name == name
    assert loaded.schemes
    assert target.load(str(resources.root("targets") / name)) == loaded


def test_a_target_may_name_each_runtime_of_the_table_and_no_other() -> None:
    assert set(get_args(RuntimeName)) == set(runtimes._TABLE)


def test_a_name_too_long_for_a_file_is_no_target() -> None:
    with pytest.raises(RecipeError, match="no target named 'xxx"):
        target.load("x" * 300)


def test_a_folder_of_ones_own_is_a_target(tmp_path: Path) -> None:
    (tmp_path / "target.yaml").write_text(OWN)
    assert target.load(str(tmp_path)).name == "watch"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("runtime: executorch", "runtime: executroch", "target.yaml:3: runtime: input should be 'executorch'"),
        ("schemes: [symmetric]", "schemes: [int4]", "target.yaml:4: schemes.0"),
        ("schemes: [symmetric]", "schemes: []", "target.yaml:4: schemes: .* at least 1 item"),
        ("precisions: [int8]", "precisions: []", "target.yaml:5: precisions: .* at least 1 item"),
        ("needs: [a cable]\n", "", "'needs' is missing"),
        ("needs:", "extra: android\nneeds:", "target.yaml:6: unknown key 'extra'"),
        ("needs:", "need:", "target.yaml:6: unknown key 'need'; did you mean 'needs'"),
    ],
)
def test_a_mistake_is_told_with_its_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    (tmp_path / "target.yaml").write_text(OWN.replace(old, new))
    with pytest.raises(RecipeError, match=message):
        target.load(str(tmp_path))


@pytest.mark.parametrize(
    ("runtime", "option", "message"),
    [
        ("tensorrt", "opst: 17", "target.yaml:7: options: tensorrt reads no opst; did you mean 'opset'"),
        ("coreml", "compute: gpu", "coreml reads no compute; known: minimum_deployment_target"),
        ("tensorrt", "opset: 21", "target.yaml:7: options: opset is 21, not one of 20, 19, 18"),
        ("tensorrt", "opset: high", "opset is 'high', not one of 20"),
        ("tensorrt", "opset: true", "opset is True, not one of 20"),
        ("tensorrt", f"opset: {10**23}", "opset is 10{23}, not one of 20"),
        ("coreml", "minimum_deployment_target: iOS15", "is 'iOS15', not one of iOS17, iOS18"),
        ("executorch", "opset: 20", "executorch reads no opset; known: none"),
        ("eager", "threads: 2", "eager reads no threads; known: none"),
    ],
)
def test_an_option_or_value_that_the_runtime_does_not_read_is_refused(
    runtime: str, option: str, message: str, tmp_path: Path
) -> None:
    own = OWN.replace("executorch", runtime)
    (tmp_path / "target.yaml").write_text(f"{own}options:\n  {option}\n")
    with pytest.raises(RecipeError, match=message):
        target.load(str(tmp_path))


def test_an_unknown_target_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RecipeError, match=r"no target named 'andriod' .*did you mean 'android'.*jetson"):
        target.load("andriod")


def test_a_setting_goes_to_the_targets_that_have_the_option() -> None:
    jetson, ios = target.configured([target.load("jetson"), target.load("ios")], ["minimum_deployment_target=iOS18"])
    assert ios.options == {"minimum_deployment_target": "iOS18"}
    assert jetson == target.load("jetson")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("minimum_deployment=iOS18", "jetson, ios has no such option.*did you mean 'minimum_deployment_target'"),
        ("opset", "not of the form key=value"),
        ("opset=17", "opset is 17, not one of 20, 19, 18"),
        ("opset=[1]", "options.opset"),
    ],
)
def test_a_setting_that_fits_no_target_is_refused(setting: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        target.configured([target.load("jetson"), target.load("ios")], [setting])


def test_a_target_takes_precisions_that_its_runtime_can_lower() -> None:
    taken = {name: set(target.load(name).precisions) for name in resources.names("targets")}
    assert taken["ios"] == {"int8", "float16", "weights-int8"}
    assert all("int8" in precisions for precisions in taken.values())
