from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from d3d_edge.video import arrays
from d3d_edge.video.arrays import Header

SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 7), st.integers(1, 7))
FRAMES = SHAPES.flatmap(lambda shape: arrays_of.arrays(np.uint8, (*shape, 3)))
BITS = SHAPES.flatmap(lambda shape: arrays_of.arrays(np.uint16, (*shape, 2)))


@given(array=FRAMES | BITS.map(lambda bits: bits.view(np.float16)), suffix=st.sampled_from([".npy", ".png"]))
def test_every_bit_comes_back(tmp_path_factory: pytest.TempPathFactory, array: np.ndarray, suffix: str) -> None:
    """Whatever the numbers: not-a-numbers, infinities and negative zeros too."""
    path = tmp_path_factory.mktemp("arrays") / f"array{suffix}"
    arrays.write(path, array)
    assert arrays.header(path, len(array)) == Header(array.dtype, array.shape)
    back = arrays.read(path, len(array))
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert back.tobytes() == array.tobytes()


def test_another_number_of_pictures_is_no_whole_entry(tmp_path: Path) -> None:
    arrays.write(tmp_path / "a.png", np.zeros((4, 5, 6, 3), np.uint8))
    assert arrays.header(tmp_path / "a.png", 3) is None
    assert arrays.header(tmp_path / "none.png", 4) is None
