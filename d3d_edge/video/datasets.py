"""Batches of prepared clips for training and evaluation, each decided by (seed, epoch, index) alone.

Nothing is carried from one epoch to the next, so a run resumed at an epoch's border sees the batches it would have
seen. Must not decode videos or compute flow: `cache` did.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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

_AHEAD = 3
"""Batches that are read while one is used, at most."""


class Batch(NamedTuple):
    """B clips, their flow and their classes."""

    clip: torch.Tensor
    """uint8 [B, T, H, W, 3] RGB."""
    flow: torch.Tensor
    """float16 [B, T, H, W, 2] in [-1, 1], as the cache keeps it."""
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
        first: int = 0,
        shuffle: bool = False,
        drop_last: bool = False,
        workers: int = 0,
        share: tuple[int, int] = (0, 1),
        pinned: bool = False,
    ) -> Iterator[Batch]:
        """One epoch in batches, from the batch `first` on; `workers` threads (0: none) read the clips of the next ones
        while one is used.

        `share` is (i, n): of each batch only the i-th of n parts, which together are the batch. `pinned` puts clips and
        flow where a GPU can fetch them while the processor does something else.

        The batches depend on (seed, epoch) and the arguments, never on `workers`.
        """
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self)) if shuffle else np.arange(len(self))
        end = len(self) // batch_size * batch_size if drop_last else len(self)
        part, parts = share
        groups = [
            order[start : start + batch_size][part::parts].tolist()
            for start in range(first * batch_size, end, batch_size)
        ]
        if workers == 0:
            yield from (self.batch(group, epoch, pinned=pinned) for group in groups)
            return
        with ThreadPoolExecutor(workers) as pool:
            ahead: deque[tuple[Batch, list[Future[None]]]] = deque()
            for group in groups:
                batch = self._empty(group, pinned)
                ahead.append(
                    (batch, [pool.submit(self._fill, batch, place, clip, epoch) for place, clip in enumerate(group)])
                )
                if len(ahead) > min(workers, _AHEAD):
                    yield _read(*ahead.popleft())
            while ahead:
                yield _read(*ahead.popleft())

    def batch(self, indices: Sequence[int], epoch: int = 0, *, pinned: bool = False) -> Batch:
        """The clips at `indices`, as they come in `epoch`."""
        batch = self._empty(indices, pinned)
        for place, index in enumerate(indices):
            self._fill(batch, place, index, epoch)
        return batch

    def _empty(self, indices: Sequence[int], pinned: bool) -> Batch:
        """A batch for the clips at `indices`, with their classes but as yet without clips and flow."""
        shape = (len(indices), 1 if self.still else self.spec.frames, self.spec.height, self.spec.width)
        index_of = {label: index for index, label in enumerate(self.labels)}
        return Batch(
            torch.empty((*shape, 3), dtype=torch.uint8, pin_memory=pinned),
            torch.empty((*shape, 2), dtype=torch.float16, pin_memory=pinned),
            torch.tensor([index_of[self.clips[index].clip.label] for index in indices], dtype=torch.int64),
        )

    def _fill(self, batch: Batch, place: int, index: int, epoch: int) -> None:
        batch.clip[place].numpy()[...], batch.flow[place].numpy()[...] = self.item(index, epoch)

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


def _read(batch: Batch, filled: Sequence[Future[None]]) -> Batch:
    """`batch` once it is filled; raises what its reading raised."""
    for clip in filled:
        clip.result()
    return batch


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
