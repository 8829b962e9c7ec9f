"""Clips with their frames in another order: the same crops, and flow as it is in that order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d3d_edge.clip import ClipSpec, FlowSpec
from d3d_edge.manifest import Clip
from d3d_edge.progress import Silent
from d3d_edge.video import cache
from d3d_edge.video.cache import CachedClip
from d3d_edge.video.datasets import ClipDataset
from d3d_edge.video.reorder import Order, ReorderedDataset, places
from tests.unit.video.samples import VideoWriter, textured


@pytest.fixture
def clips(write_video: VideoWriter, tmp_path: Path, spec: ClipSpec, flow_spec: FlowSpec) -> tuple[CachedClip, ...]:
    """Three clips of a texture that moves 3 pixels a frame to the right before the resize."""
    made = []
    for number in range(3):
        path = str(write_video(f"{number}.mp4", frames=[np.roll(textured(64, 80, number), 3 * t, 1) for t in range(8)]))
        made.append(Clip(path=path, label="a", split="test", group=path))
    return cache.prepare(made, spec, flow_spec, tmp_path / "cache", workers=0, progress=Silent()).clips


def reordered(
    clips: tuple[CachedClip, ...], spec: ClipSpec, order: Order, flow: FlowSpec | None, seed: int = 0
) -> ReorderedDataset:
    return ReorderedDataset(clips, ("a",), spec, seed=seed, order=order, flow=flow)


@given(frames=st.integers(1, 64), seed=st.integers(0, 1000))
def test_every_frame_comes_once_and_none_of_the_orders_is_the_old_one(frames: int, seed: int) -> None:
    for order in ("reversed", "shuffled"):
        found = places(frames, order, np.random.default_rng(seed)).tolist()
        assert sorted(found) == list(range(frames))
        assert frames == 1 or found != list(range(frames))


def test_reversed_clips_are_the_same_pictures_backwards(
    clips: tuple[CachedClip, ...], spec: ClipSpec, flow_spec: FlowSpec
) -> None:
    batch = reordered(clips, spec, "reversed", flow_spec).batch([0, 1, 2])
    assert batch.clip.flip(1).equal(ClipDataset(clips, ("a",), spec).batch([0, 1, 2]).clip)


def test_flow_is_computed_from_the_changed_frames(
    clips: tuple[CachedClip, ...], spec: ClipSpec, flow_spec: FlowSpec
) -> None:
    """Backwards the texture moves to the left. The old fields, backwards, would still say to the right."""
    forward = ClipDataset(clips, ("a",), spec).batch([0, 1, 2])
    backward = reordered(clips, spec, "reversed", flow_spec).batch([0, 1, 2])
    moved = 3 * 48 / 64 / flow_spec.bound_px
    assert forward.flow[:, :, 10:-10, 10:-10, 0].median().item() == pytest.approx(moved, abs=0.03)
    assert backward.flow[:, :, 10:-10, 10:-10, 0].median().item() == pytest.approx(-moved, abs=0.03)
    assert (backward.flow[:, -1] == backward.flow[:, -2]).all()


def test_a_shuffle_is_decided_by_seed_and_clip(
    clips: tuple[CachedClip, ...], spec: ClipSpec, flow_spec: FlowSpec
) -> None:
    shuffled = reordered(clips, spec, "shuffled", flow_spec)
    both = shuffled.batch([0, 2])
    assert both.clip[1].equal(shuffled.batch([2], epoch=5).clip[0])
    assert both.flow[1].equal(shuffled.batch([2], epoch=5).flow[0])
    assert not both.clip.equal(reordered(clips, spec, "shuffled", flow_spec, seed=1).batch([0, 2]).clip)
    plain = ClipDataset(clips, ("a",), spec).batch([0])
    pictures = [{frame.numpy().tobytes() for frame in clip} for clip in (both.clip[0], plain.clip[0])]
    assert pictures[0] == pictures[1]


def test_networks_that_see_no_flow_need_none(clips: tuple[CachedClip, ...], spec: ClipSpec) -> None:
    assert not reordered(clips, spec, "shuffled", None).batch([0]).flow.any()
