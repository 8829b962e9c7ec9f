"""Bundles that PyTorch itself runs: `export` writes them beside the others, and these are compared with them."""

from __future__ import annotations

from typing import Literal

from d3d_edge.bundle import Bundle
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
