"""Published checkpoints read into the rank-4 `S3DG`. Downloads nothing, and changes nothing in a file.

Three formats, told apart by their names:

torchvision  a state dict of torchvision.models.video.s3d (torch.save)
kylemin      a state dict of github.com/kylemin/S3D (torch.save), also with DataParallel's `module.` before each name
slim         variables of TensorFlow slim's S3D-G, D3D's among them (.npz), also with scopes before `InceptionV1/`

A TensorFlow checkpoint becomes an .npz by the command in `checkpoint_files.TO_NPZ`, wherever TensorFlow is installed.

The two PyTorch forms have a batch norm behind each temporal convolution, which this network has not. It is folded into
the convolution: exact in evaluation, and in training a fixed scale and a trained bias take its place. Their epsilon is
1e-3, as here. kylemin averages all of a frame where torchvision and slim slide 7x7 pixels: the same at 224x224.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from d3d_edge.errors import DataError
from d3d_edge.models import names
from d3d_edge.models.checkpoint_files import first_of, read
from d3d_edge.models.names import CLASSIFIER, SLIM_SCOPE, Made, Map
from d3d_edge.models.pools import MaxPool
from d3d_edge.models.recogniser import OFFSET, SCALE
from d3d_edge.models.s3dg import MIXED, S3DG

Format = Literal["torchvision", "kylemin", "slim"]

_FRAMES: dict[Format, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "torchvision": ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)),
    "kylemin": ((0.5,) * 3, (0.5,) * 3),
    "slim": ((0.5,) * 3, (0.5,) * 3),
}
"""Mean and standard deviation of bytes / 255 that RGB frames were normalised with. torchvision: the transform of its
S3D weights (VideoClassification). The others: [-1, 1], by kylemin's `main.py` and the author of d3dhelper."""

_LEFT_BY_TRAINING = re.compile(
    r"(\.num_batches_tracked|(^|\.)n_averaged|(^|/)(global_step|beta[12]_power)|/(Momentum|Adam|RMSProp|Adagrad|Adadelta|Ftrl)(_\d+)?)$"
)
"""Of no use here, and passed over: counters, and what the optimisers of slim's training keep of each variable."""
_AVERAGED = "/ExponentialMovingAverage"
"""What slim's training may keep of a variable; its evaluation reads this instead."""
_WRAPPED = r"((module|_orig_mod|model|net|network|backbone|encoder)\.)*"
"""What parallel, compiled and other training puts before a network's own names."""


@dataclass(frozen=True)
class Published:
    """A checkpoint in the names and shapes of `S3DG`."""

    path: Path
    format: Format
    options: dict[str, Any]
    """The options of `S3DG` that the checkpoint implies, `in_channels` among them."""
    classes: int
    """Classes of the checkpoint's own classifier."""
    state: dict[str, Tensor]
    """For `S3DG.load_state_dict`, but the counters of the batch norms; without the classifier if it does not fit. In
    float32, or in float64 where the file is."""


@dataclass(frozen=True)
class Imported:
    """What was loaded into a network."""

    format: Format
    classes: int
    """Classes of the checkpoint's own classifier."""
    classifier_kept: bool
    """Otherwise the class counts differ, and the classifier is left as it was."""


def load(path: Path, classes: int | None = None) -> Published:
    """The checkpoint at `path`; its classifier is left out if it has other than `classes` classes.

    Raises:
        DataError: there is no such file, it is damaged or of no known format, names or shapes are not those of the
            format (all names are counted, the first few shown), or a tensor holds what no weight can be.
    """
    found = read(path)
    format = _format_of(found, path)
    found = _bare(found, format, path)
    made, options = _plan(found, format)
    needed = {name for source in made.values() for name in source.names}
    where = f"{path} ({format})"
    _refuse(where, missing=needed - found.keys(), unknown=found.keys() - needed)
    _check(found, where)
    found = {name: _widened(value) for name, value in found.items()}
    state = {key: _make(source, found, where) for key, source in made.items()}
    _check(state, where)  # again: what is folded may be too large where what it is made of is not
    total = len(state[f"{CLASSIFIER}.weight"])
    try:
        options |= _sizes(found, state, options)
        with torch.device("meta"):
            shapes = {key: value.shape for key, value in S3DG(total, **options).state_dict().items()}
    except ValueError as error:
        raise DataError(f"{where} implies no network known here: {error}") from error
    for key, value in state.items():
        if value.shape != shapes.get(key):
            raise DataError(
                f"{where}: {made[key].names[0]} makes {key} of shape {list(value.shape)}, "
                f"where S3D-G of width {options['width']} has {list(shapes.get(key, ()))}"
            )
    published = Published(path, format, options, total, state)
    return published if classes in (None, total) else _without_classifier(published)


def load_into(net: S3DG, path: Path, *, own_frames: bool = False) -> Imported:
    """Put the checkpoint at `path` into `net`. Another class count keeps `net`'s classifier as it is.

    own_frames    `net` is to take frames as `Recogniser` normalises them, not as the checkpoint's authors did. The
                  difference goes into the first layer; it is exact but for a border of three pixels, whose padding is
                  no longer the same colour. Flow is [-1, 1] everywhere.

    Raises:
        DataError: as `load`, or `net` is not the network of the checkpoint.
    """
    own = {key: value.shape for key, value in net.state_dict().items() if not _LEFT_BY_TRAINING.search(key)}
    published = load(path, classes=own[f"{CLASSIFIER}.bias"].numel())
    padding = cast(MaxPool, net.MaxPool_2a_3x3).padding
    if padding != published.options["padding"]:
        raise DataError(
            f"{path} ({published.format}) does not fit the network: it pads {padding!r}",
            hint=f"the checkpoint implies padding={published.options['padding']!r}",
        )
    kept = f"{CLASSIFIER}.weight" in published.state
    missing = {key for key in own.keys() - published.state.keys() if kept or not key.startswith(CLASSIFIER)}
    where = f"{path} ({published.format}) does not fit the network"
    implied = "the checkpoint implies " + ", ".join(f"{name}={value!r}" for name, value in published.options.items())
    _refuse(where, missing=missing, unknown=published.state.keys() - own.keys(), hint=implied)
    for key, value in published.state.items():
        if value.shape != own[key]:
            raise DataError(f"{where}: {key} is {list(value.shape)}, not {list(own[key])}", hint=implied)
    if own_frames:
        published = _for_own_frames(published)
    net.load_state_dict(published.state, strict=False)
    return Imported(published.format, published.classes, kept)


def _format_of(found: Iterable[str], path: Path) -> Format:
    marks: dict[Format, str] = {
        "torchvision": rf"{_WRAPPED}features\.",
        "kylemin": rf"{_WRAPPED}base\.",
        "slim": rf"(.*/)?{SLIM_SCOPE}/",
    }
    for format, mark in marks.items():
        if any(re.match(mark, name) for name in found):
            return format
    raise DataError(
        f"{path} is of no known format; it holds {first_of(found)}", hint=f"known formats: {', '.join(marks)}"
    )


def _bare(found: dict[str, Tensor], format: Format, path: Path) -> dict[str, Tensor]:
    """`found` without what training left in it, and without what stands before the format's own names."""
    found = {name: value for name, value in found.items() if not _LEFT_BY_TRAINING.search(name)}
    if format != "slim":
        first: dict[str, str] = {}
        for name in found:
            if (other := first.setdefault(re.sub(f"^{_WRAPPED}", "", name), name)) != name:
                raise DataError(f"{path} holds more than one network: {other} and {name}", hint="save one of them only")
        return {bare: found[name] for bare, name in first.items()}
    averaged = {name.removesuffix(_AVERAGED): value for name, value in found.items() if name.endswith(_AVERAGED)}
    found = {name: value for name, value in found.items() if not name.endswith(_AVERAGED)} | averaged
    before = {name.partition(f"{SLIM_SCOPE}/")[0] for name in found if f"{SLIM_SCOPE}/" in name}
    if len(before) > 1:
        raise DataError(
            f"{path} holds more than one network, below {first_of(before)}", hint="save the variables of one of them"
        )
    return {name.removeprefix(*before) if before else name: value for name, value in found.items()}


def _plan(found: dict[str, Tensor], format: Format) -> tuple[Map, dict[str, Any]]:
    """The map of the format, and the options of `S3DG` that names tell."""
    if format == "slim":
        made, options = names.slim(found), names.slim_options(found)
        return made, options | {"padding": "same", "bn_scale": names.slim_scaled(found)}
    made = names.torchvision() if format == "torchvision" else names.kylemin()
    return made, {"stem": "separable", "gating": False, "padding": "symmetric", "bn_scale": True}


def _check(tensors: Mapping[str, Tensor], where: str) -> None:
    for name, value in tensors.items():
        for fault in names.faults(name, value):
            raise DataError(f"{where}: {name} {fault}", hint="download it again, or save the network's float weights")


def _widened(value: Tensor) -> Tensor:
    """`value` in 32 bits or more: what is folded from 16 bits needs more, and may need a larger exponent too."""
    return value.float() if value.element_size() < 4 else value


def _make(source: Made, found: Mapping[str, Tensor], where: str) -> Tensor:
    first, *others = source.names
    needed = list(found[first].shape[:1])
    for name in others:
        # A single number would silently do for all outputs.
        if list(found[name].shape) != needed:
            raise DataError(f"{where}: {name} has the shape {list(found[name].shape)}, where {first} needs {needed}")
    try:
        return source.of(*(found[name] for name in source.names))
    except ValueError as error:
        raise DataError(f"{where}: {first} {error}") from error


def _sizes(found: Mapping[str, Tensor], state: Mapping[str, Tensor], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that shapes tell. Raises ValueError for frames that are neither RGB nor flow."""
    # The widest layer: rounding a channel count down moves its ratio by less than half a hundredth. Few widths have
    # three places, such as an eighth.
    full, widest = MIXED["Mixed_5c"][0], len(state["Mixed_5c.Branch_0.Conv2d_0a_1x1.spatial.bn.bias"])
    width = round(widest / full, 2 if int(full * round(widest / full, 2)) == widest else 3)
    if "stem" in options:
        stem, channels = options["stem"], state["Conv2d_1a_7x7.spatial.conv.weight"].shape[1]
    else:
        # Asked of the file's kernel, since ours has taps and channels in one axis.
        taps, _, _, channels, _ = found[f"{SLIM_SCOPE}/Conv2d_1a_7x7/weights"].shape
        stem = f"conv3d_k{taps}"
    if channels not in (2, 3):
        raise ValueError(f"in_channels is {channels}; it must be 3 for RGB or 2 for flow")
    return {"width": width, "in_channels": channels, "stem": stem}


def _without_classifier(published: Published) -> Published:
    return replace(published, state={k: v for k, v in published.state.items() if not k.startswith(CLASSIFIER)})


def _for_own_frames(published: Published) -> Published:
    """`published` for RGB frames of byte * SCALE + OFFSET; what sees flow is unchanged."""
    if published.options["in_channels"] != 3:
        return published
    mean, std = (torch.tensor(value, dtype=torch.float64) for value in _FRAMES[published.format])
    # byte = (own - OFFSET) / SCALE, and theirs = (byte / 255 - mean) / std.
    factor = 1 / (255 * SCALE * std)
    offset = (-OFFSET / (255 * SCALE) - mean) / std
    stem = "Conv2d_1a_7x7.spatial" if published.options["stem"] == "separable" else "Conv2d_1a_7x7"
    kernel = published.state[f"{stem}.conv.weight"]
    taps = kernel.double().reshape(len(kernel), -1, 3, *kernel.shape[2:])  # [O, k_t, 3, 7, 7]
    constant = (taps * offset.reshape(1, 1, 3, 1, 1)).sum((1, 2, 3, 4))
    running_mean = published.state[f"{stem}.bn.running_mean"]
    changed = {
        f"{stem}.conv.weight": (taps * factor.reshape(1, 1, 3, 1, 1)).flatten(1, 2).to(kernel.dtype),
        f"{stem}.bn.running_mean": (running_mean.double() - constant).to(running_mean.dtype),
    }
    return replace(published, state=published.state | changed)


def _refuse(where: str, *, missing: Iterable[str], unknown: Iterable[str], hint: str = "") -> None:
    wrong = [f"{first_of(keys)} {what}" for keys, what in ((missing, "missing"), (unknown, "unknown")) if keys]
    if wrong:
        raise DataError(f"{where}: {'; '.join(wrong)}", hint=hint)
