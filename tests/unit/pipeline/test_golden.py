"""The clips stored in a bundle are what its manifest says, or one line says what they are."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from d3d_edge.bundle import Bundle
from d3d_edge.errors import BundleError
from d3d_edge.pipeline.golden import golden_of

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
