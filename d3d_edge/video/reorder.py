"""Prepared clips with their frames in another order, to see how much a network lives on motion. Trains nothing.

The flow of such a clip is computed from its frames as they now come: the fields of the clip as it was, put in another
order, would each still show the true motion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from d3d_edge.clip import FlowSpec
from d3d_edge.video.datasets import ClipDataset
from d3d_edge.video.flow import flow_of_frames
from d3d_edge.video.preprocess import centre_crop

Order = Literal["reversed", "shuffled"]


def places(frames: int, order: Order, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """Which of `frames` frames comes when. A shuffle leaves no clip as it was, unless there is one frame only."""
    as_it_was = np.arange(frames)
    if order == "reversed":
        return as_it_was[::-1]
    shuffled = rng.permutation(frames)
    while frames > 1 and (shuffled == as_it_was).all():
        shuffled = rng.permutation(frames)
    return shuffled


@dataclass(frozen=True, kw_only=True)
class ReorderedDataset(ClipDataset):
    """Centre-cropped clips with their frames in another order, decided by (seed, index) alone."""

    order: Order
    flow: FlowSpec | None
    """How flow is computed; None leaves it zero, for networks that do not look at it."""

    def item(self, index: int, epoch: int = 0) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float16]]:
        """RGB uint8 [T, H, W, 3] and flow float16 [T, H, W, 2] of one clip, the same in every epoch."""
        frames = self.clips[index].frames()
        changed = np.ascontiguousarray(
            frames[places(len(frames), self.order, np.random.default_rng([self.seed, index]))]
        )
        if self.flow is None:
            flow = np.zeros((*changed.shape[:3], 2), np.float16)
        else:
            # On whole frames and in float16, as in the cache.
            flow = flow_of_frames(changed, self.flow).astype(np.float16)
        return centre_crop(changed, self.spec), centre_crop(flow, self.spec)
