"""Target: a device family as data, read from targets/<name>/target.yaml. Runs nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from d3d_edge import resources
from d3d_edge.errors import RecipeError
from d3d_edge.schema import Schema, assign, build, read_yaml

Precision = Literal["int8", "int8+float16", "weights-int8", "float16", "float32"]
"""What a lowered network computes in.

int8           weights and activations as the quantized graph rounds them; the rest as the runtime sees fit
int8+float16   the same, and all that is not INT8 is float16 by the types in the file
weights-int8   the float graph, its weights stored as INT8 and computed as float16
float16        the float graph, rounded to float16
float32        the float graph
"""
QUANTIZED: frozenset[Precision] = frozenset({"int8", "int8+float16"})
"""Those lowered from the quantized graph; the others from the float one."""

Scheme = Literal["symmetric", "affine"]
"""How activations are quantized: with zero point 0 everywhere, or with a zero point of their own."""

RuntimeName = Literal["executorch", "coreml", "tensorrt", "eager"]
OPTIONS: dict[RuntimeName, dict[str, tuple[str | int, ...]]] = {
    "coreml": {"minimum_deployment_target": ("iOS17", "iOS18")},
    "tensorrt": {"opset": (20, 19, 18)},
}
"""What a runtime reads of a target's options, and the values of each, the default first; the others read none.

iOS 17 is the first with `quantize` and `dequantize` (coremltools, ops/defs/iOS17/quantization_ops.py). TensorRT 10.0
reads opset 20 and older ones, and PyTorch writes none before 18.
"""


class Target(Schema):
    """Which runtime lowers and runs a model for a device family, and with which settings."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Also the name of the bundle's folder."""
    description: str
    runtime: RuntimeName
    """The code that lowers to this target, one module in d3d_edge/runtimes/."""
    schemes: tuple[Scheme, ...] = Field(min_length=1)
    """Quantization schemes the target takes, best first."""
    precisions: tuple[Precision, ...] = Field(min_length=1)
    """Precisions the target takes, best first."""
    options: dict[str, str | int | bool] = Field(default_factory=dict)
    """Settings of the runtime, such as the lowest iOS version."""
    needs: tuple[str, ...]
    """What building and running on the device takes."""
    limits: tuple[str, ...] = ()
    """Known limits, for the reader of `d3d-edge targets show`."""

    @field_validator("options")
    @classmethod
    def _are_read(cls, options: dict[str, str | int | bool], info: ValidationInfo) -> dict[str, str | int | bool]:
        if (runtime := info.data.get("runtime")) is not None:  # otherwise that is the mistake
            known = OPTIONS.get(runtime, {})
            for name, value in options.items():
                if name not in known:
                    raise ValueError(f"{runtime} reads no {name}; {resources.near_miss(name, [*known] or ['none'])}")
                if isinstance(value, bool) or value not in known[name]:
                    raise ValueError(f"{name} is {value!r}, not one of {', '.join(map(str, known[name]))}")
        return options


def load(name_or_folder: str) -> Target:
    """The target of a shipped name, or of a folder with a target.yaml.

    Raises:
        RecipeError: there is none, or its file holds a mistake.
    """
    path = resources.given("targets", name_or_folder)
    data, places = read_yaml(path)
    return build(Target, data, str(path), places)


def configured(targets: Sequence[Target], settings: Iterable[str]) -> tuple[Target, ...]:
    """`targets` with each `option=value` of `settings` in those that have that option.

    Raises:
        RecipeError: a setting is not of that form, or none of them has the option.
    """
    values = assign({}, settings)
    for name in values:
        if not any(name in target.options for target in targets):
            known = sorted({option for target in targets for option in target.options})
            listed = ", ".join(target.name for target in targets)
            raise RecipeError(
                f"--set {name}: {listed} has no such option", hint=resources.near_miss(name, known or ["none"])
            )
    made = []
    for target in targets:
        own = {name: value for name, value in values.items() if name in target.options}
        made.append(build(Target, {**target.model_dump(), "options": {**target.options, **own}}, "--set"))
    return tuple(made)
