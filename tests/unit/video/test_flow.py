from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from d3d_edge.clip import FlowSpec
from d3d_edge.errors import DataError
from d3d_edge.video.flow import flip_flow, flow_of_frames
from tests.unit.video.samples import textured

SPECS = [
    FlowSpec(method="dis", preset="ultrafast", bound_px=10),
    FlowSpec(method="dis", preset="fast", bound_px=10),
    FlowSpec(method="dis", preset="medium", bound_px=10),
    FlowSpec(method="farneback", bound_px=10),
]


def shifted(count: int, x: int, y: int) -> npt.NDArray[np.uint8]:
    """A texture that moves by (x, y) pixels a frame: uint8 [count, 64, 80, 3]."""
    return np.stack([np.roll(textured(64, 80), (y * t, x * t), axis=(0, 1)) for t in range(count)])


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.method}-{spec.preset}")
@pytest.mark.parametrize(("x", "y"), [(3, 0), (-3, 0), (0, 2), (2, -3)])
def test_sign_and_size_of_a_known_motion(spec: FlowSpec, x: int, y: int) -> None:
    flow = flow_of_frames(shifted(4, x, y), spec)
    assert flow.shape == (4, 64, 80, 2)
    assert flow.dtype == np.float32
    # Inside only: what the roll brings in at the borders has no counterpart.
    inside = np.median(flow[:, 16:-16, 16:-16], axis=(1, 2))
    np.testing.assert_allclose(inside * spec.bound_px, np.tile([x, y], (4, 1)), atol=0.3)


def test_the_last_field_is_repeated() -> None:
    flow = flow_of_frames(shifted(3, 2, 0), SPECS[1])
    np.testing.assert_array_equal(flow[-1], flow[-2])


@pytest.mark.parametrize("spec", SPECS[1::2], ids=lambda spec: spec.method)
def test_one_frame_and_a_still_scene_have_no_flow(spec: FlowSpec) -> None:
    assert not flow_of_frames(shifted(1, 3, 3), spec).any()
    np.testing.assert_allclose(flow_of_frames(shifted(3, 0, 0), spec)[:, 8:-8, 8:-8], 0, atol=5e-3)


def test_flow_is_bounded() -> None:
    flow = flow_of_frames(shifted(2, 4, 0), FlowSpec(method="dis", preset="medium", bound_px=1))
    assert np.abs(flow).max() <= 1
    assert np.median(flow[:, 16:-16, 16:-16, 0]) == 1


@pytest.mark.parametrize("spec", SPECS[1:], ids=lambda spec: f"{spec.method}-{spec.preset}")
def test_flow_of_the_mirrored_video_is_the_flipped_flow(spec: FlowSpec) -> None:
    frames = shifted(3, 3, -1)
    of_mirrored = flow_of_frames(np.ascontiguousarray(frames[:, :, ::-1]), spec)
    difference_px = np.abs(of_mirrored - flip_flow(flow_of_frames(frames, spec))) * spec.bound_px
    assert np.median(difference_px[:, 8:-8, 16:-16]) < 0.1


@given(hnp.arrays(np.float32, (2, 3, 4, 2), elements=st.floats(-1, 1, width=32)))
def test_flipping_twice_gives_the_same(flow: npt.NDArray[np.float32]) -> None:
    once = flip_flow(flow)
    np.testing.assert_array_equal(once[..., 0], -flow[:, :, ::-1, 0])
    np.testing.assert_array_equal(once[..., 1], flow[:, :, ::-1, 1])
    np.testing.assert_array_equal(flip_flow(once), flow)


def test_too_small_frames_are_refused() -> None:
    with pytest.raises(DataError, match="at least 12"):
        flow_of_frames(np.zeros((2, 8, 8, 3), np.uint8), SPECS[1])


@pytest.mark.parametrize(
    ("spec", "height", "width"), [(SPECS[0], 28, 84), (SPECS[1], 16, 320), (SPECS[2], 15, 160), (SPECS[2], 8, 40)]
)
def test_frames_that_dis_reads_beyond_are_refused(spec: FlowSpec, height: int, width: int) -> None:
    with pytest.raises(DataError, match=rf"reads beyond .*{height}x{width} .*farneback"):
        flow_of_frames(np.zeros((2, height, width, 3), np.uint8), spec)


@pytest.mark.parametrize(
    ("spec", "height", "width"), [(SPECS[0], 32, 1280), (SPECS[1], 28, 60), (SPECS[2], 16, 640), (SPECS[3], 8, 1280)]
)
def test_low_frames_have_flow(spec: FlowSpec, height: int, width: int) -> None:
    frames = np.stack([np.roll(textured(height, width), t, axis=1) for t in range(2)])
    assert np.isfinite(flow_of_frames(frames, spec)).all()


def test_flow_does_not_depend_on_threads() -> None:
    """A cache made by workers with one thread each equals one made in a process with many."""
    before = cv2.getNumThreads()
    try:
        fields = []
        for threads in (1, 4):
            cv2.setNumThreads(threads)
            fields.append(flow_of_frames(shifted(3, 2, 1), SPECS[2]))
    finally:
        cv2.setNumThreads(before)
    np.testing.assert_array_equal(*fields)
