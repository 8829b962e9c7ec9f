"""Recipe: what to train and ship, read from one YAML file. Data only; `pipeline` carries it out.

Two keys at the top are not settings themselves: `preset` names a preset (module `presets`), and `extends` a recipe: a
file beside this one, with .yaml or without, else what the command line would take.
What is said later wins: preset, the extended recipe, the recipe, `--set`.
"""

from d3d_edge.recipe.reading import find, load, stored
from d3d_edge.recipe.spec import ExportSpec, GateSpec, QATDistillSpec, QATSpec, QuantizeSpec, Recipe, SplitSpec
from d3d_edge.recipe.training import (
    AugmentSpec,
    BaselineSpec,
    DistillSpec,
    NetworkSpec,
    StudentSpec,
    TeacherSpec,
    TrainSpec,
)

__all__ = [
    "AugmentSpec",
    "BaselineSpec",
    "DistillSpec",
    "ExportSpec",
    "GateSpec",
    "NetworkSpec",
    "QATDistillSpec",
    "QATSpec",
    "QuantizeSpec",
    "Recipe",
    "SplitSpec",
    "StudentSpec",
    "TeacherSpec",
    "TrainSpec",
    "find",
    "load",
    "stored",
]
