from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from d3d_edge.clip import ClipSpec, FlowSpec
from d3d_edge.manifest import Clip
from d3d_edge.progress import Silent
from d3d_edge.recipe import AugmentSpec
from d3d_edge.video import cache
from d3d_edge.video.datasets import Batch, ClipDataset
from d3d_edge.video.flow import flip_flow
from d3d_edge.video.preprocess import load_clip, mirrored
from tests.unit.video.samples import VideoWriter, textured

ALL = AugmentSpec(random_crop=True, flip=True, brightness=0.3)
NONE = AugmentSpec(random_crop=False, flip=False, brightness=0)


@pytest.fixture
def dataset(write_video: VideoWriter, tmp_path: Path, spec: ClipSpec, flow_spec: FlowSpec) -> ClipDataset:
    """Seven clips of the classes a and b, not augmented."""
    clips = []
    for number in range(7):
        frames = [np.roll(textured(64, 80, number), 2 * at, axis=1) for at in range(8)]
        path = str(write_video(f"{number}.mp4", frames=frames))
        clips.append(Clip(path=path, label="ab"[number % 2], split="train", group=path))
    prepared = cache.prepare(clips, spec, flow_spec, tmp_path / "cache", workers=0, progress=Silent())
    return ClipDataset(prepared.clips, ("a", "b"), spec, seed=3)


def augmented(dataset: ClipDataset, augment: AugmentSpec) -> ClipDataset:
    return dataclasses.replace(dataset, augment=augment)


def same(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(x, y) for batches in zip(one, other, strict=True) for x, y in zip(*batches, strict=True)
    )


def test_evaluation_batches_are_the_reference_clips_in_order(dataset: ClipDataset) -> None:
    batches = list(dataset.batches(3))
    assert [batch.label.tolist() for batch in batches] == [[0, 1, 0], [1, 0, 1], [0]]
    assert batches[0].clip.shape == (3, 8, 40, 40, 3)
    assert batches[0].clip.dtype == torch.uint8
    assert batches[0].flow.shape == (3, 8, 40, 40, 2)
    assert batches[0].flow.dtype == torch.float16
    assert batches[0].label.dtype == torch.int64
    reference = load_clip(Path(dataset.clips[4].clip.path), dataset.spec)
    np.testing.assert_array_equal(batches[1].clip[1].numpy(), reference)


def test_an_epoch_is_decided_by_seed_and_epoch(dataset: ClipDataset) -> None:
    data = augmented(dataset, ALL)
    first = list(data.batches(2, epoch=1, shuffle=True))
    list(data.batches(2, epoch=0, shuffle=True))
    torch.manual_seed(1)
    assert same(first, list(data.batches(2, epoch=1, shuffle=True)))
    assert same(first, list(data.batches(2, epoch=1, shuffle=True, workers=3)))
    assert same(first[2:], list(data.batches(2, epoch=1, first=2, shuffle=True)))
    assert not same(first, list(data.batches(2, epoch=2, shuffle=True)))
    assert not same(first, list(dataclasses.replace(data, seed=4).batches(2, epoch=1, shuffle=True)))


def test_shuffling_takes_every_clip_once_and_can_drop_the_rest(dataset: ClipDataset) -> None:
    clips = torch.cat([batch.clip for batch in dataset.batches(2, shuffle=True)])
    assert len(clips) == 7
    assert len({clip.numpy().tobytes() for clip in clips}) == 7
    assert [len(batch.label) for batch in dataset.batches(2, drop_last=True, workers=1)] == [2, 2, 2]


def test_a_clip_does_not_depend_on_its_neighbours(dataset: ClipDataset) -> None:
    data = augmented(dataset, ALL)
    both, alone = data.batch([2, 5], epoch=4), data.batch([5], epoch=4)
    assert torch.equal(both.clip[1], alone.clip[0])
    assert torch.equal(both.flow[1], alone.flow[0])


def test_no_augmentation_is_the_centre_crop(dataset: ClipDataset) -> None:
    assert same(list(augmented(dataset, NONE).batches(7)), list(dataset.batches(7)))


def test_the_same_mirror_for_rgb_and_flow(dataset: ClipDataset) -> None:
    data = augmented(dataset, AugmentSpec(random_crop=False, flip=True, brightness=0))
    flips = 0
    for epoch in range(20):
        clip, flow = data.item(0, epoch)
        plain_clip, plain_flow = dataset.item(0)
        if not np.array_equal(clip, plain_clip):
            flips += 1
            plain_clip, plain_flow = mirrored(plain_clip), flip_flow(plain_flow)
        np.testing.assert_array_equal(clip, plain_clip)
        np.testing.assert_array_equal(flow, plain_flow)
    assert 3 < flips < 17


def test_the_same_crop_for_rgb_and_flow(dataset: ClipDataset) -> None:
    data = augmented(dataset, AugmentSpec(random_crop=True, flip=False, brightness=0))
    frames, whole_flow = dataset.clips[0].frames(), dataset.clips[0].flow()
    places = set()
    for epoch in range(20):
        clip, flow = data.item(0, epoch)
        place = next(
            (top, left)
            for top in range(48 - 40 + 1)
            for left in range(60 - 40 + 1)
            if np.array_equal(clip, frames[:, top : top + 40, left : left + 40])
        )
        places.add(place)
        np.testing.assert_array_equal(flow, whole_flow[:, place[0] : place[0] + 40, place[1] : place[1] + 40])
    assert len(places) > 10


def test_brightness_changes_rgb_alone_and_clips(dataset: ClipDataset) -> None:
    data = augmented(dataset, AugmentSpec(random_crop=False, flip=False, brightness=0.5))
    factors = []
    for epoch in range(10):
        (clip, flow), (plain, plain_flow) = data.item(1, epoch), dataset.item(1)
        np.testing.assert_array_equal(flow, plain_flow)
        middle = (plain > 60) & (plain < 150)
        factor = float(np.median(clip[middle] / plain[middle]))
        np.testing.assert_allclose(clip, np.clip(plain * factor, 0, 255), atol=3)
        factors.append(factor)
    assert min(factors) < 0.9
    assert max(factors) > 1.1


def test_still_is_one_frame_without_flow(dataset: ClipDataset) -> None:
    still = dataclasses.replace(dataset, still=True)
    batch = still.batch([0, 1])
    assert batch.clip.shape == (2, 1, 40, 40, 3)
    assert batch.flow.shape == (2, 1, 40, 40, 2)
    assert not batch.flow.any()
    assert torch.equal(batch.clip[:, 0], dataset.batch([0, 1]).clip[:, 4])
    train = augmented(still, NONE)
    frames = {train.item(0, epoch)[0].tobytes() for epoch in range(30)}
    assert frames <= {frame.tobytes() for frame in dataset.item(0)[0]}
    assert len(frames) > 4


def test_shares_of_a_batch_together_are_the_batch(dataset: ClipDataset) -> None:
    data = augmented(dataset, ALL)
    whole = list(data.batches(4, epoch=2, shuffle=True))
    shares = [list(data.batches(4, epoch=2, shuffle=True, workers=1, share=(part, 2))) for part in range(2)]
    assert [len(batch.label) for batch in shares[0]] == [2, 2]
    assert [len(batch.label) for batch in shares[1]] == [2, 1]
    for batch, *parts in zip(whole, *shares, strict=True):
        for part, share in enumerate(parts):
            assert same([Batch(*(field[part::2] for field in batch))], [share])
