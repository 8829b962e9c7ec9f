"""A convolution of stride 2 on few channels as one of stride 1 on blocks of 2x2 pixels. Knows no layer.

A 7x7 kernel on 3 channels becomes a 4x4 one on 12, its eighth row and column zero. The sums are the same; only, kernels
written for vectors of channels waste most of a vector on 3.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from d3d_edge.models.views import Padding, pads, shaped

BLOCK = 2
"""Pixels along each side of a block, and the stride of a convolution that can read blocks."""

BLOCK_KERNEL_MIN = 5
"""Smallest kernel that reads blocks of single frames: 3x3 gains little. Of several frames a smaller one gains by how
they are stacked, by rows and not pixel by pixel."""

BLOCK_CHANNELS_MAX = 4
"""Most channels of what reads blocks: pixels and flow. Wider inputs fill the kernels' vectors as they are."""


def pay(kernel: int, stride: int, channels: int, taps: int) -> bool:
    """Whether a convolution of this kernel and stride, on so many channels of each of `taps` frames, should."""
    large = kernel >= BLOCK_KERNEL_MIN or (taps > 1 and kernel > 1)
    return stride == BLOCK and large and channels <= BLOCK_CHANNELS_MAX


@dataclass(frozen=True)
class Blocks:
    """How a square convolution of stride 2 reads blocks."""

    padding: Padding
    kernel: int
    """Its size in pixels."""
    taps: int
    """Frames that lie along its input channels."""

    @property
    def lead(self) -> int:
        """Zeros before the kernel, so that it begins where a block does in frames of even size."""
        return pads(self.padding, BLOCK * self.kernel, self.kernel, BLOCK)[0] % BLOCK

    @property
    def side(self) -> int:
        """Its size in blocks."""
        return -(-(self.lead + self.kernel) // BLOCK)

    def weight(self, weight: Tensor) -> Tensor:
        """[O, k_t*C, k, k] to [O, 4*k_t*C, k', k'], with the channels in the order of `of`."""
        channels, side = weight.shape[1] // self.taps, self.side
        weight = F.pad(weight, 2 * (self.lead, side * BLOCK - self.kernel - self.lead))
        weight = weight.reshape(-1, self.taps, channels, side, BLOCK, side, BLOCK).permute(0, 6, 2, 1, 4, 3, 5)
        weight = weight.reshape(-1, channels, BLOCK, self.taps, BLOCK, side, side).permute(0, 1, 3, 4, 2, 5, 6)
        return weight.reshape(len(weight), -1, side, side).contiguous()

    def of(self, frames: Tensor, clips: int, seen: Callable[[Tensor], Tensor]) -> Tensor:
        """The blocks of `frames` with their pixels as channels, padded: [N*T, C, H, W] to [N*T', 4*k_t*C, H'', W''].

        `seen` makes [N, T', positions, k_t*values], what each step in time sees, of [N, T, positions, values]. Of a
        block of k_t frames, axis 1 has two values of every row, then the next two: a matrix of pairs is transposed,
        which moves many at a time.
        """
        (top, bottom), (left, right) = (self._alignment(size) for size in frames.shape[2:])
        x = frames.permute(0, 2, 3, 1)
        if any((top, bottom, left, right)):
            x = F.pad(x, (0, 0, left, right, top, bottom))
        rows, height, width, channels = x.shape
        down, across = height // BLOCK, width // BLOCK
        x = seen(shaped(x, (clips, rows // clips, down, BLOCK * width * channels)))
        steps = x.shape[1]
        pairs = shaped(x, (clips * steps * down, self.taps * BLOCK, across * channels, BLOCK))
        x = pairs.permute(0, 2, 1, 3).clone(memory_format=torch.contiguous_format)
        x = x.view(clips * steps, down, across, BLOCK * BLOCK * self.taps * channels)
        around: list[int] = []
        for size, there in ((frames.shape[3], across), (frames.shape[2], down)):
            before, after = pads(self.padding, size, self.kernel, BLOCK)
            outputs = (before + size + after - self.kernel) // BLOCK + 1
            front = (before + self.lead) // BLOCK
            around += [front, outputs - 1 + self.side - front - there]
        return F.pad(x, (0, 0, *around)).permute(0, 3, 1, 2)

    def _alignment(self, size: int) -> tuple[int, int]:
        """Pixels to add before and after an axis for blocks to begin where the kernel does, and to be whole."""
        before = (pads(self.padding, size, self.kernel, BLOCK)[0] + self.lead) % BLOCK
        return before, (before + size) % BLOCK
