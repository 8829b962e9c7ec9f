"""Names of published checkpoints, and how their tensors become those of `S3DG`. Reads no file and loads nothing.

A map gives, for each key of `S3DG`'s state dict, the variables it is made of and the function that makes it. Kernels of
five axes lose the one that rank 4 leaves out. What the maps rely on, layer by layer, is in the docstrings below.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from d3d_edge.models.layers import BATCH_NORM_EPS
from d3d_edge.models.s3dg import END_POINTS, MIXED, UNITS

CLASSIFIER = "Logits.Conv2d_0c_1x1"
SLIM_SCOPE = "InceptionV1"

_BATCH_NORM = ("weight", "bias", "running_mean", "running_var")
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_VARIANCES = (".running_var", "/moving_variance")
"""How the names of running variances end."""

_BRANCHES = (
    ("Branch_0.Conv2d_0a_1x1", "branch0.0"),
    ("Branch_1.Conv2d_0a_1x1", "branch1.0"),
    ("Branch_1.Conv2d_0b_3x3", "branch1.1"),
    ("Branch_2.Conv2d_0a_1x1", "branch2.0"),
    ("Branch_2.Conv2d_0b_3x3", "branch2.1"),
    ("Branch_3.Conv2d_0b_1x1", "branch3.1"),
)
"""The units of an Inception block, ours and in the PyTorch packages."""


class Made(NamedTuple):
    """How one tensor of the state dict is made."""

    names: tuple[str, ...]
    """The variables it is made of. Those after the first have one number for each output of the first."""
    of: Callable[..., Tensor]
    """Called with those variables, in that order. Raises ValueError for a shape it cannot take."""


Map = dict[str, Made]


def torchvision() -> Map:
    """torchvision.models.video.s3d: `features.N` is the N-th end point; a convolution is 0, its norm 1."""
    made: Map = {}
    for ours, place, separable in _units():
        # Its Branch_0 is the unit itself, not a sequence that holds it.
        theirs = f"features.{place.replace('branch0.0', 'branch0')}"
        if separable:
            made |= _spatial(ours, f"{theirs}.0.0", f"{theirs}.0.1") | _temporal(ours, f"{theirs}.1.0", f"{theirs}.1.1")
        else:
            made |= _spatial(ours, f"{theirs}.0", f"{theirs}.1")
    return made | _classifier("classifier.1")


def kylemin() -> Map:
    """github.com/kylemin/S3D, `model.py`: `base.N` is the N-th end point, its layers conv and bn, of two kinds."""
    made: Map = {}
    for ours, place, separable in _units():
        theirs = f"base.{place}"
        if separable:
            made |= _spatial(ours, f"{theirs}.conv_s", f"{theirs}.bn_s")
            made |= _temporal(ours, f"{theirs}.conv_t", f"{theirs}.bn_t")
        else:
            made |= _spatial(ours, f"{theirs}.conv", f"{theirs}.bn")
    return made | _classifier("fc.0")


def slim(names: Collection[str]) -> Map:
    """TensorFlow models, `research/slim/nets/s3dg.py`, with the temporal kernels and gates that `names` tells of.

    Names begin with the scope `InceptionV1`. Every batch norm has a gamma or none has, which is slim's default.
    """
    options = slim_options(names)
    scaled = slim_scaled(names)
    made: Map = {}
    for ours, _, separable in _units():
        block, theirs = ours.partition(".")[0], f"{SLIM_SCOPE}/{ours.replace('.', '/')}"
        stem = block == "Conv2d_1a_7x7"
        spatial = ours if stem else f"{ours}.spatial"
        made[f"{spatial}.conv.weight"] = Made((f"{theirs}/weights",), _slim_stacked if stem else _slim_spatial)
        beta, gamma = f"{theirs}/BatchNorm/beta", f"{theirs}/BatchNorm/gamma"
        made[f"{spatial}.bn.weight"] = Made((gamma,), _same) if scaled else Made((beta,), torch.ones_like)
        made[f"{spatial}.bn.bias"] = Made((beta,), _same)
        made[f"{spatial}.bn.running_mean"] = Made((f"{theirs}/BatchNorm/moving_mean",), _same)
        made[f"{spatial}.bn.running_var"] = Made((f"{theirs}/BatchNorm/moving_variance",), _same)
        if separable and not stem and UNITS.index(block) >= UNITS.index(options["temporal_from"]):
            made[f"{ours}.temporal.conv.weight"] = Made((f"{theirs}/temporal/weights",), _slim_temporal)
            made[f"{ours}.temporal.conv.bias"] = Made((f"{theirs}/temporal/biases",), _same)
        gated = options["gating"] and block in UNITS and UNITS.index(block) >= UNITS.index(options["gating_from"])
        # The two reductions of a block have no gate.
        if gated and not ours.endswith(("Branch_1.Conv2d_0a_1x1", "Branch_2.Conv2d_0a_1x1")):
            gate = f"{theirs}/self_gating/transformer_W/weights"
            made[f"{ours}.self_gating.transformer_W.weight"] = Made((gate,), _slim_spatial)
    theirs = f"{SLIM_SCOPE}/{CLASSIFIER.replace('.', '/')}"
    made[f"{CLASSIFIER}.weight"] = Made((f"{theirs}/weights",), _slim_spatial)
    made[f"{CLASSIFIER}.bias"] = Made((f"{theirs}/biases",), _same)
    return made


def slim_options(names: Collection[str]) -> dict[str, Any]:
    """Where temporal kernels and gates begin, as options of `S3DG`."""

    def first(part: str) -> str | None:
        having = {name.split("/")[1] for name in names if part in name}
        return next((unit for unit in UNITS if unit in having), None)

    gating_from = first("/self_gating/")
    return {
        "temporal_from": first("/temporal/") or UNITS[0],
        "gating": gating_from is not None,
        "gating_from": gating_from or UNITS[0],
    }


def slim_scaled(names: Collection[str]) -> bool:
    """Whether batch norms have a scale."""
    return any(name.endswith("/gamma") for name in names)


def faults(name: str, value: Tensor) -> Iterator[str]:
    """What makes `value` no weight of a float32 network. Only the first is certain to be found without an error."""
    if value.is_meta:
        yield "has a shape and no values"
    if value.is_nested or value.layout != torch.strided:
        yield "is no dense tensor"
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        # A file of a kilobyte can tell so of more numbers than fit into memory.
        yield f"has the shape {list(value.shape)}, and fewer numbers, which are repeated"
    if value.dtype not in _FLOATS:
        yield f"holds {value.dtype}, not floats of 16, 32 or 64 bits"
    if not value.numel():
        yield f"has the shape {list(value.shape)} and no numbers"
    if not value.float().isfinite().all():
        yield "is not finite in float32"
    if name.endswith(_VARIANCES) and (value < 0).any():
        yield "is a variance and has numbers below zero"


def _units() -> Iterator[tuple[str, str, bool]]:
    """Each convolution unit: our path, the path below `features` or `base`, and whether it is separable."""
    for index, name in enumerate(END_POINTS):
        if name in MIXED:
            for ours, theirs in _BRANCHES:
                yield f"{name}.{ours}", f"{index}.{theirs}", ours.endswith("3x3")
        elif name.startswith("Conv2d"):
            yield name, str(index), not name.endswith("1x1")


def _spatial(ours: str, conv: str, norm: str) -> Map:
    made = {f"{ours}.spatial.conv.weight": Made((f"{conv}.weight",), _without_time)}
    return made | {f"{ours}.spatial.bn.{leaf}": Made((f"{norm}.{leaf}",), _same) for leaf in _BATCH_NORM}


def _temporal(ours: str, conv: str, norm: str) -> Map:
    scale, offset, mean, variance = (f"{norm}.{leaf}" for leaf in _BATCH_NORM)
    return {
        f"{ours}.temporal.conv.weight": Made((f"{conv}.weight", scale, variance), _folded_weight),
        f"{ours}.temporal.conv.bias": Made((scale, offset, mean, variance), _folded_bias),
    }


def _classifier(theirs: str) -> Map:
    return {
        f"{CLASSIFIER}.weight": Made((f"{theirs}.weight",), _without_time),
        f"{CLASSIFIER}.bias": Made((f"{theirs}.bias",), _same),
    }


def _same(value: Tensor) -> Tensor:
    """[O], as it is."""
    _need(value, 1)
    return value


def _without_time(kernel: Tensor) -> Tensor:
    """[O, I, 1, k, k] to [O, I, k, k]."""
    _need(kernel, 5, 2)
    return kernel.squeeze(2)


def _folded_weight(kernel: Tensor, scale: Tensor, variance: Tensor) -> Tensor:
    """[O, I, k, 1, 1] to [O, I, k, 1], with the batch norm behind it, in float64 so that folding costs no precision."""
    _need(kernel, 5, 4)
    factor = scale.double() / (variance.double() + BATCH_NORM_EPS).sqrt()
    return (kernel.squeeze(4).double() * factor.reshape(-1, 1, 1, 1)).to(kernel.dtype)


def _folded_bias(scale: Tensor, offset: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    factor = scale.double() / (variance.double() + BATCH_NORM_EPS).sqrt()
    return (offset.double() - mean.double() * factor).to(offset.dtype)


def _slim_spatial(kernel: Tensor) -> Tensor:
    """[1, k, k, I, O] to [O, I, k, k]."""
    _need(kernel, 5, 0)
    return kernel.squeeze(0).permute(3, 2, 0, 1)


def _slim_stacked(kernel: Tensor) -> Tensor:
    """[k_t, k, k, I, O] to [O, k_t * I, k, k]."""
    _need(kernel, 5)
    return kernel.permute(4, 0, 3, 1, 2).flatten(1, 2)


def _slim_temporal(kernel: Tensor) -> Tensor:
    """[k, 1, 1, I, O] to [O, I, k, 1]."""
    _need(kernel, 5, 2)
    return kernel.squeeze(2).permute(3, 2, 0, 1)


def _need(value: Tensor, axes: int, single: int | None = None) -> None:
    if value.ndim != axes or (single is not None and value.shape[single] != 1):
        raise ValueError(f"has the shape {list(value.shape)}, which none of this network's has")
