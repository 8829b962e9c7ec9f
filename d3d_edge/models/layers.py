"""The rank-4 primitives of a video network: every 3D operator of S3D-G written with 2D operators, exactly.

Nothing here knows a layer name or a channel count of any particular network.

No tensor ever has five axes: an activation is seen as frames or as clips, see `models.views`.
A checkpoint with five axes loads by squeezing one: a (1, k, k) kernel is [O, I, k, k], a (k, 1, 1) kernel is
[O, I, k, 1]. The exception is `StackedConv`, whose taps in time lie along the input channels.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from d3d_edge.models import blocks
from d3d_edge.models.blocks import Blocks
from d3d_edge.models.pools import ClipPool, MaxPool, unpooled
from d3d_edge.models.views import Padding, clip_view, frame_view, mean, pad, pads, shaped

BATCH_NORM_EPS = 1e-3
"""slim, `s3dg_arg_scope(batch_norm_epsilon)`."""

INIT_STD = 0.01
"""slim, the truncated normal of gates and classifier."""


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


def _relu(x: Tensor) -> Tensor:
    # Nobody else reads `x`. In a graph the operator in place would be another one, which quantizers do not know.
    return F.relu(x, inplace=not torch.compiler.is_compiling())


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
        norm = nn.BatchNorm2d(outputs, eps=BATCH_NORM_EPS, momentum=momentum)
        norm.weight.requires_grad_(scale)
        self.bn: nn.Module = norm
        self.taps = 1
        self.blocks: Blocks | None = None

    def forward(self, frames: Tensor) -> Tensor:
        """Float [B, I, H, W] to [B, O, H', W']."""
        return _relu(self.bn(self.convolve(self._read(frames, 1))))

    def fold(self) -> None:
        """Take the batch norm into the convolution: the same function in evaluation, in less time.

        For what is only asked: the weights of a state dict no longer fit.
        """
        if isinstance(self.bn, nn.BatchNorm2d):
            self.conv = fuse_conv_bn_eval(self.conv, self.bn)
            assert self.conv.bias is not None
            self.conv.bias.requires_grad_(self.bn.bias.requires_grad)  # torch makes one that does not learn
            self.bn = nn.Identity().train(self.training)

    def read_blocks(self) -> None:
        """Become, where that pays, the same function of blocks of pixels: see `models.blocks`.

        For what is deployed: the weights of a state dict no longer fit.
        """
        size, stride, channels = self.conv.kernel_size[0], self.conv.stride[0], self.conv.in_channels // self.taps
        if not blocks.pay(size, stride, channels, self.taps):
            return
        self.blocks = Blocks(self.padding, size, self.taps)
        weight = self.blocks.weight(self.conv.weight.detach())
        self.conv = nn.Conv2d(weight.shape[1], len(weight), self.blocks.side, bias=False).train(self.training)
        self.conv.weight = nn.Parameter(weight)
        self.pad_apart = False

    def _read(self, frames: Tensor, clips: int) -> Tensor:
        """What `convolve` takes: the frames that each output sees, as channels; their blocks, where it reads those."""
        return self.blocks.of(frames, clips, self._seen) if self.blocks else self._stack(frames, clips)

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
        return _relu(self.bn(self.convolve(self._read(frames, clips))))

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
        x = shaped(x, (clips, time // frames, frames * area, values))
        x = F.pad(x, (0, 0, 0, 0, before // frames, (rows * stride - before - time) // frames))
        x = shaped(x, (clips, rows, stride * area, values))
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
        return _relu(self.convolve(clip))


class SelfGating(nn.Module):
    """y = x * sigmoid(W mean(x)), the mean over time and space, on the clip view. No bias, as in slim.

    A max pool behind the gate is taken before the product, whose factors are positive: it is the same, and there is
    less to multiply.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.transformer_W = conv2d(channels, channels, bias=False)

    def forward(self, clip: Tensor, pool: ClipPool = unpooled) -> Tensor:
        """Float [N, C, T, H*W] to the same shape, or that of what `pool` makes of it."""
        # keepdim and a 1x1 convolution, not a Linear, keep the gate in the delegate of the layers around it.
        return pool(clip) * torch.sigmoid(self.transformer_W(mean(clip)))


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

    def forward(self, frames: Tensor, clips: int = 1, pool: MaxPool | None = None) -> Tensor:
        """Float [N*T, I, H, W] to [N*T', O, H', W'], and what `pool` makes of it."""
        frames = self.spatial(frames)
        if self.temporal is None and self.self_gating is None:
            return pool(frames, clips) if pool else frames
        height, width = frames.shape[2:]
        clip = clip_view(frames, clips)
        if pool is None:
            return frame_view(self._in_time(clip, unpooled), height, width)
        return frame_view(self._in_time(clip, pool.clip_pool(height, width)), *pool.size(height, width))

    def as_clip(self, frames: Tensor, clips: int = 1, pool: ClipPool = unpooled) -> Tensor:
        """The same, left in the clip view: float [N*T, I, H, W] to [N, O, T', H'*W']."""
        return self._in_time(clip_view(self.spatial(frames), clips), pool)

    def ungated(self, frames: Tensor, clips: int) -> Tensor:
        """`as_clip` before the gate."""
        clip = clip_view(self.spatial(frames), clips)
        return clip if self.temporal is None else self.temporal(clip)

    def on_clip(self, clip: Tensor, pool: ClipPool = unpooled) -> Tensor:
        """The same of the clip view, for a unit of 1x1: float [N, I, T, H*W] to [N, O, T', H'*W']."""
        return self._in_time(self.spatial(clip), pool)

    def _in_time(self, clip: Tensor, pool: ClipPool) -> Tensor:
        if self.temporal is not None:
            clip = self.temporal(clip)
        return self.self_gating(clip, pool) if self.self_gating else pool(clip)
