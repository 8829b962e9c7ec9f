"""What an MP4 says of itself in its boxes, whole or damaged."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from d3d_edge.errors import DataError
from d3d_edge.video import boxes
from d3d_edge.video.decode import count_frames
from tests.unit.video.samples import VideoWriter


@pytest.mark.parametrize(
    ("moov_bytes", "said"),
    [(8, "is not a video that FFmpeg can decode"), (9, "is truncated: it has no index")],
    ids=["whole", "longer than the file"],
)
def test_only_an_mp4_without_its_index_is_called_truncated(moov_bytes: int, said: str, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(struct.pack(">I4s8s", 16, b"ftyp", b"isom\0\0\0\0") + struct.pack(">I4s", moov_bytes, b"moov"))
    with pytest.raises(DataError, match=said):
        count_frames(path)


def test_an_edit_list_in_no_steps_a_second_says_nothing(write_video: VideoWriter) -> None:
    path = write_video()
    assert boxes.shown_s(path) > 0
    data = bytearray(path.read_bytes())
    place = data.index(b"mvhd") + 4 + 12
    data[place : place + 4] = bytes(4)
    path.write_bytes(data)
    assert boxes.shown_s(path) == 0
