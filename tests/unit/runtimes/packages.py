"""Packages of a few operators, written by coremltools for the interpreter to read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from d3d_edge.runtimes.mil import MilProgram, quiet

pytest.importorskip("coremltools")
with quiet():
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types

Body = Callable[..., Any]
"""From MIL values to one MIL value or a tuple of them."""


def saved(folder: Path, body: Body, *arrays: np.ndarray[Any, Any], half: bool = False, target: str = "iOS17") -> Path:
    """A package of `body`, a function of as many tensors as there are `arrays`, with no graph pass run."""
    opset = getattr(ct.target, target)
    with quiet():
        kind = types.fp16 if half else types.fp32
        specs = [mb.TensorSpec(shape=array.shape, dtype=kind) for array in arrays]
        program = mb.program(input_specs=specs, opset_version=opset)(body)
        model = ct.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=opset,
            compute_precision=ct.precision.FLOAT32,
            pass_pipeline=ct.PassPipeline.EMPTY,
            skip_model_load=True,
        )
        model.save(str(folder / "model.mlpackage"))
    return folder / "model.mlpackage"


def run(folder: Path, body: Body, *arrays: np.ndarray[Any, Any], **options: Any) -> list[np.ndarray[Any, Any]]:
    program = MilProgram.load(saved(folder, body, *arrays, **options), float16=True)
    outputs = program.run({feature.name: array for feature, array in zip(program.inputs, arrays, strict=True)})
    return [outputs[feature.name] for feature in program.outputs]
