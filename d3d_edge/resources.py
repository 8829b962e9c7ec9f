"""Where recipes, targets and calibration plans lie. The only module that knows."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from d3d_edge.errors import RecipeError, listed

Kind = Literal["recipes", "targets", "calibration"]

_NAMED = 40
"""Names, at most, that an error lists of those known."""
_PACKAGE = Path(__file__).resolve().parent
_FILE_OF = {"recipes": "{}.yaml", "targets": "{}/target.yaml", "calibration": "{}.yaml"}


def root(kind: Kind) -> Path:
    """The folder of one kind: inside an installed package, else beside the package in a checkout.

    Raises:
        FileNotFoundError: the installation lacks the folder.
    """
    for folder in (_PACKAGE / "_data" / kind, _PACKAGE.parent / kind):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"the folder {kind} is missing from this installation of d3d-edge; install it again")


def names(kind: Kind) -> list[str]:
    """Names of what ships with the package, sorted."""
    pattern = _FILE_OF[kind].format("*")
    return sorted(p.parent.name if kind == "targets" else p.stem for p in root(kind).glob(pattern))


def find(kind: Kind, name: str) -> Path:
    """The YAML file of a shipped name.

    Raises:
        RecipeError: there is no such name; the hint has the nearest one and the whole list.
    """
    known = names(kind)
    if name not in known:
        raise RecipeError(f"no {kind.removesuffix('s')} named {name!r}", hint=near_miss(name, known))
    return root(kind) / _FILE_OF[kind].format(name)


def given(kind: Kind, name_or_path: str) -> Path:
    """The YAML file of a shipped name, else the one at a path, of a target in the folder there.

    What ships goes first, so that a name means the same in every folder; `./name` is always a path.

    Raises:
        RecipeError: there is neither.
    """
    if name_or_path not in names(kind):
        path = Path(name_or_path) / ("target.yaml" if kind == "targets" else "")
        if os.path.isfile(path):  # not Path.is_file, which raises for a name of more than 255 bytes
            return path
    return find(kind, name_or_path)


def near_miss(word: str, known: Sequence[str]) -> str:
    """'did you mean X? known: A, B, C', the first half only if something is near, and only so many of the known."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return (f"did you mean {near[0]!r}? " if near else "") + "known: " + listed(known, _NAMED)
