"""What a container says of itself is held against the file."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d3d_edge.errors import DataError
from d3d_edge.video import container
from d3d_edge.video.decode import count_frames, read_frames
from tests.unit.video.samples import VideoWriter, textured


@pytest.mark.parametrize(("name", "fourcc"), [("a.mkv", "mp4v"), ("a.webm", "VP80")])
@pytest.mark.parametrize("frames", [4, 12, 30])
def test_a_matroska_file_says_how_long_it_is(write_video: VideoWriter, frames: int, name: str, fourcc: str) -> None:
    """What is missing at its end may be shorter than sound may go on."""
    path = write_video(
        name, frames=[np.roll(textured(96, 128), 3 * number, axis=1) for number in range(frames)], fourcc=fourcc
    )
    assert count_frames(path) == frames
    data = path.read_bytes()
    for size in (len(data) - 1, 9 * len(data) // 10, 2 * len(data) // 3):
        path.write_bytes(data[:size])
        for read in (count_frames, lambda path: read_frames(path, lambda count: [0], lambda frame: frame)):
            with pytest.raises(DataError, match=rf"{name} is truncated: {size} of {len(data)} bytes are there"):
                read(path)
    path.write_bytes(data + b"more")
    assert count_frames(path) == frames
    segment = data.index(b"\x18\x53\x80\x67") + 4
    path.write_bytes(data[:segment] + b"\x01" + b"\xff" * 7 + data[segment + 8 : -1])  # live: no end was known
    assert count_frames(path) >= frames - 1


@given(content=st.binary(max_size=40))
def test_any_bytes_behind_a_matroska_head_are_read(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("garbled") / "a.mkv"
    path.write_bytes(b"\x1aE\xdf\xa3" + content)
    assert container._matroska_bytes(path) >= 0
