"""The rank-4 primitives of a video network: every 3D operator of S3D-G written with 2D operators, exactly.

Nothing here knows a layer name or a channel count of any particular network.

An activation has two views of the same channels-last bytes, and no tensor ever has five axes:

* the frame view, float [N*T, C, H, W], on which a (1, k, k) kernel is a k x k one;
* the clip view, float [N, C, T, H*W], on which a (k, 1, 1) kernel is a k x 1 one.

N is the number of clips and T of frames in each. A 1x1 convolution may take either view.
A checkpoint with five axes loads by squeezing one: a (1, k, k) kernel is [O, I, k, k], a (k, 1, 1) kernel is
[O, I, k, 1]. The exception is `StackedConv`, whose taps in time lie along the input channels.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BLOCK = 2
"""Pixels along each side of a block, and the stride of a convolution that can read blocks."""

BLOCK_KERNEL_MIN = 5
"""Smallest kernel that reads blocks, for inputs of few channels: 7x7 is what was measured, 3x3 gains little."""

BLOCK_CHANNELS_MAX = 4
"""Most channels of what reads blocks: pixels and flow. Wider inputs fill the kernels' vectors as they are."""

BATCH_NORM_EPS = 1e-3
"""slim, `s3dg_arg_scope(batch_norm_epsilon)`."""

INIT_STD = 0.01
"""slim, the truncated normal of gates and classifier."""

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
    return _view(frames.permute(0, 2, 3, 1), shape).permute(0, 3, 1, 2)


def frame_view(clip: Tensor, height: int, width: int) -> Tensor:
    """Clip view [N, C, T, H*W] to frame view [N*T, C, H, W], the inverse of `clip_view`."""
    clips, channels, time, _ = clip.shape
    shape = (clips * time, height, width, channels)
    return _view(clip.permute(0, 2, 3, 1), shape).permute(0, 3, 1, 2)


def _view(x: Tensor, shape: tuple[int, int, int, int]) -> Tensor:
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


def conv2d(
    inputs: int,
    outputs: int,
    kernel: tuple[int, int] = (1, 1),
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    *,
    bias: bool = True,
) -> nn.Conv2d:
    """A convolution initialised as slim's gates and classifier: a normal truncated at two deviations, biases zero."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=bias)
    nn.init.trunc_normal_(conv.weight, std=INIT_STD, a=-2 * INIT_STD, b=2 * INIT_STD)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


class _Conv(nn.Module):
    """A convolution that pads itself where it can, and is padded by `pad` where it cannot.

    At stride 2, SAME padding depends on the size of the input and can be uneven, which `Conv2d` cannot say.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: Padding,
        bias: bool,
    ) -> None:
        super().__init__()
        self.padding: Padding = padding
        self.pad_apart = padding == "same" and stride != (1, 1)
        inside = (0, 0) if self.pad_apart else ((kernel[0] - 1) // 2, (kernel[1] - 1) // 2)
        self.conv = conv2d(inputs, outputs, kernel, stride, inside, bias=bias)
        # Not slim's deviation of 0.01: behind a batch norm only the relative change of a kernel counts, and AdamW,
        # whose steps do not shrink with the kernel, then changes small kernels far too much.
        nn.init.kaiming_normal_(self.conv.weight)

    def convolve(self, x: Tensor) -> Tensor:
        """Float [B, I, H, W] to [B, O, H', W']; of the blocks, where it reads those."""
        if self.pad_apart:
            height, width = self.conv.kernel_size
            down, across = self.conv.stride
            x = pad(x, self.padding, (height, width), (down, across))
        y: Tensor = self.conv(x)
        return y


class SpatialConv(_Conv):
    """(1, k, k) convolution without bias, batch norm, ReLU, on the frame view (either view where k is 1).

    `scale` makes the batch norm's gamma trainable. Slim has no gamma: it is then a frozen one, kept because
    the quantizer folds a convolution and its batch norm only where it finds the whole pattern.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        padding: Padding = "same",
        scale: bool = False,
        momentum: float = 0.001,
    ) -> None:
        super().__init__(inputs, outputs, (kernel, kernel), (stride, stride), padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=BATCH_NORM_EPS, momentum=momentum)
        self.bn.weight.requires_grad_(scale)
        self.taps = 1
        self.block_kernel = self.lead = 0

    def forward(self, frames: Tensor) -> Tensor:
        """Float [B, I, H, W] to [B, O, H', W']."""
        return F.relu(self.bn(self.convolve(self.blocks(frames))))

    def read_blocks(self) -> None:
        """Become, if this is a large kernel of stride 2 on few channels, the same function of blocks of 2x2 pixels.

        A 7x7 kernel on 3 channels is then a 4x4 one of stride 1 on 12, its eighth row and column zero. The sums are the
        same; only, kernels written for vectors of channels waste most of a vector on 3. For what is
        deployed: the weights of a state dict no longer fit.
        """
        size, taps = self.conv.kernel_size[0], self.taps
        channels = self.conv.in_channels // taps
        if self.conv.stride[0] != BLOCK or size < BLOCK_KERNEL_MIN or channels > BLOCK_CHANNELS_MAX:
            return
        # Zeros before the kernel, so that it begins where a block does in frames of even size.
        lead = pads(self.padding, BLOCK * size, size, BLOCK)[0] % BLOCK
        side = -(-(lead + size) // BLOCK)
        weight = F.pad(self.conv.weight.detach(), 2 * (lead, side * BLOCK - size - lead))
        weight = weight.reshape(-1, taps, channels, side, BLOCK, side, BLOCK).permute(0, 6, 2, 1, 4, 3, 5)
        weight = weight.reshape(-1, channels, BLOCK, taps, BLOCK, side, side).permute(0, 1, 3, 4, 2, 5, 6)
        weight = weight.reshape(len(weight), -1, side, side)
        self.conv = nn.Conv2d(weight.shape[1], len(weight), side, bias=False)
        self.conv.weight = nn.Parameter(weight.contiguous())
        self.pad_apart, self.block_kernel, self.lead = False, size, lead

    def blocks(self, frames: Tensor, clips: int = 1) -> Tensor:
        """What `convolve` reads: `frames` as they are, or with the pixels of each block as channels, and padded.

        Float [N*T, C, H, W] to [N*T', 4*k_t*C, H'', W'']. Of a block of k_t frames, axis 1 has two values of every row,
        then the next two: a matrix of pairs is transposed, which moves many at a time.
        """
        if not self.block_kernel:
            return self._stack(frames, clips)
        (top, bottom), (left, right) = (self._alignment(size) for size in frames.shape[2:])
        x = frames.permute(0, 2, 3, 1)
        if any((top, bottom, left, right)):
            x = F.pad(x, (0, 0, left, right, top, bottom))
        rows, height, width, channels = x.shape
        down, across = height // BLOCK, width // BLOCK
        x = self._seen(_view(x, (clips, rows // clips, down, BLOCK * width * channels)))
        steps = x.shape[1]
        pairs = _view(x, (clips * steps * down, self.taps * BLOCK, across * channels, BLOCK))
        x = pairs.permute(0, 2, 1, 3).clone(memory_format=torch.contiguous_format)
        x = x.view(clips * steps, down, across, self.conv.in_channels)
        around: list[int] = []
        for size, there in ((frames.shape[3], across), (frames.shape[2], down)):
            before, after = pads(self.padding, size, self.block_kernel, BLOCK)
            outputs = (before + size + after - self.block_kernel) // BLOCK + 1
            front = (before + self.lead) // BLOCK
            around += [front, outputs - 1 + self.conv.kernel_size[0] - front - there]
        return F.pad(x, (0, 0, *around)).permute(0, 3, 1, 2)

    def _alignment(self, size: int) -> tuple[int, int]:
        """Pixels to add before and after an axis for blocks to begin where the kernel does, and to be whole."""
        before = (pads(self.padding, size, self.block_kernel, BLOCK)[0] + self.lead) % BLOCK
        return before, (before + size) % BLOCK

    def _stack(self, frames: Tensor, clips: int) -> Tensor:
        """The frames that each output sees, as channels: here one, so nothing is done."""
        return frames

    def _seen(self, x: Tensor) -> Tensor:
        """The same of [N, T, positions, values], as [N, T', positions, k_t * values]."""
        return x


class StackedConv(SpatialConv):
    """(k_t, k, k) convolution, batch norm, ReLU on the frame view: a `Conv2d` over k_t frames as channels.

    The weight is [O, k_t * I, k, k], with time the slower of the two on axis 1.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int],
        stride: int = 1,
        *,
        padding: Padding = "same",
        scale: bool = False,
        momentum: float = 0.001,
    ) -> None:
        taps, size = kernel
        super().__init__(taps * inputs, outputs, size, stride, padding=padding, scale=scale, momentum=momentum)
        self.taps, self.time_stride = taps, stride

    def forward(self, frames: Tensor, clips: int = 1) -> Tensor:
        """Float [N*T, I, H, W] to [N*T', O, H', W']."""
        return F.relu(self.bn(self.convolve(self.blocks(frames, clips))))

    def _stack(self, frames: Tensor, clips: int) -> Tensor:
        """Float [N*T, C, H, W] to [N*T', k_t*C, H, W], row t holding the k_t frames that output t sees."""
        seen = self._seen(clip_view(frames, clips).permute(0, 2, 3, 1))
        return frame_view(seen.permute(0, 3, 1, 2), frames.shape[2], frames.shape[3])

    def _seen(self, x: Tensor) -> Tensor:
        clips, time, area, values = x.shape
        stride = self.time_stride
        before, after = pads(self.padding, time, self.taps, stride)
        steps = (before + time + after - self.taps) // stride + 1
        # XNNPACK slices with step 1 only. So `stride` frames become one row of stride*area positions, and tap d
        # of every step is a plain slice: the rows from d // stride, in them the frame d % stride.
        rows = steps + (self.taps - 1) // stride
        # Whole rows are padded as such: XNNPACK copies a view that several slices read.
        frames = stride if before % stride == time % stride == 0 else 1
        x = _view(x, (clips, time // frames, frames * area, values))
        x = F.pad(x, (0, 0, 0, 0, before // frames, (rows * stride - before - time) // frames))
        x = _view(x, (clips, rows, stride * area, values))
        seen = [x.narrow(1, d // stride, steps).narrow(2, d % stride * area, area) for d in range(self.taps)]
        return torch.cat(seen, dim=3) if len(seen) > 1 else seen[0]


class TemporalConv(_Conv):
    """(k, 1, 1) convolution with bias, ReLU, on the clip view. No batch norm, as in slim.

    It begins as the identity where it can; slim notes that separable networks do not converge well otherwise.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, *, padding: Padding = "same"
    ) -> None:
        super().__init__(inputs, outputs, (kernel, 1), (stride, 1), padding, bias=True)
        if inputs == outputs:
            with torch.no_grad():
                self.conv.weight.zero_()
                self.conv.weight[:, :, kernel // 2, 0].copy_(torch.eye(inputs))

    def forward(self, clip: Tensor) -> Tensor:
        """Float [N, I, T, H*W] to [N, O, T', H*W]."""
        return F.relu(self.convolve(clip))


class SelfGating(nn.Module):
    """y = x * sigmoid(W mean(x)), the mean over time and space, on the clip view. No bias, as in slim."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.transformer_W = conv2d(channels, channels, bias=False)

    def forward(self, clip: Tensor) -> Tensor:
        """Float [N, C, T, H*W] to the same shape."""
        # keepdim and a 1x1 convolution, not a Linear, keep the gate in the delegate of the layers around it.
        return clip * torch.sigmoid(self.transformer_W(clip.mean((2, 3), keepdim=True)))


class SeparableConv(nn.Module):
    """A convolution unit of S3D-G: (1, k, k), then (k, 1, 1) if `temporal`, then a self-gate if `gating`.

    `stride` is that of all three axes.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        temporal: bool = False,
        gating: bool = False,
        padding: Padding = "same",
        scale: bool = False,
        momentum: float = 0.001,
    ) -> None:
        super().__init__()
        self.spatial = SpatialConv(inputs, outputs, kernel, stride, padding=padding, scale=scale, momentum=momentum)
        self.temporal = TemporalConv(outputs, outputs, kernel, stride, padding=padding) if temporal else None
        self.self_gating = SelfGating(outputs) if gating else None

    def forward(self, frames: Tensor, clips: int = 1) -> Tensor:
        """Float [N*T, I, H, W] to [N*T', O, H', W']."""
        frames = self.spatial(frames)
        if self.temporal is None and self.self_gating is None:
            return frames
        return frame_view(self._in_time(clip_view(frames, clips)), frames.shape[2], frames.shape[3])

    def as_clip(self, frames: Tensor, clips: int = 1) -> Tensor:
        """The same, left in the clip view: float [N*T, I, H, W] to [N, O, T', H'*W']."""
        return self._in_time(clip_view(self.spatial(frames), clips))

    def ungated(self, frames: Tensor, clips: int) -> Tensor:
        """`as_clip` before the gate."""
        clip = clip_view(self.spatial(frames), clips)
        return clip if self.temporal is None else self.temporal(clip)

    def on_clip(self, clip: Tensor) -> Tensor:
        """The same of the clip view, for a unit of 1x1: float [N, I, T, H*W] to [N, O, T, H*W]."""
        return self._in_time(self.spatial(clip))

    def _in_time(self, clip: Tensor) -> Tensor:
        if self.temporal is not None:
            clip = self.temporal(clip)
        return clip if self.self_gating is None else self.self_gating(clip)
