"""What ships with the package is found by name, in a checkout and in an installation."""

from __future__ import annotations

from pathlib import Path

import pytest

from d3d_edge import resources
from d3d_edge.errors import RecipeError
from d3d_edge.resources import Kind

KINDS: tuple[Kind, ...] = ("recipes", "targets", "calibration")


@pytest.mark.parametrize("kind", KINDS)
def test_every_name_leads_to_a_file(kind: Kind) -> None:
    names = resources.names(kind)
    assert names == sorted(names) != []
    for name in names:
        assert resources.find(kind, name).is_file()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["", "nothing-like-it", "../setup", "/etc/passwd", ".", "*"])
def test_anything_else_is_refused(kind: Kind, name: str) -> None:
    with pytest.raises(RecipeError, match=f"no {kind.removesuffix('s')} named .*known: {resources.names(kind)[0]}"):
        resources.find(kind, name)


def test_an_installed_folder_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages" / "d3d_edge"
    (tmp_path / "site-packages" / "recipes").mkdir(parents=True)
    monkeypatch.setattr(resources, "_PACKAGE", package)
    assert resources.root("recipes") == tmp_path / "site-packages" / "recipes"
    (package / "_data" / "recipes").mkdir(parents=True)
    assert resources.root("recipes") == package / "_data" / "recipes"


def test_a_broken_installation_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path / "d3d_edge")
    with pytest.raises(FileNotFoundError, match="install it again"):
        resources.root("targets")


def test_the_nearest_name_is_offered_only_if_one_is_near() -> None:
    assert resources.near_miss("smokee", ["other", "smoke"]) == "did you mean 'smoke'? known: other, smoke"
    assert resources.near_miss("zzz", ["other", "smoke"]) == "known: other, smoke"
    many = [f"class {number:03}" for number in range(400)]
    assert (
        resources.near_miss("Class 399", many)
        == f"did you mean 'class 399'? known: {', '.join(many[:40])} and 360 more"
    )


@pytest.mark.parametrize(("kind", "name"), [("recipes", "compact"), ("calibration", "balanced"), ("targets", "host")])
def test_a_name_means_what_ships_and_a_path_what_lies_there(
    kind: Kind, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for place in (name, "own"):
        path = tmp_path / place / "target.yaml" if kind == "targets" else tmp_path / place
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert resources.given(kind, name) == resources.find(kind, name)
    for own in (f"./{name}", "own"):
        assert resources.given(kind, own).resolve().is_relative_to(tmp_path)
    with pytest.raises(RecipeError, match="did you mean"):
        resources.given(kind, name[:-1])
