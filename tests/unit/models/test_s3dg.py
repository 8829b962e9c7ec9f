"""S3D-G in rank 4 is slim's S3D-G: its numbers, shapes, sizes and costs."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from d3d_edge.models import S3DG, Recogniser, mac_count, parameter_count
from d3d_edge.models.s3dg import END_POINTS, STAGES, UNITS, Stem
from d3d_edge.presets import StageWidths
from d3d_edge.recipe import NetworkSpec
from tests.unit.models import reference

TOLERANCE = 1e-9


def randomised(**options: Any) -> S3DG:
    """A quarter-width network in float64 whose every weight and statistic matters to the logits."""
    net = S3DG(5, **{"width": 0.25, **options}).double().eval()
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if not value.is_floating_point():
                continue
            if "running_var" in name or name.endswith("bn.weight"):
                value.uniform_(0.5, 1.5)
            elif value.ndim == 4:
                nn.init.kaiming_normal_(value)
            else:
                value.normal_(0, 0.3)
    return net


def video(frames: int, size: tuple[int, int], channels: int = 3) -> Tensor:
    return torch.randn(frames, *size, channels, dtype=torch.float64).permute(0, 3, 1, 2)


def on_meta(**options: Any) -> S3DG:
    with torch.device("meta"):
        return S3DG(400, **options)


@pytest.mark.parametrize(
    ("options", "clips", "frames", "size"),
    [
        ({}, 1, 8, (32, 32)),
        ({}, 2, 9, (33, 46)),
        ({"in_channels": 2, "stem": "conv3d_k7"}, 2, 8, (32, 48)),
        ({"stem": "conv3d_k5", "gating": False}, 1, 16, (32, 32)),
        ({"stem": "conv3d_k3_5x5", "padding": "symmetric"}, 1, 9, (33, 40)),
        ({"stem": "conv3d_k3_3x3"}, 2, 8, (38, 33)),
        ({"stem": "conv3d_k1", "temporal_from": "Mixed_4b", "gating_from": "Mixed_5b"}, 2, 7, (32, 31)),
        ({"stem": "separable", "padding": "symmetric", "gating": False, "bn_scale": True}, 2, 16, (33, 64)),
        ({"stem": "separable"}, 1, 12, (40, 40)),
        ({"stage_widths": {"Conv2d_2": 0.4, "Mixed_3": 0.5, "Mixed_5": 0.1}}, 2, 8, (32, 40)),
    ],
    ids=str,
)
def test_logits_are_those_of_the_3d_network(
    options: dict[str, Any], clips: int, frames: int, size: tuple[int, int]
) -> None:
    net = randomised(**options)
    x = video(clips * frames, size, net.in_channels)
    oracle = reference.Reference(
        net.state_dict(), stem=options.get("stem", "conv3d_k3"), padding=options.get("padding", "same")
    )
    with torch.no_grad():
        actual = net(x, clips)
        expected = oracle.logits(reference.clips_from_frames(x, clips))
    assert actual.shape == (clips, 5)
    assert expected.std() > 1e-3, "logits too small to tell anything"
    assert (actual - expected).abs().max() < TOLERANCE * max(1, expected.abs().max())


@pytest.mark.parametrize("shape", [(8, 1, 1), (3, 8, 7), (2, 7, 7), (1, 9, 10)], ids=str)
def test_head_averages_the_logits_of_every_window(shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    net = randomised()
    x = video(2 * shape[0], shape[1:], net.feature_channels)
    expected = reference.Reference(net.state_dict(), "conv3d_k3", "same").classify(reference.clips_from_frames(x, 2))
    monkeypatch.setattr("d3d_edge.models.s3dg.END_POINTS", ())  # the trunk's output goes in
    with torch.no_grad():
        assert (net(x, 2) - expected).abs().max() < TOLERANCE


def test_features_are_what_the_classifier_sees() -> None:
    net = randomised()
    x = video(8, (32, 32))
    with torch.no_grad():
        _, features = net.outputs(x, 2)
        logits = nn.functional.linear(
            features, net.Logits["Conv2d_0c_1x1"].weight.flatten(1), net.Logits["Conv2d_0c_1x1"].bias
        )
        assert features.shape == (2, net.feature_channels)
        assert torch.allclose(logits, net(x, 2))


def test_end_points_of_the_published_network() -> None:
    outputs = on_meta().end_points(torch.empty(64, 3, 224, 224, device="meta"))
    assert {name: (x.shape[0], *x.shape[2:], x.shape[1]) for name, x in outputs.items()} == {
        "Conv2d_1a_7x7": (32, 112, 112, 64),
        "MaxPool_2a_3x3": (32, 56, 56, 64),
        "Conv2d_2b_1x1": (32, 56, 56, 64),
        "Conv2d_2c_3x3": (32, 56, 56, 192),
        "MaxPool_3a_3x3": (32, 28, 28, 192),
        "Mixed_3b": (32, 28, 28, 256),
        "Mixed_3c": (32, 28, 28, 480),
        "MaxPool_4a_3x3": (16, 14, 14, 480),
        "Mixed_4b": (16, 14, 14, 512),
        "Mixed_4c": (16, 14, 14, 512),
        "Mixed_4d": (16, 14, 14, 512),
        "Mixed_4e": (16, 14, 14, 528),
        "Mixed_4f": (16, 14, 14, 832),
        "MaxPool_5a_2x2": (8, 7, 7, 832),
        "Mixed_5b": (8, 7, 7, 832),
        "Mixed_5c": (8, 7, 7, 1024),
    }


@pytest.mark.parametrize(
    ("options", "parameters_m", "gmac"),
    [
        ({}, 9.52, 64.19),
        ({"stem": "conv3d_k7"}, 9.56, 79.29),
        ({"stem": "conv3d_k3_3x3"}, 9.50, 54.94),
        ({"in_channels": 2}, 9.51, 60.41),
        ({"width": 0.75}, 5.44, 38.3),
        ({"width": 0.5}, 2.50, 19.0),
        ({"width": 0.35}, 1.28, 10.5),
        ({"width": 0.25}, 0.71, 6.4),
        ({"stem": "conv3d_k1", "temporal_from": "Mixed_4b"}, 9.20, 40.8),
    ],
    ids=str,
)
def test_size_and_cost_at_64x224x224(options: dict[str, Any], parameters_m: float, gmac: float) -> None:
    net = on_meta(**options)
    assert parameter_count(net) / 1e6 == pytest.approx(parameters_m, abs=0.006)
    assert mac_count(net, 64, 224, 224) / 1e9 == pytest.approx(gmac, abs=0.06 if gmac < 60 else 0.01)


def test_a_stage_can_have_a_width_of_its_own() -> None:
    stages = {"Conv2d_1": 0.5, "Mixed_3": 1.0, "Mixed_5": 0.1}
    outputs = on_meta(width=0.25, stage_widths=stages).end_points(torch.empty(8, 3, 64, 64, device="meta"))
    assert {name: x.shape[1] for name, x in outputs.items() if "Pool" not in name} == {
        "Conv2d_1a_7x7": 32,
        "Conv2d_2b_1x1": 16,
        "Conv2d_2c_3x3": 48,
        "Mixed_3b": 256,
        "Mixed_3c": 480,
        **{"Mixed_4b": 132, "Mixed_4c": 128, "Mixed_4d": 128, "Mixed_4e": 132, "Mixed_4f": 208},
        # Of Mixed_5b, 256, 320, 128 and 128 channels become 25, 32, 16 and 16, the fewest.
        **{"Mixed_5b": 89, "Mixed_5c": 38 + 38 + 16 + 16},
    }


def test_a_recipe_can_name_every_stage() -> None:
    assert tuple(StageWidths.model_fields) == STAGES
    assert {next(filter(name.startswith, STAGES), None) for name in END_POINTS if "Pool" not in name} == set(STAGES)


def test_names_are_those_of_slim() -> None:
    names = set(on_meta().state_dict())
    assert {
        "Conv2d_1a_7x7.conv.weight",
        "Conv2d_2b_1x1.spatial.bn.running_mean",
        "Conv2d_2c_3x3.temporal.conv.bias",
        "Mixed_3b.Branch_0.Conv2d_0a_1x1.self_gating.transformer_W.weight",
        "Mixed_4f.Branch_1.Conv2d_0b_3x3.spatial.conv.weight",
        "Mixed_5c.Branch_3.Conv2d_0b_1x1.spatial.bn.bias",
        "Logits.Conv2d_0c_1x1.weight",
    } <= names
    assert sum("transformer_W" in name for name in names) == 37


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("stem", "conv3d_k4", "stem"),
        ("temporal_from", "MaxPool_3a_3x3", "temporal_from"),
        ("gating_from", "Mixed_9z", "gating_from"),
        ("padding", "valid", "padding"),
        ("width", 0.0, "width"),
        ("stage_widths", {"Mixed_6": 0.5}, "no stage 'Mixed_6'.*Conv2d_1, Conv2d_2, Mixed_3, Mixed_4, Mixed_5"),
        ("stage_widths", {"Mixed_5": 0.0}, "width of Mixed_5 is 0.0"),
    ],
)
def test_unknown_options_are_refused(option: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        S3DG(5, **{option: value})


def test_dropout_acts_in_training_only() -> None:
    net = S3DG(5, width=0.25, dropout=0.9)
    x = video(16, (64, 64)).float()
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))


def test_training_reaches_every_parameter() -> None:
    net = randomised().train()
    net(video(16, (32, 32)), 2).square().sum().backward()
    without = [n for n, p in net.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert without == []


@pytest.mark.parametrize("clips", [1, 2])
def test_trunk_stays_channels_last(clips: int) -> None:
    net = S3DG(5, width=0.25).eval()
    with torch.no_grad():
        outputs = net.end_points(video(8 * clips, (64, 64)).float(), clips)
    assert list(outputs) == list(END_POINTS)
    assert [name for name, x in outputs.items() if not x.permute(0, 2, 3, 1).is_contiguous()] == []


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "options",
    [{}, {"padding": "symmetric"}, {"gating": False}, {"gating_from": "Mixed_4b"}, {"temporal_from": "Mixed_4b"}],
    ids=lambda options: " ".join(map(str, options.values())) or "slim",
)
def test_pools_before_the_products_of_gates_change_nothing(
    options: dict[str, Any], training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = randomised(**options).train(training)
    frames = video(24, (50, 37))
    _, features = net.outputs(frames, 2)
    last = net.end_points(frames, 2)["Mixed_5c"]
    monkeypatch.setattr("d3d_edge.models.s3dg.END_POINTS", ())  # the trunk's output goes in
    assert torch.equal(features, net.outputs(last, 2)[1])


def test_recipes_take_every_stem_and_first_temporal_layer() -> None:
    assert get_args(NetworkSpec.model_fields["stem"].annotation) == get_args(Stem)
    assert get_args(NetworkSpec.model_fields["temporal_from"].annotation) == UNITS


def test_gates_multiply_what_the_pool_behind_them_leaves() -> None:
    net, shapes = on_meta(width=0.25), {}
    for name, module in net.named_modules():
        if name.endswith("self_gating"):
            module.register_forward_hook(
                lambda _, __, output, name=name: shapes.update({name: tuple(output.shape[2:])})
            )
    net(torch.empty(16, 3, 112, 112, device="meta"))
    units = ("Conv2d_2c_3x3", "Mixed_3b", "Mixed_3c", "Mixed_4e", "Mixed_4f", "Mixed_5b")
    seen = {unit: {shape for name, shape in shapes.items() if name.startswith(unit)} for unit in units}
    assert seen == {
        "Conv2d_2c_3x3": {(8, 14 * 14)},
        "Mixed_3b": {(8, 14 * 14)},
        "Mixed_3c": {(4, 7 * 7)},
        "Mixed_4e": {(4, 7 * 7)},
        "Mixed_4f": {(2, 4 * 4)},
        "Mixed_5b": {(2, 4 * 4)},
    }


@pytest.mark.parametrize(("clips", "training"), [(1, False), (2, True)])
def test_no_tensor_of_the_exported_graph_has_five_axes(clips: int, training: bool) -> None:
    module = Recogniser(S3DG(5, width=0.25), clips).train(training)
    frames = torch.randint(0, 256, (8 * clips, 32, 32, 3), dtype=torch.uint8)
    graph = torch.export.export(module, (frames,)).graph
    ranks = {node.meta["val"].dim() for node in graph.nodes if isinstance(node.meta.get("val"), Tensor)}
    assert max(ranks) == 4
    # A reshape would be a copy to a quantizer; a view is free.
    assert not any("reshape" in str(node.target) or "contiguous" in str(node.target) for node in graph.nodes)


def test_recogniser_normalises_bytes() -> None:
    net = S3DG(5, width=0.25).eval()
    frames = torch.randint(0, 256, (16, 32, 32, 3), dtype=torch.uint8)
    x = (frames - 127.5) / 128
    with torch.no_grad():
        expected = net(x.permute(0, 3, 1, 2), 2)
        actual = Recogniser(net, 2)(frames)
    assert torch.allclose(actual, expected, rtol=1e-3, atol=1e-6)


def test_recogniser_adds_nothing_to_the_weights() -> None:
    net = S3DG(5, width=0.25)
    assert set(Recogniser(net).state_dict()) == {f"net.{name}" for name in net.state_dict()}
