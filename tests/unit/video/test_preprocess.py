from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d3d_edge.clip import ClipSpec
from d3d_edge.errors import DataError
from d3d_edge.video.preprocess import (
    Part,
    centre_crop,
    frame_indices,
    load_clip,
    load_frames,
    mirrored,
    resize_short_side,
)
from tests.unit.video.samples import VideoWriter, spec_of, textured


def test_uniform_takes_the_centres_of_equal_parts() -> None:
    assert frame_indices(16, spec_of(frames=4)) == [2, 6, 10, 14]
    assert frame_indices(5, spec_of(frames=4)) == [0, 1, 3, 4]
    assert frame_indices(7, spec_of(frames=1)) == [3]


def test_dense_steps_around_the_middle() -> None:
    assert frame_indices(21, spec_of(frames=4, sampling="dense", stride=2)) == [7, 9, 11, 13]


def test_a_short_video_is_refused_or_held() -> None:
    with pytest.raises(DataError, match="there are 3 frames, and a clip needs 4"):
        frame_indices(3, spec_of(frames=4))
    with pytest.raises(DataError, match="no frames"):
        frame_indices(0, spec_of(short_clips="repeat_last"))
    assert frame_indices(3, spec_of(frames=5, short_clips="repeat_last")) == [0, 1, 2, 2, 2]
    dense = spec_of(frames=4, sampling="dense", stride=3, short_clips="repeat_last")
    assert frame_indices(6, dense) == [0, 3, 5, 5]


def test_uniform_clips_interleave_and_dense_ones_spread() -> None:
    uniform = [frame_indices(24, spec_of(frames=4), Part(number, 3)) for number in range(3)]
    assert sorted(index for clip in uniform for index in clip) == frame_indices(24, spec_of(frames=12))
    assert uniform[1] == frame_indices(24, spec_of(frames=4))
    dense = spec_of(frames=4, sampling="dense", stride=2)
    assert [frame_indices(47, dense, Part(number, 2))[0] for number in range(2)] == [10, 30]


@given(count=st.integers(1, 5000), frames=st.integers(1, 64), stride=st.none() | st.integers(1, 9))
def test_indices_are_valid_sorted_and_symmetric(count: int, frames: int, stride: int | None) -> None:
    spec = spec_of(frames=frames, sampling="dense" if stride else "uniform", stride=stride, short_clips="repeat_last")
    indices = frame_indices(count, spec)
    assert len(indices) == frames
    assert indices == sorted(indices)
    assert indices[0] >= 0
    assert indices[-1] < count
    if count >= spec.frames_needed:
        assert len(set(indices)) == frames
        # As many frames are left out in front as behind, but for one (dense) or for half a part (uniform).
        assert abs(indices[0] - (count - 1 - indices[-1])) <= 1


@pytest.mark.parametrize(("height", "width", "expected"), [(64, 80, (48, 60)), (80, 64, (60, 48)), (48, 99, (48, 99))])
def test_the_short_side_is_exact_and_the_aspect_kept(
    height: int, width: int, expected: tuple[int, int], spec: ClipSpec
) -> None:
    assert resize_short_side(textured(height, width), spec).shape == (*expected, 3)


def test_area_averages_every_pixel() -> None:
    checks = np.kron(np.indices((48, 48)).sum(0) % 2, np.ones((1, 1)))[..., None].repeat(3, 2).astype(np.uint8) * 255
    area = resize_short_side(checks, spec_of(short_side=24, height=24, width=24))
    np.testing.assert_allclose(area, 128, atol=1)


def test_crop_is_centred_on_the_last_axes() -> None:
    frames = np.arange(2 * 5 * 7 * 3).reshape(2, 5, 7, 3)
    spec = spec_of(short_side=8, height=8, width=8).model_copy(update={"height": 3, "width": 4})
    np.testing.assert_array_equal(centre_crop(frames, spec), frames[:, 1:4, 1:5])


def test_load_clip_is_the_crop_of_load_frames(write_video: VideoWriter, spec: ClipSpec) -> None:
    path = write_video(frames=[np.roll(textured(64, 80), number, axis=1) for number in range(16)])
    frames, clip = load_frames(path, spec), load_clip(path, spec)
    assert frames.shape == (8, 48, 60, 3)
    assert clip.shape == spec.shape
    assert clip.flags.c_contiguous
    np.testing.assert_array_equal(clip, frames[:, 4:44, 10:50])


def test_samples_the_promised_frames(write_video: VideoWriter, spec: ClipSpec) -> None:
    means = load_clip(write_video(), spec).mean((1, 2, 3))
    np.testing.assert_allclose(means, [10, 30, 50, 70, 90, 110, 130, 150], atol=5)


def test_errors_name_the_file(write_video: VideoWriter) -> None:
    with pytest.raises(DataError, match=r"clip\.mp4: there are 16 frames, and a clip needs 20"):
        load_clip(write_video(), spec_of(frames=20))
    portrait = write_video("tall.mp4", height=96, width=48)
    with pytest.raises(DataError, match=r"tall\.mp4: .* 48x96, and the crop of 64x40"):
        load_frames(portrait, spec_of(width=64))


@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.sampled_from([np.uint8, np.float16, np.float32]))
def test_mirroring_twice_gives_the_same(count: int, height: int, width: int, dtype: type) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (count, height, width, 3)).astype(dtype)
    np.testing.assert_array_equal(mirrored(frames), frames[:, :, ::-1])
    np.testing.assert_array_equal(mirrored(mirrored(frames)), frames)
