"""The clips that a bundle holds, with what its graph said of them: what an installation is checked by."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from d3d_edge.bundle import ANSWERS_MOVED_BY, GOLDEN_CLIPS, GOLDEN_LOGITS, Bundle, Description
from d3d_edge.errors import BundleError
from d3d_edge.target import Precision


class Golden(NamedTuple):
    """Clips, and the logits of the graph that the bundle was lowered from."""

    clips: NDArray[np.uint8]
    """[K, T, H, W, C]"""
    logits: NDArray[np.float32]
    """[K, classes]"""


def golden_of(bundle: Bundle) -> Golden:
    """Those of `bundle`.

    Raises:
        BundleError: they are missing, damaged, or not of the shapes that the manifest says.
    """
    made = bundle.manifest
    clips = _read(bundle, GOLDEN_CLIPS, np.uint8, made.clip.shape)
    logits = _read(bundle, GOLDEN_LOGITS, np.float32, made.output.shape[-1:])
    if len(clips) != len(logits):
        raise BundleError(f"{bundle.path} holds {len(clips)} golden clips and the logits of {len(logits)}", hint=_AGAIN)
    return Golden(clips, logits)


def write(folder: Path, golden: Golden) -> None:
    """Put them into the `folder` of a bundle that is being written.

    Raises:
        OSError: they cannot be written.
    """
    for name, array in ((GOLDEN_CLIPS, golden.clips), (GOLDEN_LOGITS, golden.logits)):
        # np.save to a path hides a full disk; through memory the file system's own error comes.
        buffer = io.BytesIO()
        np.save(buffer, array)
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(buffer.getbuffer())


MOVED = ANSWERS_MOVED_BY + "noise"
"""The most that a logit of the graph moves by where each byte of the clips moves by one or none, in what a bundle's
manifest says of lowering."""
ROUNDED = ANSWERS_MOVED_BY + "int8_weights"
"""The most that a logit of the graph moves by where its weights are rounded to INT8."""
HALVED = ANSWERS_MOVED_BY + "float16"
"""The same where weights and all numbers between operators are rounded to float16."""
_TIMES = {MOVED: 8, ROUNDED: 2, HALVED: 2}
"""One number rounded the other way goes through the layers behind it as noise does, which some students, untrained ones
above all, carry further than what they see. A few move the logits by about as much as noise in every byte of the clip,
here and there by more. Of weights and of float16 it is known how each is rounded."""
_SHARE: dict[Precision, float] = {"float32": 0.01, "float16": 0.05}
_SHARE_INT8 = 0.25
"""Of what the clips change a logit by. TensorRT multiplies float32 with 10 bits (TF32), and an iPhone sums float16 in
float16."""
_HELD: dict[Precision, float] = {"float32": 1e-4, "float16": 2e-3}
_HELD_INT8 = 0.02
"""Of the largest logit: how well the precision holds it, where clips change nothing."""


def told_apart(difference: float, stored: NDArray[np.float32], made: Description) -> bool:
    """Whether the `stored` logits [K, classes] and those of the file of a bundle, `made` so, are further apart than any
    rounding brings them."""
    return not difference <= most_apart(stored, made)  # Not a number is above no bound and below none.


def most_apart(stored: NDArray[np.float32], made: Description) -> float:
    """How far rounding may bring the logits of the file of a bundle, `made` so, from the `stored` ones [K, classes].

    What one class lies above another for every clip alike is no measure: it hides what the clips say.
    """
    changed = np.ptp(stored, axis=0).max() if len(stored) > 1 else np.ptp(stored)
    rounding = [times * float(made.lowering[fact]) for fact, times in _TIMES.items() if fact in made.lowering]
    # Bundles of older versions do not say what rounding does.
    share = _SHARE.get(made.precision, 0.0 if rounding else _SHARE_INT8)
    return max(
        *rounding,
        share * float(changed),
        _HELD.get(made.precision, _HELD_INT8) * float(np.abs(stored).max()),
    )


_AGAIN = "export the bundle again"


def _read(bundle: Bundle, name: str, dtype: type[np.generic], shape: tuple[int, ...]) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(bundle.path / name, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BundleError(f"{bundle.path}: {name} is missing or damaged", hint=_AGAIN) from error
    wanted = f"{np.dtype(dtype)} [K, {', '.join(map(str, shape))}]"
    if array.dtype != dtype or array.shape[1:] != tuple(shape) or not len(array):
        raise BundleError(f"{bundle.path}: {name} is {array.dtype} {list(array.shape)}, not {wanted}", hint=_AGAIN)
    if not np.isfinite(array).all():
        raise BundleError(f"{bundle.path}: {name} holds numbers that are not finite", hint=_AGAIN)
    return array
