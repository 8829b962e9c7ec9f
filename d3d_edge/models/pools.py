"""The pools of a video network in rank 4: maxima over space and time, and a sliding mean. They know no other layer."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from d3d_edge.models.views import Padding, clip_view, frame_view, pads

ClipPool = Callable[[Tensor], Tensor]
"""A max pool on the clip view: float [N, C, T, H*W] to [N, C, T', H'*W']."""


def unpooled(clip: Tensor) -> Tensor:
    """The `ClipPool` that changes nothing."""
    return clip


def _max_pool(x: Tensor, padding: Padding, kernel: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    (top, bottom), (left, right) = (
        pads(padding, size, k, s) for size, k, s in zip(x.shape[2:], kernel, stride, strict=True)
    )
    # One more element after than before is what ceil mode means, without a padded copy of the input.
    return F.max_pool2d(x, kernel, stride, (top, left), ceil_mode=(top, left) != (bottom, right))


class MaxPool(nn.Module):
    """(k_t, k, k) max pool on the frame view: the spatial pool, then the temporal one, which is exact.

    Raises ValueError for an even kernel of stride 1 with padding "same", which would lose a position.
    """

    def __init__(self, kernel: tuple[int, int], stride: tuple[int, int] = (1, 1), *, padding: Padding = "same") -> None:
        super().__init__()
        if padding == "same" and any(k % 2 == 0 and s == 1 for k, s in zip(kernel, stride, strict=True)):
            raise ValueError(f"a max pool of kernel {kernel} and stride {stride} cannot be padded to the same size")
        self.kernel, self.stride = kernel, stride
        self.padding: Padding = padding

    def forward(self, frames: Tensor, clips: int = 1, *, as_clip: bool = False) -> Tensor:
        """Float [N*T, C, H, W] to [N*T', C, H', W']; with `as_clip` left in the clip view, [N, C, T', H'*W']."""
        if as_clip:
            return self.as_clip(frames, clips)
        frames = self._in_space(frames)
        if self.kernel[0] == 1:
            return frames
        return frame_view(self._in_time(clip_view(frames, clips)), frames.shape[2], frames.shape[3])

    def as_clip(self, frames: Tensor, clips: int = 1) -> Tensor:
        """The same, left in the clip view: float [N*T, C, H, W] to [N, C, T', H'*W']."""
        return self._in_time(clip_view(self._in_space(frames), clips))

    def clip_pool(self, height: int, width: int) -> ClipPool:
        """The same as a function of the clip view, for frames of this size."""
        # Called as a module, so that a graph notes whose operators these are.
        return lambda clip: self(frame_view(clip, height, width), clip.shape[0], as_clip=True)

    def size(self, height: int, width: int) -> tuple[int, int]:
        """H' and W'."""
        kernel, stride = self.kernel[1], self.stride[1]
        across = [sum(pads(self.padding, size, kernel, stride)) + size for size in (height, width)]
        return (across[0] - kernel) // stride + 1, (across[1] - kernel) // stride + 1

    def _in_space(self, frames: Tensor) -> Tensor:
        size, stride = self.kernel[1], self.stride[1]
        return _max_pool(frames, self.padding, (size, size), (stride, stride))

    def _in_time(self, clip: Tensor) -> Tensor:
        return _max_pool(clip, self.padding, (self.kernel[0], 1), (self.stride[0], 1)) if self.kernel[0] > 1 else clip


def sliding_mean(x: Tensor, kernel: tuple[int, int]) -> Tensor:
    """Average pool of stride 1 without padding, float [B, C, H, W], its kernel shrunk to fit the input."""
    height, width = min(kernel[0], x.shape[2]), min(kernel[1], x.shape[3])
    if (height, width) == (1, 1):
        return x  # XNNPACK refuses a pool of one element
    return F.avg_pool2d(x, (height, width), stride=1, count_include_pad=False)
