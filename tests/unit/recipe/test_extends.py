"""A recipe may extend one other, which stands beside it, ships, or is given by path; both keep their own files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from d3d_edge import recipe
from d3d_edge.errors import RecipeError
from d3d_edge.schema import merge
from tests.unit.recipe.conftest import write


@pytest.mark.parametrize(
    ("at", "name"),
    [
        ("over.yaml", "least"),
        ("over.yaml", "least.yaml"),
        ("over.yaml", "./least.yaml"),
        ("folder/over.yaml", "../least.yaml"),
        ("folder/over.yaml", "../least"),
        ("folder/over.yaml", "~/least"),
    ],
)
def test_a_recipe_extends_one_beside_it(
    at: str, name: str, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "some" / "where"
    elsewhere.mkdir(parents=True)
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("HOME", str(path.parent))
    (elsewhere / "least.yaml").write_text("another: recipe")
    (path.parent / at).parent.mkdir(exist_ok=True)
    over = write(path.parent / at, {"extends": name, "name": "over", "student": {"network": {"width": 1}}})
    loaded, base = recipe.load(str(over)), recipe.load(str(path))
    assert loaded.name == "over"
    assert loaded.student.network.width == 1.0
    assert loaded.student.train == base.student.train


def test_a_path_that_is_not_beside_the_recipe_is_one_from_the_current_folder(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    (tmp_path / "folder").mkdir()
    over = write(tmp_path / "folder" / "over.yaml", {"extends": "least.yaml", "name": "over"})
    assert recipe.load(str(over)).name == "over"


def test_only_one_level_of_extends(path: Path) -> None:
    write(path.parent / "over.yaml", {"extends": "least", "name": "over"})
    top = write(path.parent / "top.yaml", {"extends": "over", "name": "top"})
    with pytest.raises(RecipeError, match=r"top.yaml extends over, which itself extends .* only one level"):
        recipe.load(str(top))


def test_a_recipe_that_extends_nothing_known_is_refused(path: Path) -> None:
    over = write(path.parent / "over.yaml", {"extends": "lesat"})
    with pytest.raises(RecipeError, match="no recipe named 'lesat'"):
        recipe.load(str(over))
    write(over, {"extends": "x" * 300})
    with pytest.raises(RecipeError, match="no recipe named 'xxx"):
        recipe.load(str(over))


@pytest.mark.parametrize(
    ("named", "file"),
    [
        ({"teacher": {"weights": "there.npz"}}, "there.npz"),
        ({"student": {"weights": "there.npz"}}, "there.npz"),
        ({"quantize": {"calibration": "there.yaml"}}, "there.yaml"),
        ({"export": {"targets": ["android", "there"]}}, "there/target.yaml"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_an_extended_recipe_names_lies_beside_it(
    named: dict[str, Any], file: str, tmp_path: Path, recipe_data: dict[str, Any]
) -> None:
    (tmp_path / "folder" / file).parent.mkdir(parents=True)
    (tmp_path / "folder" / file).touch()
    write(tmp_path / "folder" / "base.yaml", merge(recipe_data, named))
    over = write(tmp_path / "over.yaml", {"extends": "folder/base", "name": "over"})
    ((section, key, given),) = ((at, *next(iter(inner.items()))) for at, inner in named.items())
    found = getattr(getattr(recipe.load(str(over)), section), key)
    expected = str(tmp_path / "folder" / "there")
    assert str(found[-1] if isinstance(given, list) else found).startswith(expected)


def test_what_a_recipe_names_may_lie_at_home(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "w.pt").touch()
    monkeypatch.setenv("HOME", str(home))
    assert recipe.load(str(path), ["student.weights=~/w.pt"]).student.weights == str(home / "w.pt")
    assert recipe.load(str(path), ["student.weights=~/gone.pt"]).student.weights == "~/gone.pt"


def test_a_mistake_is_told_where_it_stands(path: Path, recipe_data: dict[str, Any]) -> None:
    write(path, {"seeed": 1, **recipe_data, "name": "least", "seed": -1})
    over = write(path.parent / "over.yaml", {"extends": "least", "name": "over", "clip": {"frames": 0}})
    with pytest.raises(RecipeError) as caught:
        recipe.load(str(over))
    for at, key in ((path, "seeed"), (path, "seed"), (over, "frames")):
        line = next(n for n, text in enumerate(at.read_text().splitlines(), 1) if text.strip().startswith(f"{key}:"))
        assert f"{at}:{line}: " in caught.value.message
