"""Small videos on disk and the specs that read them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from d3d_edge.clip import ClipSpec, FlowSpec
from d3d_edge.manifest import Clip
from tests.unit.video.samples import VideoWriter, spec_of, textured


@pytest.fixture
def spec() -> ClipSpec:
    """8 frames, uniform, short side 48, crop 40 x 40."""
    return spec_of()


@pytest.fixture
def flow_spec() -> FlowSpec:
    return FlowSpec(method="dis", preset="fast", bound_px=8)


@pytest.fixture
def write_video(tmp_path: Path) -> VideoWriter:
    """Write a video whose frame number is its grey value (10 x number), or `frames` if given."""

    def write(
        name: str = "clip.mp4",
        count: int = 16,
        height: int = 64,
        width: int = 80,
        frames: list[npt.NDArray[np.uint8]] | None = None,
        fourcc: str = "mp4v",
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        images = frames or [np.full((height, width, 3), 10 * number % 250, np.uint8) for number in range(count)]
        code = cv2.VideoWriter.fourcc(*fourcc)
        writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, 25, images[0].shape[1::-1])
        for image in images:
            writer.write(np.ascontiguousarray(image[..., ::-1]))
        writer.release()
        return path

    return write


@pytest.fixture
def clips(write_video: VideoWriter) -> list[Clip]:
    """Three good videos."""
    made = []
    for seed in range(3):
        frames = [np.roll(textured(64, 80, seed), 2 * number, axis=1) for number in range(12)]
        path = str(write_video(f"{seed}.mp4", frames=frames))
        made.append(Clip(path=path, label=f"class {seed}", split="train", group=path))
    return made
