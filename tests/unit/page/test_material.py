"""What the page is made of is found in runs, beside bundles and in files, and refused where it is damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from d3d_edge.errors import BundleError, DataError
from d3d_edge.page.material import gather
from tests.unit.page import samples


def test_reports_are_found_in_runs_and_beside_bundles_and_each_is_shown_once(tmp_path: Path) -> None:
    for name in ("run", "bundles"):
        samples.report(title=name).write(tmp_path / name / "report.json")
        (tmp_path / name / "recipe.yaml").write_text("name: the same\n")
    found = gather([tmp_path / "run", tmp_path / "bundles", tmp_path / "bundles"])
    assert [report.title for report in found.reports] == ["run", "bundles"]
    assert found.recipes == {"run": "name: the same\n"}


def test_a_report_may_be_given_as_a_file(tmp_path: Path) -> None:
    samples.report().write(tmp_path / "benchmark.json")
    assert gather([tmp_path / "benchmark.json"]).reports == [samples.report()]
    (tmp_path / "clip.mp4").write_bytes(b"\x00\xff")
    with pytest.raises(DataError, match=r"clip\.mp4"):
        gather([tmp_path / "clip.mp4"])


def test_reports_with_answers_come_before_times_and_those_before_training(tmp_path: Path) -> None:
    training = samples.measured("flow teacher", role="teacher", bundle="")
    timed = samples.measured("android", clips=0, top1=None)
    for name, rows in (("training", (training,)), ("times", (timed,)), ("answers", (samples.measured("android"),))):
        samples.report(title=name, rows=rows).write(tmp_path / f"{name}.json")
    found = gather([tmp_path / "training.json", tmp_path / "times.json", tmp_path / "answers.json"])
    assert [one.title for one in found.reports] == ["answers", "times", "training"]


def test_a_folder_without_anything_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither a run nor a bundle"):
        gather([tmp_path])
    with pytest.raises(DataError, match="neither a run nor a bundle"):
        gather([tmp_path / "none"])


@pytest.mark.parametrize("name", ["report", "evaluation", "sensitivity"])
@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "other"}', "\ufffe", "[" * 100_000])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / f"{name}.json").write_text(text)
    with pytest.raises(DataError, match=rf"{name}\.json is not a readable {name}"):
        gather([tmp_path])


@pytest.mark.parametrize(
    ("name", "impossible"),
    [
        ("evaluation", {"chance": 1.5}),
        ("evaluation", {"videos": -1}),
        ("evaluation", {"systems": [samples.evaluation()["systems"][0] | {"top1": 75.0}]}),
        ("evaluation", {"systems": [samples.evaluation()["systems"][0] | {"parameters": 10**30}]}),
        ("sensitivity", {"float_top1": -0.1}),
        ("sensitivity", {"whole": samples.sensitivity()["whole"] | {"top1_drop_points": 150.0}}),
    ],
)
def test_so_is_one_that_nothing_can_have_measured(tmp_path: Path, name: str, impossible: dict[str, Any]) -> None:
    path = tmp_path / f"{name}.json"
    whole = samples.evaluation() if name == "evaluation" else samples.sensitivity()
    path.write_text(json.dumps(whole))
    gather([tmp_path])
    path.write_text(json.dumps(whole | impossible))
    with pytest.raises(DataError, match=rf"{name}\.json is not a readable {name}"):
        gather([tmp_path])


@pytest.mark.parametrize("predicted", [(0,), (0, 1, 1, 1, 2, 2, 3, 4), (0, 1, 1, 1, 2, 2, 3, -2)])
def test_answers_that_are_not_of_the_clips_are_refused(tmp_path: Path, predicted: tuple[int, ...]) -> None:
    row = samples.measured("android", answers=samples.answers(predicted))
    samples.report().model_copy(update={"rows": (row,)}).write(tmp_path / "report.json")
    with pytest.raises(DataError, match="the answers of android are not of its clips"):
        gather([tmp_path])


def test_a_damaged_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "android").mkdir()
    (tmp_path / "android" / "manifest.json").write_text("{}")
    with pytest.raises(BundleError, match="android"):
        gather([tmp_path])
