"""Each rank-4 primitive computes what PyTorch's 3D operator computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from d3d_edge.models import views
from d3d_edge.models.layers import SelfGating, SeparableConv, SpatialConv, StackedConv, TemporalConv
from d3d_edge.models.pools import MaxPool
from d3d_edge.models.views import Padding
from tests.unit.models import reference

TOLERANCE = 1e-9
EVEN, ODD, MIXED_SIZES, TINY = (8, 10, 12), (7, 9, 11), (5, 8, 9), (1, 2, 1)
SIZES = pytest.mark.parametrize("size", [EVEN, ODD, MIXED_SIZES, TINY], ids=str)
CLIPS = pytest.mark.parametrize("clips", [1, 2])
POOLS = [((1, 3), (1, 2)), ((3, 3), (1, 1)), ((3, 3), (2, 2)), ((2, 2), (2, 2))]
PADDINGS = pytest.mark.parametrize("padding", ["same", "symmetric"])


def randomised(layer: nn.Module) -> nn.Module:
    """`layer` in float64 with every weight and statistic away from its initial value, so that each one counts."""
    layer = layer.double().eval()
    with torch.no_grad():
        for name, value in layer.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.rand_like(value) + 0.5 if "running_var" in name else torch.randn_like(value))
    return layer


def clip(clips: int, channels: int, size: tuple[int, int, int]) -> Tensor:
    """Normal float64 frames [N*T, C, H, W], channels-last."""
    time, height, width = size
    return torch.randn(clips * time, height, width, channels, dtype=torch.float64).permute(0, 3, 1, 2)


def named(layer: nn.Module) -> Mapping[str, Tensor]:
    return {f"unit.{name}": value for name, value in layer.state_dict().items()}


def check(layer: nn.Module, frames: Tensor, clips: int, expected: Tensor) -> None:
    with torch.no_grad():
        actual = layer(frames, clips)
    expected = reference.frames_from_clips(expected)
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() < TOLERANCE
    # clip_view of it is free: the next layer finds channels-last memory.
    assert actual.permute(0, 2, 3, 1).is_contiguous()


@CLIPS
@SIZES
def test_views_are_the_same_bytes(size: tuple[int, int, int], clips: int) -> None:
    frames = clip(clips, 3, size)
    view = views.clip_view(frames, clips)
    expected = reference.clips_from_frames(frames, clips).flatten(3)
    assert torch.equal(view, expected)
    assert view.data_ptr() == frames.data_ptr()
    back = views.frame_view(view, *size[1:])
    assert torch.equal(back, frames)
    assert back.data_ptr() == frames.data_ptr()


@pytest.mark.parametrize("clips", [0, 3, 16])
def test_clips_of_unequal_length_are_refused(clips: int) -> None:
    with pytest.raises(ValueError, match=f"8 frames do not divide into {clips} clips"):
        views.clip_view(torch.zeros(8, 3, 4, 4), clips)


@given(size=st.integers(1, 300), kernel=st.integers(1, 9), stride=st.integers(1, 4))
def test_same_padding_keeps_every_stride_th_position(size: int, kernel: int, stride: int) -> None:
    before, after = views.pads("same", size, kernel, stride)
    assert after - before in (0, 1)
    steps = (size + before + after - kernel) // stride + 1
    assert steps == -(-size // stride)


@CLIPS
@SIZES
@pytest.mark.parametrize("options", [{}, {"temporal": True}, {"gating": True}, {"temporal": True, "gating": True}])
@pytest.mark.parametrize("kernel", [1, 3])
def test_separable_unit(kernel: int, options: Mapping[str, bool], size: tuple[int, int, int], clips: int) -> None:
    layer = randomised(SeparableConv(4, 5, kernel, **options))
    frames = clip(clips, 4, size)
    x = reference.clips_from_frames(frames, clips)
    check(layer, frames, clips, reference.unit(x, named(layer), "unit"))


@CLIPS
@SIZES
@PADDINGS
def test_separable_stem(padding: Padding, size: tuple[int, int, int], clips: int) -> None:
    layer = randomised(SeparableConv(3, 5, 7, 2, temporal=True, padding=padding))
    frames = clip(clips, 3, size)
    x = reference.clips_from_frames(frames, clips)
    check(layer, frames, clips, reference.unit(x, named(layer), "unit", 2, padding))


@CLIPS
@SIZES
@PADDINGS
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("taps", [1, 3, 5, 7])
def test_full_3d_convolution(taps: int, stride: int, padding: Padding, size: tuple[int, int, int], clips: int) -> None:
    layer = randomised(StackedConv(3, 5, (taps, 7), stride, padding=padding))
    frames = clip(clips, 3, size)
    x = reference.clips_from_frames(frames, clips)
    check(layer, frames, clips, reference.stacked_conv(x, named(layer), "unit", taps, stride, padding))


@CLIPS
@SIZES
@PADDINGS
@pytest.mark.parametrize(("kernel", "stride"), POOLS, ids=["1x3x3/1,2,2", "3x3x3/1", "3x3x3/2", "2x2x2/2"])
def test_max_pool(
    kernel: tuple[int, int], stride: tuple[int, int], padding: Padding, size: tuple[int, int, int], clips: int
) -> None:
    if size == TINY and kernel == (2, 2) and padding == "symmetric":
        pytest.skip("a window without padding does not fit")
    # Normal input: negative values tell padding by zero from padding by minus infinity.
    frames = clip(clips, 4, size)
    x = reference.clips_from_frames(frames, clips)
    expected = reference.max_pool(x, (kernel[0], *kernel[1:] * 2), (stride[0], *stride[1:] * 2), padding)
    check(MaxPool(kernel, stride, padding=padding), frames, clips, expected)


@pytest.mark.parametrize(("kernel", "stride"), [((1, 2), (1, 1)), ((2, 3), (1, 1)), ((4, 2), (1, 2))])
def test_a_max_pool_that_would_lose_a_position_is_refused(kernel: tuple[int, int], stride: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="same size"):
        MaxPool(kernel, stride)
    MaxPool(kernel, stride, padding="symmetric")


@settings(max_examples=30, deadline=None)
@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)),
    taps=st.sampled_from([1, 3, 5, 7]),
    clips=st.integers(1, 3),
)
def test_any_size_in_the_stem(size: tuple[int, int, int], taps: int, clips: int) -> None:
    layer = randomised(StackedConv(2, 3, (taps, 7), 2))
    frames = clip(clips, 2, size)
    x = reference.clips_from_frames(frames, clips)
    check(layer, frames, clips, reference.stacked_conv(x, named(layer), "unit", taps, 2, "same"))


@settings(max_examples=30, deadline=None)
@given(
    size=st.tuples(st.integers(1, 5), st.integers(1, 12), st.integers(1, 12)),
    kernel=st.sampled_from([(1, 7), (3, 7), (7, 7), (3, 5), (3, 3)]),
    clips=st.integers(1, 2),
    padding=st.sampled_from(["same", "symmetric"]),
)
def test_blocks_as_channels_are_the_same_convolution(
    size: tuple[int, int, int], kernel: tuple[int, int], clips: int, padding: Padding
) -> None:
    layer = randomised(StackedConv(3, 4, kernel, 2, padding=padding))
    frames = clip(clips, 3, size)
    x = reference.clips_from_frames(frames, clips)
    expected = reference.stacked_conv(x, named(layer), "unit", kernel[0], 2, padding)
    layer.read_blocks()
    assert layer.conv.weight.shape[1:] == (kernel[0] * 12, *2 * [-(-kernel[1] // 2)])
    assert layer.conv.stride == (1, 1)
    check(layer, frames, clips, expected)


@pytest.mark.parametrize("layer", [SpatialConv(3, 4, 3, 2), SpatialConv(16, 4, 7, 2), SpatialConv(3, 4, 7)])
def test_other_convolutions_read_no_blocks(layer: SpatialConv) -> None:
    weight = layer.conv.weight
    layer.read_blocks()
    assert layer.conv.weight is weight


@pytest.mark.parametrize("layer", [SpatialConv(3, 4, 3, scale=True), StackedConv(3, 4, (3, 7), 2)])
def test_a_folded_batch_norm_changes_nothing_in_evaluation(layer: SpatialConv) -> None:
    randomised(layer)
    frames = clip(1, 3, (5, 8, 9))
    with torch.no_grad():
        expected = layer(frames)
        layer.fold()
        assert (layer(frames) - expected).abs().max() < TOLERANCE
    assert not any(isinstance(part, nn.BatchNorm2d) for part in layer.modules())


@pytest.mark.parametrize("kernel", [3, 7])
def test_temporal_convolution_begins_as_identity(kernel: int) -> None:
    x = torch.rand(2, 5, 6, 4)
    assert torch.equal(TemporalConv(5, 5, kernel)(x), x)


def test_gate_sees_all_of_its_clip_and_nothing_of_another() -> None:
    layer = randomised(SelfGating(4))
    x = torch.rand(2, 4, 3, 6, dtype=torch.float64)
    changed = x.clone()
    changed[1, :, 2, 5] += 1
    with torch.no_grad():
        one, other = layer(x), layer(changed)
    assert torch.equal(one[0], other[0])
    assert not torch.isclose(one[1, :, 0], other[1, :, 0]).any()


def test_the_gradient_of_a_mean_is_channels_last() -> None:
    read = torch.rand(2, 3, 6, 4, dtype=torch.float64).permute(0, 3, 1, 2).requires_grad_() * 1
    mean = views.mean(read)
    assert torch.allclose(mean, read.mean((2, 3), keepdim=True), rtol=0, atol=1e-12)
    (gradient,) = torch.autograd.grad(mean.square().sum(), read)
    assert gradient.permute(0, 2, 3, 1).is_contiguous()


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(2, 5), st.integers(2, 9), st.integers(2, 9)),
    pool=st.sampled_from(POOLS),
    clips=st.integers(1, 2),
    padding=st.sampled_from(["same", "symmetric"]),
    temporal=st.booleans(),
    gating=st.booleans(),
)
def test_a_pool_behind_a_unit_may_come_before_the_product_of_its_gate(
    size: tuple[int, int, int],
    pool: tuple[tuple[int, int], tuple[int, int]],
    clips: int,
    padding: Padding,
    temporal: bool,
    gating: bool,
) -> None:
    unit = randomised(SeparableConv(3, 4, temporal=temporal, gating=gating))
    behind = MaxPool(*pool, padding=padding)
    frames = clip(clips, 3, size)
    with torch.no_grad():
        expected = behind(unit(frames, clips), clips)
        assert torch.equal(unit(frames, clips, behind), expected)
    assert behind.size(*frames.shape[2:]) == expected.shape[2:]


@pytest.mark.parametrize("scale", [False, True])
def test_gamma_is_trained_only_on_request(scale: bool) -> None:
    layer = SpatialConv(3, 4, scale=scale, momentum=0.1)
    assert layer.bn.weight.requires_grad is scale
    assert torch.equal(layer.bn.weight, torch.ones(4))
    assert (layer.bn.eps, layer.bn.momentum) == (1e-3, 0.1)


def test_gates_begin_small_and_truncated() -> None:
    weight = SelfGating(8).transformer_W.weight
    assert 0.005 < weight.std() < 0.012
    assert weight.abs().max() <= 0.02


@pytest.mark.parametrize(("layer", "fan_in"), [(SpatialConv(16, 64, 3), 144), (StackedConv(3, 64, (3, 7), 2), 441)])
def test_kernels_before_a_batch_norm_begin_with_he_variance(layer: Any, fan_in: int) -> None:
    assert layer.conv.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.05)
