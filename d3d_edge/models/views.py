"""The two views of an activation, and its padding: what all rank-4 layers are written with. Holds no layer.

No tensor ever has five axes. The same channels-last bytes are

* the frame view, float [N*T, C, H, W], on which a (1, k, k) kernel is a k x k one;
* the clip view, float [N, C, T, H*W], on which a (k, 1, 1) kernel is a k x 1 one.

N is the number of clips and T of frames in each. A 1x1 convolution may take either view.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Padding = Literal["same", "symmetric"]
"""`same`: TensorFlow's SAME, whose odd element goes after. `symmetric`: PyTorch's (k - 1) // 2 on each side."""


def clip_view(frames: Tensor, clips: int) -> Tensor:
    """Frame view [N*T, C, H, W] to clip view [N, C, T, H*W], for N = `clips`.

    Nothing moves where the frames are channels-last; otherwise they are copied, and are so from then on.
    Raises ValueError where the frames do not divide into clips of equal length.
    """
    rows, channels, height, width = frames.shape
    if clips < 1 or rows % clips:
        raise ValueError(f"{rows} frames do not divide into {clips} clips of equal length")
    shape = (clips, rows // clips, height * width, channels)
    return shaped(frames.permute(0, 2, 3, 1), shape).permute(0, 3, 1, 2)


def frame_view(clip: Tensor, height: int, width: int) -> Tensor:
    """Clip view [N, C, T, H*W] to frame view [N*T, C, H, W], the inverse of `clip_view`."""
    clips, channels, time, _ = clip.shape
    shape = (clips * time, height, width, channels)
    return shaped(clip.permute(0, 2, 3, 1), shape).permute(0, 3, 1, 2)


def mean(clip: Tensor) -> Tensor:
    """Mean over time and space of the clip view, float [N, C, T, H*W] to [N, C, 1, 1]."""
    if torch.compiler.is_compiling():
        return clip.mean((2, 3), keepdim=True)  # what quantizers and runtimes look for
    # The same, but for its gradient, which is channels-last here. There it is channels-first, and so may be its sum
    # with that of another reader: what reads that sum then walks across memory.
    return clip.permute(0, 2, 3, 1).mean((1, 2), keepdim=True).permute(0, 3, 1, 2)


def shaped(x: Tensor, shape: tuple[int, int, int, int]) -> Tensor:
    """`x` in another shape, as a view where it is contiguous."""
    # A reshape would always do, but it is exported as aten.reshape, which quantizers do not know to be free.
    return x.view(shape) if x.is_contiguous() else x.reshape(shape)


def pads(padding: Padding, size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Elements to add before and after an axis of `size` elements."""
    if padding == "symmetric":
        return (kernel - 1) // 2, (kernel - 1) // 2
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def pad(x: Tensor, padding: Padding, kernel: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """Zero-pad float [B, C, H, W] to [B, C, H', W'] as a convolution with these arguments needs."""
    top, bottom = pads(padding, x.shape[2], kernel[0], stride[0])
    left, right = pads(padding, x.shape[3], kernel[1], stride[1])
    # Padding the permuted tensor keeps the result channels-last whatever the number of channels.
    return F.pad(x.permute(0, 2, 3, 1), (0, 0, left, right, top, bottom)).permute(0, 3, 1, 2)
