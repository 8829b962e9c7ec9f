"""Batches of prepared clips for training and evaluation, each decided by (seed, epoch, index) alone.

Nothing is carried from one epoch to the next, so a run resumed at an epoch's border sees the batches it would have
seen. Must not decode videos or compute flow: `cache` did.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch

from d3d_edge.clip import ClipSpec
from d3d_edge.recipe import AugmentSpec
from d3d_edge.video.cache import CachedClip
from d3d_edge.video.flow import flip_flow
from d3d_edge.video.preprocess import centre_crop, mirrored


class Batch(NamedTuple):
    """B clips, their flow and their classes."""

    clip: torch.Tensor
    """uint8 [B, T, H, W, 3] RGB."""
    flow: torch.Tensor
    """float32 [B, T, H, W, 2] in [-1, 1]."""
    label: torch.Tensor
    """int64 [B], places in the list of class names."""


@dataclass(frozen=True)
class ClipDataset:
    """Prepared clips with their classes, and how they are cropped and augmented."""

    clips: Sequence[CachedClip]
    labels: Sequence[str]
    """All class names; a clip's class is the place of its label here."""
    spec: ClipSpec
    augment: AugmentSpec | None = None
    """None: the centre crop, as in evaluation."""
    seed: int = 0
    still: bool = False
    """T = 1: one frame instead of the clip, drawn at random when augmenting and else the middle one; no flow."""

    def __len__(self) -> int:
        return len(self.clips)

    def batches(
        self,
        batch_size: int,
        *,
        epoch: int = 0,
        shuffle: bool = False,
        drop_last: bool = False,
        workers: int = 0,
        share: tuple[int, int] = (0, 1),
    ) -> Iterator[Batch]:
        """One epoch in batches; `workers` threads (0: none) read the next batch while one is used.

        `share` is (i, n): of each batch only the i-th of n parts, which together are the batch.

        The batches depend on (seed, epoch) and the arguments, never on `workers`.
        """
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self)) if shuffle else np.arange(len(self))
        end = len(self) // batch_size * batch_size if drop_last else len(self)
        part, parts = share
        groups = [order[start : start + batch_size][part::parts].tolist() for start in range(0, end, batch_size)]
        if workers == 0:
            yield from (self.batch(group, epoch) for group in groups)
            return
        with ThreadPoolExecutor(workers) as pool:
            ahead = [pool.submit(self.batch, group, epoch) for group in groups[:workers]]
            for place in range(len(groups)):
                batch = ahead.pop(0).result()
                if place + workers < len(groups):
                    ahead.append(pool.submit(self.batch, groups[place + workers], epoch))
                yield batch

    def batch(self, indices: Sequence[int], epoch: int = 0) -> Batch:
        """The clips at `indices`, as they come in `epoch`."""
        frames = 1 if self.still else self.spec.frames
        clip = np.empty((len(indices), frames, self.spec.height, self.spec.width, 3), np.uint8)
        flow = np.empty((len(indices), frames, self.spec.height, self.spec.width, 2), np.float32)
        for place, index in enumerate(indices):
            clip[place], flow[place] = self.item(index, epoch)
        index_of = {label: index for index, label in enumerate(self.labels)}
        label = [index_of[self.clips[index].clip.label] for index in indices]
        return Batch(torch.from_numpy(clip), torch.from_numpy(flow), torch.tensor(label, dtype=torch.int64))

    def item(self, index: int, epoch: int = 0) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float16]]:
        """RGB uint8 [T, H, W, 3] and flow float16 [T, H, W, 2] of one clip, as they come in `epoch`."""
        frames: npt.NDArray[np.uint8] = self.clips[index].frames()
        flow: npt.NDArray[np.float16] = self.clips[index].flow()
        # index + 1: numpy seeds [seed, epoch, 0] like [seed, epoch], and those numbers shuffle the epoch.
        rng = np.random.default_rng([self.seed, epoch, index + 1])
        if self.still:
            at = int(rng.integers(len(frames))) if self.augment else len(frames) // 2
            frames, flow = frames[at : at + 1], np.zeros_like(flow[at : at + 1])
        if self.augment is None:
            return centre_crop(frames, self.spec), centre_crop(flow, self.spec)
        return _augmented(frames, flow, self.spec, self.augment, rng)


def _augmented(
    frames: npt.NDArray[np.uint8],
    flow: npt.NDArray[np.float16],
    spec: ClipSpec,
    augment: AugmentSpec,
    rng: np.random.Generator,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float16]]:
    """One crop and one mirror for RGB and flow alike; brightness for RGB alone, since flow has none."""
    if augment.random_crop:
        top = int(rng.integers(frames.shape[1] - spec.height + 1))
        left = int(rng.integers(frames.shape[2] - spec.width + 1))
        rows, columns = slice(top, top + spec.height), slice(left, left + spec.width)
        frames, flow = frames[:, rows, columns], flow[:, rows, columns]
    else:
        frames, flow = centre_crop(frames, spec), centre_crop(flow, spec)
    if augment.flip and rng.random() < 0.5:
        frames, flow = mirrored(frames), flip_flow(flow)
    if augment.brightness:
        factor = 1 + augment.brightness * rng.uniform(-1, 1)
        table = np.clip(np.rint(np.arange(256) * factor), 0, 255).astype(np.uint8)
        lines = np.ascontiguousarray(frames).reshape(-1, spec.width, 3)
        frames = np.asarray(cv2.LUT(lines, table), dtype=np.uint8).reshape(frames.shape)
    return frames, flow
