"""A recipe is one YAML file and settings from the command line; see test_extends.py for one more file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from d3d_edge import recipe, resources
from d3d_edge.errors import RecipeError
from d3d_edge.recipe import Recipe


def test_the_least_recipe_loads_and_reads_back_equal(path: Path, tmp_path: Path) -> None:
    loaded = recipe.load(str(path))
    assert loaded.name == "least"
    assert loaded.export.targets == ("android", "ios", "jetson")
    again = tmp_path / "again.yaml"
    again.write_text(loaded.yaml(), encoding="utf-8")
    assert recipe.load(str(again)) == loaded


def test_where_gates_begin_is_written_only_where_it_is_not_the_default(path: Path, tmp_path: Path) -> None:
    # Else every run of a version without that key would be another training.
    least, later = recipe.load(str(path)), recipe.load(str(path), ["student.network.gating_from=Mixed_4b"])
    assert "gating_from" not in least.yaml()
    again = tmp_path / "again.yaml"
    again.write_text(later.yaml(), encoding="utf-8")
    assert recipe.load(str(again)).student.network.gating_from == "Mixed_4b"
    assert least.student.hash() != later.student.hash()


def test_settings_are_applied_and_checked(path: Path) -> None:
    settings = ["student.network.width=0.5", "quantize.qat={train: {epochs: 1, batch_size: 2, learning_rate: 1e-4}}"]
    loaded = recipe.load(str(path), settings)
    assert loaded.student.network.width == 0.5
    assert loaded.quantize.qat is not None
    assert loaded.quantize.qat.train.learning_rate == 1e-4
    with pytest.raises(RecipeError, match=r"unknown key 'student.network.widht'; did you mean 'width'\?"):
        recipe.load(str(path), ["student.network.widht=0.5"])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("student.network.width=0", "student.network.width: input should be greater than 0"),
        ("student.network.stage_widths.Mixed_5=0", "stage_widths.Mixed_5: input should be greater than 0"),
        ("student.network.stage_widths={Mixed_6: 1}", "unknown key 'student.network.stage_widths.Mixed_6'"),
        ("split.test_share=0", "split.test_share"),
        ("teacher.train.learning_rate=.inf", "finite"),
        ("quantize.scheme=int4", "'symmetric' or 'affine'"),
        ("seed.x=1", "seed"),
        ("export.golden_clips=0", "golden_clips"),
        ("gates.agreement_min=1.1", "agreement_min"),
        ("gates.agreement_min=-0.1", "agreement_min"),
        ("gates.top1_drop_points_max=-1", "top1_drop_points_max"),
        ("split.val_share=0.5", "split.val_share: input should be less than 0.5"),
        ("split.test_share=0.5", "split.test_share: input should be less than 0.5"),
        ("student.train.accumulate=0", "accumulate"),
        ("student.train.warm_up=1", "warm_up"),
        ("student.train.schedule=steps", "student.train: the schedule 'steps' needs milestones"),
        ("student.train.milestones=[0.5]", "student.train: the schedule 'steps' needs milestones.* no other takes"),
        ("student.train={schedule: steps, milestones: [0.5, 0.5]}", "milestones are shares"),
        ("student.train={schedule: steps, milestones: [0.5, 1.0]}", "milestones are shares"),
        ("student.train={schedule: steps, milestones: [0.5], warm_up: 0.5}", "warm_up must end before"),
        (
            "quantize.qat={train: {epochs: 1, batch_size: 1, learning_rate: 1, compile: true}}",
            "float32 and is not comp",
        ),
        (
            "quantize.qat={train: {epochs: 1, batch_size: 1, learning_rate: 1, precision: bfloat16}}",
            "quantize.qat: quantization-aware training runs in float32",
        ),
        ("seed=9223372036854775808", "seed: "),
        (
            "quantize.qat={train: {epochs: 1, batch_size: 1, learning_rate: 1}, "
            "distill: {from: student, student_weight: 0, cross_entropy_weight: 0}}",
            "quantize.qat.distill: every weight is 0",
        ),
        ("student.train.epochs=true", "student.train.epochs: is a number, not true"),
        ("student.network.temporal_from=Mixed_9z", "'Mixed_5b' or 'Mixed_5c'"),
        ("quantize.keep_float=some", "quantize.keep_float: is none, auto, or a list of names"),
        ("quantize.keep_float=[1]", "quantize.keep_float: is none, auto, or a list of names"),
        ("distill={weight: 0, reduction: mean, cross_entropy_weight: 0}", "distill: every weight is 0"),
        (
            "quantize.qat={train: {epochs: 1, batch_size: 1, learning_rate: 1}, start_share: 0.6}",
            "quantize.qat: freeze_share must not be less than start_share",
        ),
        (
            "quantize.qat={train: {epochs: 1, batch_size: 1, learning_rate: 1}, start_share: 0.5}",
            "quantize.qat: start_share 0.5 of 1 epoch leaves no whole epoch that is rounded",
        ),
        (
            "quantize.qat={train: {epochs: 4, batch_size: 1, learning_rate: 1}, start_share: 0.8, freeze_share: 1}",
            "quantize.qat: start_share 0.8 of 4 epochs leaves no whole epoch",
        ),
        (
            "quantize.qat={train: {epochs: 1, batch_size: 1, learning_rate: 1}, distill: {from: pupil}}",
            "quantize.qat.distill.from: input should be 'teacher', 'student' or 'both'",
        ),
    ],
)
def test_a_value_out_of_bounds_is_refused(path: Path, setting: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe.load(str(path), [setting])


def test_the_published_training_can_be_said_and_reads_back_equal(path: Path, tmp_path: Path) -> None:
    """S3D-G's: momentum SGD, 0.1, 0.01 at 60k and 0.001 at 70k of 80k steps."""
    train = "{optimizer: sgd, schedule: steps, learning_rate: 0.1, milestones: [0.75, 0.875], weight_decay: 1e-7}"
    loaded = recipe.load(str(path), [f"student.train={train}", "student.train.keep=best"])
    assert loaded.student.train.milestones == (0.75, 0.875)
    again = tmp_path / "again.yaml"
    again.write_text(loaded.yaml(), encoding="utf-8")
    assert recipe.load(str(again)) == loaded


@pytest.mark.parametrize("name", ["a\x85b", "a\u2028b", "wave \U0001f44b", "tab\tand\nline"])
def test_a_name_of_any_letters_reads_back_equal(name: str, path: Path, tmp_path: Path) -> None:
    loaded = recipe.load(str(path)).model_copy(update={"name": name})
    again = tmp_path / "again.yaml"
    again.write_text(loaded.yaml(), encoding="utf-8")
    assert recipe.load(str(again)) == loaded


def test_the_schedule_of_quantization_aware_training_can_be_said_and_reads_back_equal(
    path: Path, tmp_path: Path
) -> None:
    train = "{epochs: 4, batch_size: 2, learning_rate: 1e-4}"
    schedule = "start_share: 0.25, freeze_share: 0.75, distill: {from: both, student_weight: 2}"
    loaded = recipe.load(str(path), [f"quantize.qat={{train: {train}, {schedule}}}"])
    assert loaded.quantize.qat is not None
    assert loaded.quantize.qat.distill.sources == {"teacher", "student"}
    again = tmp_path / "again.yaml"
    again.write_text(loaded.yaml(), encoding="utf-8")
    assert recipe.load(str(again)) == loaded


def test_quantized_training_may_learn_from_the_labels_alone_as_much_as_the_student_did(path: Path) -> None:
    qat = "train: {epochs: 1, batch_size: 1, learning_rate: 1}, distill: {teacher_weight: 0}"
    recipe.load(str(path), [f"quantize.qat={{{qat}}}"])
    with pytest.raises(RecipeError, match=r"quantize\.qat\.distill: every weight is 0"):
        recipe.load(str(path), [f"quantize.qat={{{qat}}}", "distill.cross_entropy_weight=0"])


@pytest.mark.parametrize(("epochs", "start_share"), [(1, 0.0), (2, 0.5), (4, 0.75)])
def test_one_epoch_of_rounding_is_enough(epochs: int, start_share: float, path: Path) -> None:
    train = f"{{epochs: {epochs}, batch_size: 2, learning_rate: 1e-4}}"
    schedule = f"start_share: {start_share}, freeze_share: 1"
    loaded = recipe.load(str(path), [f"quantize.qat={{train: {train}, {schedule}}}"])
    assert loaded.quantize.qat is not None
    assert loaded.quantize.qat.start_share == start_share


@pytest.mark.parametrize(
    ("share", "epochs", "first"),
    [(0.0, 25, 0), (0.25, 4, 1), (0.3, 4, 2), (0.28, 25, 7), (0.07, 100, 7), (0.55, 20, 11), (0.96, 25, 24)],
)
def test_shares_are_counted_in_whole_epochs(share: float, epochs: int, first: int, path: Path) -> None:
    """Of the decimal that is written: in floats 0.28 of 25 epochs is more than 7."""
    train = f"{{epochs: {epochs}, batch_size: 2, learning_rate: 1e-4}}"
    qat = recipe.load(
        str(path), [f"quantize.qat={{train: {train}, start_share: {share}, freeze_share: {share}}}"]
    ).quantize.qat
    assert qat is not None
    assert (qat.start_epoch, qat.freeze_epoch) == (first, first)


def test_a_mistake_is_told_with_file_and_line(path: Path) -> None:
    path.write_text(path.read_text() + "typo: 1\n")
    line = len(path.read_text().splitlines())
    with pytest.raises(RecipeError, match=rf"least.yaml:{line}: unknown key 'typo'"):
        recipe.load(str(path))


def test_a_mistake_in_a_setting_is_not_blamed_on_the_line_that_it_changes(path: Path) -> None:
    with pytest.raises(RecipeError, match=r"least.yaml with --set: clip.frames: ") as caught:
        recipe.load(str(path), ["clip.frames=-1"])
    assert "least.yaml:" not in caught.value.message


def test_weights_of_a_long_name_are_left_to_who_reads_them(path: Path) -> None:
    assert recipe.load(str(path), [f"student.weights={'x' * 300}"]).student.weights == "x" * 300


@pytest.mark.parametrize("name", ["none.yaml", "folder/none", "none.yml", "folder/" + "x" * 300])
def test_a_path_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(RecipeError, match="there is no recipe file"):
        recipe.load(name)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RecipeError, match="no recipe named 'nothing-like-it'") as caught:
        recipe.load("nothing-like-it")
    for name in resources.names("recipes"):
        assert name in caught.value.hint


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("export.targets=[androdi]", "no target named 'androdi' .*did you mean 'android'"),
        (
            "distill={cross_entropy_weight: 0, weight: 0, features_weight: 1, reduction: mean}",
            "features alone leave the student's classifier",
        ),
        ("clip.frames=1", "a single frame has no motion for the teacher"),
        ("export.targets=[]", "export.targets: tuple should have at least 1 item"),
        ("export.targets=[.]", "no target named '.'"),
        ('export.targets=[""]', "no target named ''"),
        pytest.param(f"export.targets=[{'x' * 300}]", "no target named 'xxx", id="a long target"),
        pytest.param(f"quantize.calibration={'x' * 300}", "no calibration named 'xxx", id="a long plan"),
        ("quantize.calibration=balansed", "no calibration named 'balansed' .*did you mean 'balanced'"),
    ],
)
def test_names_are_checked_before_hours_of_training(path: Path, setting: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe.load(str(path), [setting])


def test_a_target_and_a_plan_may_be_paths(path: Path, tmp_path: Path) -> None:
    plan = tmp_path / "own.yaml"
    plan.write_text(resources.find("calibration", "balanced").read_text())
    settings = [f"export.targets=[{resources.find('targets', 'host').parent}]", f"quantize.calibration={plan}"]
    assert recipe.load(str(path), settings).quantize.calibration == str(plan)


def test_a_student_that_starts_from_its_teacher_is_the_same_network(path: Path) -> None:
    start = "student.initialise=teacher"
    assert recipe.load(str(path), [start, "student.network.dropout=0.5"]).student.initialise == "teacher"
    with pytest.raises(RecipeError, match=r"student\.network and teacher.network differ"):
        recipe.load(str(path), [start, "student.network.width=0.5"])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("baselines.student={}", "'student' cannot be a name"),
        ("baselines.Spatial={}", "'Spatial' cannot be a name"),
        ("distill.teacher=two_stream", "no baseline 'spatial'"),
        ("baselines.spatial={initialise: teacher}", "baselines.spatial.initialise is 'teacher'"),
    ],
)
def test_baselines_are_checked(path: Path, setting: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe.load(str(path), [setting, "teacher.network.width=0.5"])


def test_null_takes_a_baseline_away(path: Path) -> None:
    settings = ["baselines.spatial={}", "baselines.still={frames: one}", "baselines.spatial=null"]
    assert list(recipe.load(str(path), settings).baselines) == ["still"]


def test_two_streams_share_no_features(path: Path) -> None:
    settings = ["baselines.spatial={}", "distill.teacher=two_stream", "distill.features_weight=1"]
    assert recipe.load(str(path), settings[:2]).distill.uses_teacher
    with pytest.raises(RecipeError, match="needs the flow teacher"):
        recipe.load(str(path), settings)


def test_a_recipe_is_a_value(recipe_data: dict[str, Any]) -> None:
    assert Recipe(**recipe_data) == Recipe(**recipe_data)
    assert Recipe(**recipe_data).hash() == Recipe(**recipe_data).hash()


def test_a_recipe_that_was_stored_needs_none_of_the_files_it_names(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run or a bundle is opened from any folder, also where its plan and the folder of its target are no more."""
    (tmp_path / "watch").mkdir()
    target, plan = tmp_path / "watch" / "target.yaml", tmp_path / "own.yaml"
    target.write_text(resources.find("targets", "host").read_text())
    plan.write_text(resources.find("calibration", "balanced").read_text())
    monkeypatch.chdir(tmp_path)
    loaded = recipe.load(str(path), ["export.targets=[watch, host]", "quantize.calibration=own.yaml"])
    assert loaded.export.targets == (str(target.parent), "host")
    resolved = tmp_path / "recipe.yaml"
    resolved.write_text(loaded.yaml(), encoding="utf-8")
    monkeypatch.chdir("/")
    beside = recipe.load(str(path), ["export.targets=[watch, host]", "quantize.calibration=own.yaml"])
    assert beside == loaded, "found beside the recipe too"
    assert recipe.stored(resolved) == recipe.load(str(resolved)) == loaded
    target.unlink()
    plan.unlink()
    assert recipe.stored(resolved) == loaded
    with pytest.raises(RecipeError, match="no target named"):
        recipe.load(str(resolved))
