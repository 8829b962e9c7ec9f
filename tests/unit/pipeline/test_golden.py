"""The clips stored in a bundle are what its manifest says, or one line says what they are."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from d3d_edge.bundle import Bundle
from d3d_edge.errors import BundleError
from d3d_edge.pipeline import golden
from d3d_edge.pipeline.golden import golden_of, told_apart

CLIPS, LOGITS = np.zeros((2, 4, 8, 8, 3), np.uint8), np.zeros((2, 5), np.float32)


def bundle(folder: Path, **arrays: Any) -> Bundle:
    (folder / "golden").mkdir()
    for name, array in {"clips": CLIPS, "logits": LOGITS, **arrays}.items():
        if isinstance(array, bytes):
            (folder / "golden" / f"{name}.npy").write_bytes(array)
        elif array is not None:
            np.save(folder / "golden" / f"{name}.npy", array)
    made: Any = SimpleNamespace(clip=SimpleNamespace(shape=(4, 8, 8, 3)), output=SimpleNamespace(shape=(5,)))
    return Bundle(folder, made)


def test_both_are_read(tmp_path: Path) -> None:
    found = golden_of(bundle(tmp_path))
    assert (found.clips.shape, found.logits.shape) == (CLIPS.shape, LOGITS.shape)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"clips": None}, r"golden/clips\.npy is missing or damaged"),
        ({"clips": b""}, r"golden/clips\.npy is missing or damaged"),
        ({"logits": b"garbage"}, r"golden/logits\.npy is missing or damaged"),
        ({"logits": np.array([{}], dtype=object)}, r"golden/logits\.npy is missing or damaged"),
        ({"clips": CLIPS[0]}, r"clips\.npy is uint8 \[4, 8, 8, 3\], not uint8 \[K, 4, 8, 8, 3\]"),
        ({"clips": CLIPS.astype(np.float32)}, r"clips\.npy is float32"),
        ({"logits": LOGITS[:, :3]}, r"logits\.npy is float32 \[2, 3\], not float32 \[K, 5\]"),
        ({"clips": CLIPS[:0], "logits": LOGITS[:0]}, r"clips\.npy is uint8 \[0, "),
        ({"logits": LOGITS[:1]}, "holds 2 golden clips and the logits of 1"),
        ({"logits": LOGITS * np.nan}, "not finite"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_anything_else_is_refused(arrays: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=said):
        golden_of(bundle(tmp_path, **arrays))


RANGE_4, HUNDREDS = np.array([[2.0, -2.0]], np.float32), np.full((1, 2), 100.0, np.float32)
ONE_FAR_OFF = np.array([[2.0, -1.0, -20.0], [-2.0, 1.0, -20.5]], np.float32)


@pytest.mark.parametrize(
    ("difference", "stored", "precision", "facts", "apart"),
    [
        (0.0, LOGITS, "float32", {}, False),
        (0.03, RANGE_4, "float32", {}, False),
        (0.05, RANGE_4, "float32", {}, True),
        (0.9, ONE_FAR_OFF, "int8", {}, False),
        (1.1, ONE_FAR_OFF, "int8", {}, True),  # the clips change a logit by 4, not by 22.5
        (0.15, RANGE_4, "float16", {}, False),
        (0.25, RANGE_4, "float16", {}, True),
        (0.15, RANGE_4, "float16", {golden.HALVED: 0.01}, False),
        (0.35, RANGE_4, "float16", {golden.HALVED: 0.2}, False),  # twice what float16 moves it by
        (0.45, RANGE_4, "float16", {golden.HALVED: 0.2}, True),
        (0.9, RANGE_4, "weights-int8", {}, False),
        (1.1, RANGE_4, "weights-int8", {}, True),
        (0.5, RANGE_4, "weights-int8", {golden.ROUNDED: 0.3}, False),  # twice what rounded weights move it by
        (0.7, RANGE_4, "weights-int8", {golden.ROUNDED: 0.3}, True),
        (1.5, RANGE_4, "int8", {golden.MOVED: 0.2}, False),  # eight times what noise moves it by
        (1.7, RANGE_4, "int8", {golden.MOVED: 0.2}, True),
        (0.3, RANGE_4, "int8+float16", {golden.MOVED: 0.05}, False),
        (0.5, RANGE_4, "int8+float16", {golden.MOVED: 0.05}, True),
        (0.15, HUNDREDS, "float16", {}, False),  # float16's steps there are 1/16
        (0.3, HUNDREDS, "float16", {}, True),
        (1.9, HUNDREDS, "weights-int8", {}, False),
        (2.1, HUNDREDS, "weights-int8", {}, True),
        (float("nan"), RANGE_4, "int8", {golden.MOVED: 0.2}, True),
        (float("inf"), RANGE_4, "int8", {golden.MOVED: 0.2}, True),
    ],
)
def test_answers_are_told_apart_where_no_rounding_brings_them(
    difference: float, stored: Any, precision: str, facts: dict[str, float], apart: bool
) -> None:
    made: Any = SimpleNamespace(precision=precision, lowering=facts)
    assert told_apart(difference, stored, made) is apart
