"""Rows of a report: of a bundle before anything is measured, and of a stage that was measured as it was trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from d3d_edge.bundle import Bundle
from d3d_edge.pipeline.references import role_of
from d3d_edge.report import Role, Row
from d3d_edge.runner import Where
from d3d_edge.target import Precision


def row_of(name: str, bundle: Bundle, **known: Any) -> Row:
    """The row of `bundle` before anything is measured, with what else is `known` of it."""
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


def fallback_notes(bundles: Iterable[tuple[str, Bundle]]) -> Iterator[str]:
    """What `export` let through in `bundles`, each with the name of its row."""
    for name, bundle in bundles:
        for text in bundle.manifest.fallbacks:
            yield f"{name} was exported with --allow-fallback: {text}"


def trained_row(name: str, role: Role, precision: Precision, results: dict[str, Any]) -> Row:
    """The row of a stage, from what it recorded on the test split."""
    figures = {key: value for key, value in results.items() if key in Row.model_fields}
    runtime = f"torch {torch.__version__}"
    return Row(name=name, role=role, precision=precision, where=Where.HOST_TORCH, runtime=runtime, **figures)
