"""S3D-G, the gated separable video network, in rank 4. It knows layer names and widths, and no arithmetic.

Xie et al., "Rethinking Spatiotemporal Feature Learning" (arXiv:1712.04851), in the form of TensorFlow's slim,
`research/slim/nets/s3dg.py`, which differs from the paper: a stem of 3 frames, gates on all four branches.

Names are slim's. Of a variable `InceptionV1/<path>/<leaf>`, <path> with dots is the module; <leaf> becomes

    weights                      spatial.conv.weight     [1, k, k, I, O] -> [O, I, k, k]
    BatchNorm/{beta,moving_mean,moving_variance}         spatial.bn.{bias,running_mean,running_var}
    temporal/{weights,biases}    temporal.conv.{weight,bias}             [k, 1, 1, I, O] -> [O, I, k, 1]
    self_gating/transformer_W/weights                    self_gating.transformer_W.weight

except that `Conv2d_1a_7x7` of a conv3d stem has no `spatial.` and its weight is [O, k_t * I, 7, 7] (time the
slower), and that `Logits/Conv2d_0c_1x1/{weights,biases}` are that module's own {weight,bias}.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from d3d_edge.models import joined
from d3d_edge.models.layers import SeparableConv, SpatialConv, StackedConv, conv2d
from d3d_edge.models.pools import ClipPool, MaxPool, sliding_mean, unpooled
from d3d_edge.models.views import Padding, clip_view, frame_view

Stem = Literal["conv3d_k1", "conv3d_k3", "conv3d_k5", "conv3d_k7", "conv3d_k3_5x5", "conv3d_k3_3x3", "separable"]
"""Slim's full convolution over k frames and 7x7 pixels; this project's own over fewer pixels; or torchvision's 1x7x7
followed by 7x1x1."""

MIN_DEPTH = 16
"""slim, `s3dg_base(min_depth)`: the fewest channels that a reduced width leaves."""

POOLS = {
    "MaxPool_2a_3x3": ((1, 3), (1, 2)),
    "MaxPool_3a_3x3": ((1, 3), (1, 2)),
    "MaxPool_4a_3x3": ((3, 3), (2, 2)),
    "MaxPool_5a_2x2": ((2, 2), (2, 2)),
}
"""((frames, pixels) of the kernel, of the stride)."""

MIXED = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
"""Channels of Branch_0, Branch_1 (reduced, out), Branch_2 (reduced, out), Branch_3."""

END_POINTS = (
    *("Conv2d_1a_7x7", "MaxPool_2a_3x3", "Conv2d_2b_1x1", "Conv2d_2c_3x3", "MaxPool_3a_3x3"),
    *("Mixed_3b", "Mixed_3c", "MaxPool_4a_3x3"),
    *("Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e", "Mixed_4f", "MaxPool_5a_2x2"),
    *("Mixed_5b", "Mixed_5c"),
)
"""The layers of the trunk, in order, each the name of a submodule of `S3DG`."""

STAGES = ("Conv2d_1", "Conv2d_2", "Mixed_3", "Mixed_4", "Mixed_5")
"""What the names of the layers between two changes of resolution begin with."""

UNITS = ("Conv2d_2c_3x3", *MIXED)
"""The end points that can have temporal kernels and gates."""

_POOLED_UNITS = {unit: pool for unit, pool in pairwise(END_POINTS) if unit in UNITS and pool in POOLS}
"""The max pool behind a unit, taken before the unit's gates multiply: 4 or 8 times less to multiply, and to join."""


class S3DG(nn.Module):
    """Frames to logits.

    num_classes    width of the logits
    in_channels    3 for RGB, 2 for optical flow
    width          slim's depth_multiplier; no layer gets fewer than 16 channels
    stage_widths   the same for single `STAGES`, where they differ from `width`
    stem           see `Stem`
    temporal_from  slim's temporal_conv_startat: the first of `UNITS` with 3x1x1 convolutions
    gating         without it, the network is S3D
    gating_from    slim's gating_startat: the first of `UNITS` with gates
    padding        "same" for slim's weights, "symmetric" for torchvision's
    dropout        probability, on the pooled features
    bn_scale       whether batch norms have a trained gamma; slim's have none
    bn_momentum    PyTorch's sense; slim's 0.001 wants many steps, so small data wants about 0.1

    Raises ValueError for a name or number outside of these.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        in_channels: int = 3,
        width: float = 1.0,
        stage_widths: Mapping[str, float] | None = None,
        stem: Stem = "conv3d_k3",
        temporal_from: str = "Conv2d_2c_3x3",
        gating: bool = True,
        gating_from: str = "Conv2d_2c_3x3",
        padding: Padding = "same",
        dropout: float = 0.2,
        bn_scale: bool = False,
        bn_momentum: float = 0.001,
    ) -> None:
        super().__init__()
        widths = dict.fromkeys(STAGES, width) | dict(stage_widths or {})
        _check(widths, stem=stem, temporal_from=temporal_from, gating_from=gating_from, padding=padding)
        self.in_channels = in_channels

        def depth(layer: str, channels: int) -> int:
            return max(int(channels * widths[next(filter(layer.startswith, STAGES))]), MIN_DEPTH)

        unit = partial(SeparableConv, scale=bn_scale, momentum=bn_momentum)
        channels = depth("Conv2d_1a_7x7", 64)
        if stem == "separable":
            self.Conv2d_1a_7x7: nn.Module = unit(in_channels, channels, 7, 2, temporal=True, padding=padding)
        else:
            taps, _, size = stem.removeprefix("conv3d_k").partition("_")
            kernel = (int(taps), int(size.partition("x")[0] or 7))
            self.Conv2d_1a_7x7 = StackedConv(
                in_channels, channels, kernel, 2, padding=padding, scale=bn_scale, momentum=bn_momentum
            )
        for name, (kernel, stride) in POOLS.items():
            self.add_module(name, MaxPool(kernel, stride, padding=padding))
        self._gated_pools: dict[str, str] = {}
        self.Conv2d_2b_1x1 = unit(channels, depth("Conv2d_2b_1x1", 64))
        channels = depth("Conv2d_2b_1x1", 64)
        for place, name in enumerate(UNITS):
            temporal = place >= UNITS.index(temporal_from)
            gated = gating and place >= UNITS.index(gating_from)
            if gated and name in _POOLED_UNITS:
                self._gated_pools[name] = _POOLED_UNITS[name]
            if name in MIXED:
                outputs = [depth(name, c) for c in MIXED[name]]
                mixed = Mixed(channels, outputs, unit, padding, temporal=temporal, gating=gated)
                self.add_module(name, mixed)
                channels = mixed.channels
            else:
                self.add_module(name, unit(channels, depth(name, 192), 3, temporal=temporal, gating=gated))
                channels = depth(name, 192)
        self.dropout = nn.Dropout(dropout)
        self.feature_channels = channels
        self.Logits = nn.ModuleDict({"Conv2d_0c_1x1": conv2d(channels, num_classes)})

    def forward(self, frames: Tensor, clips: int = 1) -> Tensor:
        """Float [N*T, C, H, W], channels last, for N = `clips`, to logits, float [N, classes]."""
        pooled = self.dropout(self._pooled(frames, clips))
        logits: Tensor = self.Logits["Conv2d_0c_1x1"](pooled)
        return logits.flatten(1)

    def outputs(self, frames: Tensor, clips: int = 1) -> tuple[Tensor, Tensor]:
        """What `forward` gives, and what the classifier sees before dropout, float [N, feature_channels]."""
        pooled = self._pooled(frames, clips)
        logits = self.Logits["Conv2d_0c_1x1"](self.dropout(pooled))
        return logits.flatten(1), pooled.flatten(1)

    def end_points(self, frames: Tensor, clips: int = 1) -> dict[str, Tensor]:
        """Float [N*T, C, H, W] to the output of each of `END_POINTS`, float [N*T', C', H', W']."""
        outputs = {}
        for name in END_POINTS:
            frames = outputs[name] = self.get_submodule(name)(frames, clips)
        return outputs

    def _pooled(self, frames: Tensor, clips: int) -> Tensor:
        for name in END_POINTS:
            if name in self._gated_pools:
                frames = self.get_submodule(name)(frames, clips, self.get_submodule(self._gated_pools[name]))
            elif name not in self._gated_pools.values():
                frames = self.get_submodule(name)(frames, clips)
        # Slim averages logits over the positions of its 2x7x7 window. Convolution and mean commute, so the
        # features are averaged instead, and one position is classified.
        clip = clip_view(sliding_mean(frames, (7, 7)), clips)
        return sliding_mean(clip, (2, 1)).mean((2, 3), keepdim=True)


class Mixed(nn.Module):
    """An Inception block: four branches side by side, each with its own gate, `channels` channels in all."""

    def __init__(
        self,
        inputs: int,
        outputs: Sequence[int],
        unit: Callable[..., SeparableConv],
        padding: Padding,
        *,
        temporal: bool,
        gating: bool,
    ) -> None:
        super().__init__()
        only, reduce_1, out_1, reduce_2, out_2, project = outputs
        self.channels = only + out_1 + out_2 + project
        self.Branch_0 = nn.ModuleDict({"Conv2d_0a_1x1": unit(inputs, only, gating=gating)})
        self.Branch_1 = nn.ModuleDict(
            {
                "Conv2d_0a_1x1": unit(inputs, reduce_1),
                "Conv2d_0b_3x3": unit(reduce_1, out_1, 3, temporal=temporal, gating=gating),
            }
        )
        self.Branch_2 = nn.ModuleDict(
            {
                "Conv2d_0a_1x1": unit(inputs, reduce_2),
                "Conv2d_0b_3x3": unit(reduce_2, out_2, 3, temporal=temporal, gating=gating),
            }
        )
        self.Branch_3 = nn.ModuleDict(
            {
                "MaxPool_0a_3x3": MaxPool((3, 3), padding=padding),
                "Conv2d_0b_1x1": unit(inputs, project, gating=gating),
            }
        )

    def forward(self, frames: Tensor, clips: int = 1, pool: MaxPool | None = None) -> Tensor:
        """Float [N*T, inputs, H, W] to [N*T, channels, H, W], and what `pool` makes of it."""
        height, width = frames.shape[2:]
        if pool is None:
            return frame_view(self._as_clip(frames, clips, unpooled), height, width)
        return frame_view(self._as_clip(frames, clips, pool.clip_pool(height, width)), *pool.size(height, width))

    def _as_clip(self, frames: Tensor, clips: int, pool: ClipPool) -> Tensor:
        """The same, left in the clip view, where all branches end: a change of view costs a copy in some runtimes."""
        readers = [_unit(branch, "Conv2d_0a_1x1") for branch in (self.Branch_0, self.Branch_1, self.Branch_2)]
        pointwise = [unit.spatial for unit in (*readers, _unit(self.Branch_3, "Conv2d_0b_1x1"))]
        if joined.usable(pointwise, frames):
            return self._joined(pointwise, frames, clips, pool)
        maxima = cast(MaxPool, self.Branch_3["MaxPool_0a_3x3"]).as_clip(frames, clips)
        outputs = [
            _unit(self.Branch_0, "Conv2d_0a_1x1").as_clip(frames, clips, pool),
            *(
                _unit(branch, "Conv2d_0b_3x3").as_clip(_unit(branch, "Conv2d_0a_1x1")(frames), clips, pool)
                for branch in (self.Branch_1, self.Branch_2)
            ),
            _unit(self.Branch_3, "Conv2d_0b_1x1").on_clip(maxima, pool),
        ]
        return torch.cat(outputs, dim=1)

    def _joined(self, pointwise: Sequence[SpatialConv], frames: Tensor, clips: int, pool: ClipPool) -> Tensor:
        """`_as_clip` with what `joined` computes at once. `pointwise` has the 1x1 convolutions."""
        maxima = cast(MaxPool, self.Branch_3["MaxPool_0a_3x3"]).as_clip(frames, clips)
        *readers, projection = pointwise
        only, *reduced = joined.pointwise(readers, frames)
        units = [_unit(branch, "Conv2d_0b_3x3") for branch in (self.Branch_1, self.Branch_2)]
        outputs = [
            clip_view(only, clips),
            *(unit.ungated(x, clips) for unit, x in zip(units, reduced, strict=True)),
            *joined.pointwise([projection], maxima),
        ]
        ends = (_unit(self.Branch_0, "Conv2d_0a_1x1"), *units, _unit(self.Branch_3, "Conv2d_0b_1x1"))
        gates = [unit.self_gating for unit in ends if unit.self_gating is not None]
        return joined.gated(outputs, gates, pool) if gates else pool(torch.cat(outputs, dim=1))


def _unit(branch: nn.ModuleDict, name: str) -> SeparableConv:
    return cast(SeparableConv, branch[name])


def _check(widths: Mapping[str, float], **names: str) -> None:
    for stage, width in widths.items():
        if stage not in STAGES:
            raise ValueError(f"there is no stage {stage!r} to have a width; there are {', '.join(STAGES)}")
        if not width > 0:
            raise ValueError(f"width of {stage} is {width}; it must be more than 0")
    allowed = {
        "stem": get_args(Stem),
        "temporal_from": UNITS,
        "gating_from": UNITS,
        "padding": get_args(Padding),
    }
    for option, name in names.items():
        if name not in allowed[option]:
            raise ValueError(f"{option} is {name!r}; it must be one of {', '.join(allowed[option])}")
