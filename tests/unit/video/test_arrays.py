from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from PIL import Image

from d3d_edge.errors import DataError
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


@given(
    data=st.data(),
    array=FRAMES | BITS.map(lambda bits: bits.view(np.float16)),
    suffix=st.sampled_from([".npy", ".png"]),
)
def test_no_changed_bit_is_read(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, array: np.ndarray, suffix: str
) -> None:
    """A changed file is no whole entry, or is told and deleted when it is read; or the change did not matter."""
    path = tmp_path_factory.mktemp("arrays") / f"array{suffix}"
    arrays.write(path, array)
    changed = bytearray(path.read_bytes())
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(changed)
    if arrays.header(path, len(array)) != Header(array.dtype, array.shape):
        return
    try:
        back = arrays.read(path, len(array))
    except DataError:
        assert not path.exists()
    else:
        assert back.tobytes() == array.tobytes()


ENTRIES = pytest.mark.parametrize(
    ("array", "suffix"),
    [
        (np.full((2, 5, 6, channels), 7, dtype), suffix)
        for channels, dtype in ((3, np.uint8), (2, np.float16))
        for suffix in (".npy", ".png")
    ],
    ids=["raw frames", "frames", "raw flow", "flow"],
)


@ENTRIES
def test_an_entry_in_the_place_of_another_is_none(array: np.ndarray, suffix: str, tmp_path: Path) -> None:
    mine, other = (tmp_path / f"{name}{suffix}" for name in ("mine", "other"))
    for path in (mine, other):
        arrays.write(path, array)
    other.replace(mine)
    if arrays.header(mine, 2) is not None:
        with pytest.raises(DataError, match="it was damaged, and is deleted"):
            arrays.read(mine, 2)


@ENTRIES
def test_entries_of_older_versions_do_not_say_whose_they_are(array: np.ndarray, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"old{suffix}"
    arrays.write(path, array)
    numbers = zlib.crc32(array.tobytes()).to_bytes(4, "little") if suffix == ".npy" else b""
    path.write_bytes(path.read_bytes()[:-4] + numbers)
    assert arrays.header(path, 2) == Header(array.dtype, array.shape)
    np.testing.assert_array_equal(arrays.read(path, 2), array)


@pytest.mark.parametrize("array", [np.zeros((1001, 1000, 1, 3), np.uint8), np.zeros((1001, 1000, 1, 2), np.float16)])
def test_what_no_png_holds_is_refused(array: np.ndarray, tmp_path: Path) -> None:
    """libpng takes a million rows."""
    with pytest.raises(DataError, match=r"1001 pictures of 1000x1 are too large .*uncompressed"):
        arrays.write(tmp_path / "array.png", array)
    assert not list(tmp_path.iterdir())


def test_a_file_may_be_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux reads 2 GiB at once, and some file systems less."""
    array = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), np.uint8)
    arrays.write(tmp_path / "a.npy", array)

    class Short(io.FileIO):
        def readinto(self, buffer: Any) -> int:
            return super().readinto(memoryview(buffer)[:100]) or 0

    monkeypatch.setattr(Path, "open", lambda path, mode, **_: Short(path, mode.replace("b", "")))
    np.testing.assert_array_equal(arrays.read(tmp_path / "a.npy", 2), array)


def test_a_raw_entry_is_an_npy_file_for_others(tmp_path: Path) -> None:
    frames = np.arange(4 * 5 * 6 * 3, dtype=np.uint8).reshape(4, 5, 6, 3)
    arrays.write(tmp_path / "a.npy", frames)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), frames)


def test_a_damaged_entry_that_cannot_be_deleted_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.npy"
    arrays.write(path, np.zeros((4, 5, 6, 3), np.uint8))
    path.write_bytes(path.read_bytes()[:-5] + b"other")

    def refuse(path: Path) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(DataError, match=r"a\.npy: it is damaged; delete it and run the same command again"):
        arrays.read(path, 4)


def test_another_number_of_pictures_is_no_whole_entry(tmp_path: Path) -> None:
    arrays.write(tmp_path / "a.png", np.zeros((4, 5, 6, 3), np.uint8))
    assert arrays.header(tmp_path / "a.png", 3) is None
    assert arrays.header(tmp_path / "none.png", 4) is None


def test_a_picture_to_look_at_has_the_colours_it_was_given(tmp_path: Path) -> None:
    picture = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    arrays.write_picture(tmp_path / "figure.png", picture)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "figure.png")), picture)
