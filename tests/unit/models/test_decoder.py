"""The decoder gives flow at the size and steps of the finest layer, and no step looks at another one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from d3d_edge.models.decoder import FlowDecoder, time_stride


def halved(size: int) -> int:
    return -(-size // 2)


def features(clips: int, steps: int, height: int, width: int, channels: list[int]) -> list[Tensor]:
    """Layers as a network pools them: each has half the rows and columns of the one before, and half the steps."""
    layers = []
    for count in channels:
        layers.append(torch.randn(clips * steps, count, height, width))
        steps, height, width = halved(steps), halved(height), halved(width)
    return layers


def ready(channels: list[int]) -> FlowDecoder:
    """A decoder in evaluation mode whose every weight matters."""
    decoder = FlowDecoder(channels, width=8).eval()
    torch.nn.init.normal_(decoder.flow.weight)
    return decoder


@settings(max_examples=40)
@given(
    clips=st.integers(1, 3),
    steps=st.integers(1, 9),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    channels=st.lists(st.integers(1, 6), min_size=1, max_size=4),
)
def test_flow_has_the_size_and_steps_of_the_finest_layer(
    clips: int, steps: int, height: int, width: int, channels: list[int]
) -> None:
    flow = ready(channels)(features(clips, steps, height, width, channels), clips)
    assert flow.shape == (clips * steps, 2, height, width)
    assert flow.isfinite().all()


@pytest.mark.parametrize("steps", [1, 2, 5, 8])
@pytest.mark.parametrize("layer", [0, 1])
def test_a_step_changes_no_flow_but_its_own(steps: int, layer: int) -> None:
    """Steps of the coarser layer belong to the two finer ones that they were pooled from."""
    channels = [4, 6]
    decoder = ready(channels)
    layers = features(2, steps, 6, 5, channels)
    before = decoder(layers, 2)
    own_steps = len(layers[layer]) // 2
    for changed in range(own_steps):
        row = own_steps + changed  # of the second clip
        others = [x.clone() for x in layers]
        others[layer][row] += 1
        differs = (decoder(others, 2) != before).flatten(1).any(1).unflatten(0, (2, steps))
        assert not differs[0].any()
        assert differs[1].tolist() == [(step if layer == 0 else step // 2) == changed for step in range(steps)]


def test_an_untrained_decoder_says_that_nothing_moves() -> None:
    assert not FlowDecoder([3])([torch.randn(4, 3, 5, 5)]).any()


def test_the_scale_of_the_features_does_not_matter() -> None:
    torch.manual_seed(1)
    decoder = ready([4]).train()
    x = torch.randn(6, 4, 5, 5)
    assert torch.allclose(decoder([x]), decoder([100 * x]), rtol=1e-3, atol=1e-3)


@given(steps=st.integers(1, 512), stride=st.sampled_from([1, 2]))
def test_the_stride_is_found_again_from_the_counts(steps: int, stride: int) -> None:
    assert time_stride(steps, -(-steps // stride)) == (stride if steps > 1 else 1)


@given(counts=st.tuples(st.integers(1, 300), st.integers(1, 300)))
def test_every_step_stands_within_the_finer_layer(counts: tuple[int, int]) -> None:
    fewer, steps = sorted(counts)
    stride = time_stride(steps, fewer)
    assert (steps - 1) // stride < fewer


@pytest.mark.parametrize(("steps", "fewer"), [(2, 3), (2, 0)])
def test_steps_cannot_become_more(steps: int, fewer: int) -> None:
    with pytest.raises(ValueError, match="cannot come from"):
        time_stride(steps, fewer)


def test_layers_must_be_there() -> None:
    with pytest.raises(ValueError, match="at least one layer"):
        FlowDecoder([])
    with pytest.raises(ValueError, match="1 features for a decoder of 2 layers"):
        FlowDecoder([3, 3])([torch.zeros(1, 3, 4, 4)])
