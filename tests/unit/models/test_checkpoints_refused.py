"""What is no published checkpoint, or does not fit the network, is refused by name, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from d3d_edge.errors import DataError
from d3d_edge.models import S3DG, checkpoints
from tests.unit.models import published
from tests.unit.models.published import CLASSES

State = dict[str, Tensor]


def with_unknown(state: State) -> None:
    state["base.0.gate.weight"] = torch.zeros(1)


def without_one(state: State) -> None:
    del state["base.15.branch2.1.bn_t.running_var"]


def without_many(state: State) -> None:
    for name in [name for name in state if ".conv_t." in name]:
        del state[name]


def inflated(state: State) -> None:
    state["base.3.conv_s.weight"] = state["base.3.conv_s.weight"].repeat(1, 1, 3, 1, 1)


def cut(state: State) -> None:
    state["base.3.bn_s.bias"] = state["base.3.bn_s.bias"][1:]


def cut_classifier(state: State) -> None:
    state["fc.0.bias"] = state["fc.0.bias"][1:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_unknown, r"base\.0\.gate\.weight unknown"),
        (without_one, r"base\.15\.branch2\.1\.bn_t\.running_var missing"),
        (without_many, r"base\.0\.conv_t\.weight, .* and 16 more missing"),
        (inflated, r"base\.3\.conv_s\.weight has the shape \[48, 16, 3, 3, 3\]"),
        (cut, r"base\.3\.bn_s\.bias makes Conv2d_2c_3x3\.spatial\.bn\.bias of shape \[47\], .* has \[48\]"),
        (cut_classifier, r"fc\.0\.bias makes Logits\.Conv2d_0c_1x1\.bias of shape \[4\], .* has \[5\]"),
    ],
)
def test_names_and_shapes_must_be_those_of_the_format(
    change: Callable[[State], None], message: str, kylemin: published.Kylemin, tmp_path: Path
) -> None:
    state = dict(kylemin.state_dict())
    change(state)
    torch.save(state, tmp_path / "s3d.pt")
    with pytest.raises(DataError, match=message):
        checkpoints.load(tmp_path / "s3d.pt")


GATE = "InceptionV1/Mixed_4c/Branch_0/Conv2d_0a_1x1/self_gating/transformer_W/weights"
GAMMA = "InceptionV1/Mixed_4c/Branch_0/Conv2d_0a_1x1/BatchNorm/gamma"


@pytest.mark.parametrize(
    ("added", "removed", "message"),
    [
        ((), (GATE,), rf"{GATE} missing"),
        (("InceptionV1/Mixed_4c/Branch_4/weights",), (), r"InceptionV1/Mixed_4c/Branch_4/weights unknown"),
        (
            ("InceptionV1/AuxLogits/weights",),
            (GATE,),
            r"transformer_W/weights missing; InceptionV1/AuxLogits.* unknown",
        ),
        ((GAMMA,), (), r"InceptionV1/Conv2d_1a_7x7/BatchNorm/gamma, .* and 52 more missing"),
    ],
    ids=["missing", "unknown", "both", "a scale of one batch norm only"],
)
def test_variables_of_slim_must_be_those_of_the_network(
    added: tuple[str, ...], removed: tuple[str, ...], message: str, slim_file: Path, tmp_path: Path
) -> None:
    variables = {name: value for name, value in np.load(slim_file).items() if name not in removed}
    np.savez(tmp_path / "s3dg.npz", **variables, **dict.fromkeys(added, np.zeros(1)))
    with pytest.raises(DataError, match=message):
        checkpoints.load(tmp_path / "s3dg.npz")


Change = Callable[[Tensor], Tensor]


def first_only(value: Tensor) -> Tensor:
    return value[:1]


def first_of(value: Tensor) -> Tensor:
    return value[0]


def as_a_column(value: Tensor) -> Tensor:
    return value[:, None]


def to(dtype: torch.dtype) -> Change:
    return lambda value: value.to(dtype)


KERNEL = "base.3.conv_s.weight"


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        *((KERNEL, to(dtype), rf"holds {dtype}, not floats") for dtype in (torch.int64, torch.bool, torch.complex64)),
        (KERNEL, to(torch.float8_e4m3fn), r"holds torch\.float8_e4m3fn, not floats"),
        (KERNEL, lambda value: value.to("meta"), "has a shape and no values"),
        (KERNEL, Tensor.to_sparse, "is no dense tensor"),
        (KERNEL, lambda value: torch.nested.nested_tensor(list(value)), "is no dense tensor"),
        (KERNEL, lambda value: torch.zeros(1).expand(10**5, 10**5, 10**3), r"the shape \[100000, .* are repeated"),
        (KERNEL, lambda value: value * 1e300, "is not finite in float32"),
        ("base.3.bn_s.running_var", torch.neg, "has numbers below zero"),
        ("base.3.bn_t.running_var", torch.neg, "has numbers below zero"),
        ("fc.0.bias", lambda value: value[:0], r"has the shape \[0\] and no numbers"),
        ("fc.0.bias", first_of, r"has the shape \[\], which none of"),
        ("fc.0.bias", as_a_column, r"has the shape \[5, 1\], which none of"),
        ("base.15.branch0.0.bn.bias", first_of, r"has the shape \[\], which none of"),
        *(
            (f"base.3.bn_t.{leaf}", change, rf"has the shape {shape}, where base\.3\.\w+_t\.weight needs \[48\]")
            for leaf in ("weight", "bias", "running_mean", "running_var")
            for change, shape in ((first_only, r"\[1\]"), (first_of, r"\[\]"), (as_a_column, r"\[48, 1\]"))
        ),
    ],
)
def test_a_tensor_that_can_be_no_weight_is_named(
    name: str, change: Change, message: str, kylemin: published.Kylemin, tmp_path: Path
) -> None:
    state = dict(kylemin.state_dict())
    torch.save(state | {name: change(state[name])}, tmp_path / "s3d.pt")
    with pytest.raises(DataError, match=rf": {name} .*{message}") as caught:
        checkpoints.load(tmp_path / "s3d.pt")
    assert "\n" not in str(caught.value)


def test_numbers_that_are_too_large_only_when_they_are_folded(kylemin: published.Kylemin, tmp_path: Path) -> None:
    large = {name: kylemin.state_dict()[name] * 1e30 for name in ("base.3.conv_t.weight", "base.3.bn_t.weight")}
    torch.save(dict(kylemin.state_dict()) | large, tmp_path / "s3d.pt")
    with pytest.raises(DataError, match=r"Conv2d_2c_3x3\.temporal\.conv\.weight is not finite in float32"):
        checkpoints.load(tmp_path / "s3d.pt")


def test_a_network_with_and_without_the_prefix_of_a_parallel_one(kylemin: published.Kylemin, tmp_path: Path) -> None:
    state = dict(kylemin.state_dict())
    torch.save(state | {f"module.{KERNEL}": state[KERNEL] + 1}, tmp_path / "s3d.pt")
    with pytest.raises(DataError, match=rf"more than one network: {KERNEL} and module\.{KERNEL}"):
        checkpoints.load(tmp_path / "s3d.pt")


STEM = "InceptionV1/Conv2d_1a_7x7/weights"
BATCH_NORM = "InceptionV1/Mixed_5c/Branch_0/Conv2d_0a_1x1/BatchNorm"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (GATE, lambda value: value.astype(np.int32), rf"{GATE} holds torch\.int32, not floats"),
        (GATE, lambda value: value * 1e300, rf"{GATE} is not finite in float32"),
        (f"{BATCH_NORM}/moving_variance", np.negative, r"moving_variance .* has numbers below zero"),
        (f"{BATCH_NORM}/beta", lambda value: value[0], r"BatchNorm/beta has the shape \[\]"),
        *(
            (STEM, lambda value, k=taps, i=inputs: np.resize(value, (k, 7, 7, i, value.shape[4])), message)
            for taps, inputs, message in (
                (3, 1, r"implies no network known here: in_channels is 1; it must be 3 for RGB or 2 for flow"),
                (1, 6, r"in_channels is 6; it must be"),
                (1, 9, r"in_channels is 9; it must be"),
                (3, 5, r"in_channels is 5; it must be"),
                (2, 3, r"stem is 'conv3d_k2'; it must be one of conv3d_k1, conv3d_k3"),
                (0, 3, rf"{STEM} has the shape \[0, 7, 7, 3, \d+\] and no numbers"),
                (9, 2, r"stem is 'conv3d_k9'; it must be one of"),
            )
        ),
    ],
)
def test_a_variable_of_slim_that_can_be_none_is_named(
    name: str,
    change: Callable[[NDArray[np.float64]], NDArray[Any]],
    message: str,
    slim_file: Path,
    tmp_path: Path,
) -> None:
    variables = dict(np.load(slim_file))
    np.savez(tmp_path / "s3dg.npz", **variables | {name: change(variables[name])})
    with pytest.raises(DataError, match=message) as caught:
        checkpoints.load(tmp_path / "s3dg.npz")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("inputs", [1, 4])
def test_frames_that_are_neither_rgb_nor_flow(inputs: int, kylemin: published.Kylemin, tmp_path: Path) -> None:
    state = dict(kylemin.state_dict())
    stem = state["base.0.conv_s.weight"].repeat(1, 2, 1, 1, 1)[:, :inputs]
    torch.save(state | {"base.0.conv_s.weight": stem}, tmp_path / "s3d.pt")
    with pytest.raises(DataError, match=rf"in_channels is {inputs}; it must be"):
        checkpoints.load(tmp_path / "s3d.pt")


def test_weights_that_are_not_finite(slim_file: Path, tmp_path: Path) -> None:
    variables = dict(np.load(slim_file))
    variables[GATE][..., 0] = np.nan
    np.savez(tmp_path / "s3dg.npz", **variables)
    with pytest.raises(DataError, match=rf"{GATE} is not finite"):
        checkpoints.load(tmp_path / "s3dg.npz")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding": "same"}, "pads 'same'"),
        ({"gating": True}, r"self_gating\.transformer_W\.weight, .* more missing"),
        ({"stem": "conv3d_k7"}, r"Conv2d_1a_7x7\.bn\.bias, .*missing; Conv2d_1a_7x7\.spatial.*unknown"),
        ({"temporal_from": "Mixed_4b"}, r"Conv2d_2c_3x3\.temporal\.conv\.bias, .* unknown"),
        ({"width": 0.5}, r"Conv2d_1a_7x7\.spatial\.conv\.weight is \[16, 3, 7, 7\], not \[32, 3, 7, 7\]"),
        ({"in_channels": 2}, r"Conv2d_1a_7x7\.spatial\.conv\.weight is \[16, 3, 7, 7\], not \[16, 2, 7, 7\]"),
    ],
    ids=str,
)
def test_a_network_of_other_options_is_refused_and_unchanged(
    options: dict[str, Any], message: str, kylemin_file: Path
) -> None:
    net = S3DG(CLASSES, **{**checkpoints.load(kylemin_file).options, **options})
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(DataError, match=message) as caught:
        checkpoints.load_into(net, kylemin_file)
    assert "the checkpoint implies" in caught.value.hint
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
