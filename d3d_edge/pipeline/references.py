"""Bundles that PyTorch itself runs: `export` writes them beside the others, and these are compared with them."""

from __future__ import annotations

from typing import Any, Literal

import torch

from d3d_edge.bundle import Bundle
from d3d_edge.report import Role as RowRole
from d3d_edge.report import Row
from d3d_edge.runner import Where
from d3d_edge.target import QUANTIZED, Precision

REFERENCES: dict[Precision, str] = {"float32": "reference-float32", "int8": "reference-int8"}
"""The folders of the float student and of the quantized graph."""
Role = Literal["float", "quantized", "bundle"]
"""The part of a bundle in a comparison: the float student, the quantized graph, or what was made of them."""


def role_of(bundle: Bundle) -> Role:
    """What `bundle` is in a comparison."""
    if bundle.manifest.runtime != "eager":
        return "bundle"
    return "quantized" if bundle.manifest.precision in QUANTIZED else "float"


def row_of(name: str, bundle: Bundle, **known: Any) -> Row:
    """The row of `bundle` in a report before anything is measured, with what else is `known` of it."""
    made = bundle.manifest
    return Row(
        name=name,
        role=role_of(bundle),
        bundle=bundle.path.resolve().name,
        model_sha256=made.model_sha256,
        target=made.target,
        precision=made.precision,
        where=Where.NOT_RUN,
        size_bytes=bundle.model_size_bytes,
        **known,
    )


def trained_row(name: str, role: RowRole, precision: Precision, results: dict[str, Any]) -> Row:
    """The row of a stage, from what it recorded on the test split."""
    figures = {key: value for key, value in results.items() if key in Row.model_fields}
    runtime = f"torch {torch.__version__}"
    return Row(name=name, role=role, precision=precision, where=Where.HOST_TORCH, runtime=runtime, **figures)
