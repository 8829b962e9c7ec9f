"""The reference of ClipSpec in numpy and OpenCV: from a video file to the exact bytes the model takes.

Every app and every runtime is compared with this file. Must not augment or normalise: the model normalises inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import cv2
import numpy as np
import numpy.typing as npt

from d3d_edge.clip import ClipSpec
from d3d_edge.errors import DataError
from d3d_edge.video import decode
from d3d_edge.video.decode import Frame, Span

_INTERPOLATION = {"area": cv2.INTER_AREA, "bilinear": cv2.INTER_LINEAR}
Scalar = TypeVar("Scalar", bound="np.generic[Any]")


class TooFewFrames(DataError):
    """A clip needs more frames than there are."""


class Part(NamedTuple):
    """Which of several clips of one video."""

    number: int
    """From 0."""
    of: int


WHOLE = Part(0, 1)


def frame_indices(count: int, spec: ClipSpec, part: Part = WHOLE) -> list[int]:
    """Which T frames of a video with `count` frames make the clip, in rising order.

    uniform: the centres of T equal parts, floor((i + 0.5) * count / T). dense: every stride-th frame, the run centred.
    A video with too few frames is read from its start, and its last frame is held, where the spec allows it.
    Of several clips, uniform ones lie between one another's frames, each over the whole video; dense ones are spread
    over the video, (number + 0.5) / of of the way.

    Raises:
        TooFewFrames: there are no frames, or too few and the spec refuses short clips.
    """
    if count < 1:
        raise TooFewFrames("there are no frames")
    step = spec.stride or 1
    if count < spec.frames_needed:
        if spec.short_clips == "refuse":
            raise TooFewFrames(
                f"there are {count} frames, and a clip needs {spec.frames_needed}",
                hint="clip.short_clips: repeat_last holds the last frame",
            )
        return [min(i * step, count - 1) for i in range(spec.frames)]
    if spec.stride is None:
        places = range(part.number, spec.frames * part.of, part.of)
        return [(2 * place + 1) * count // (2 * spec.frames * part.of) for place in places]
    start = (count - spec.frames_needed) * (2 * part.number + 1) // (2 * part.of)
    return [start + i * step for i in range(spec.frames)]


def resize_short_side(frame: Frame, spec: ClipSpec) -> Frame:
    """`frame` uint8 [h, w, 3] scaled to `spec.short_side` pixels on its shorter side, the other rounded half up."""
    short = min(frame.shape[:2])
    height, width = ((2 * side * spec.short_side + short) // (2 * short) for side in frame.shape[:2])
    if (height, width) == frame.shape[:2]:
        return frame
    resized = cv2.resize(frame, (width, height), interpolation=_INTERPOLATION[spec.interpolation])
    return np.asarray(resized, dtype=np.uint8)


def centre_crop(frames: npt.NDArray[Scalar], spec: ClipSpec) -> npt.NDArray[Scalar]:
    """The middle H x W of [..., h, w, C]; where it cannot be exact, the odd pixel is left over below and right.

    Raises:
        DataError: the frames are smaller than the crop.
    """
    check_crop(frames.shape, spec)
    height, width = frames.shape[-3:-1]
    top, left = (height - spec.height) // 2, (width - spec.width) // 2
    return frames[..., top : top + spec.height, left : left + spec.width, :]


def check_crop(shape: Sequence[int], spec: ClipSpec) -> None:
    """Refuse frames [..., h, w, C] that are smaller than the crop.

    Raises:
        DataError: they are.
    """
    height, width = shape[-3:-1]
    if height < spec.height or width < spec.width:
        raise DataError(
            f"after the resize the frames are {width}x{height}, and the crop of {spec.width}x{spec.height} "
            "(width x height) does not fit",
            hint="a larger clip.short_side, or a smaller crop",
        )


def mirrored(frames: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
    """A copy of [..., h, w, C] mirrored left to right. OpenCV's flip takes a tenth of numpy's time for it."""
    rows = np.ascontiguousarray(frames).reshape(-1, *frames.shape[-2:])
    return cast("npt.NDArray[Scalar]", cv2.flip(rows, 1)).reshape(frames.shape)


def load_frames(
    path: Path, spec: ClipSpec, part: Part = WHOLE, *, start_s: float | None = None, end_s: float | None = None
) -> npt.NDArray[np.uint8]:
    """The sampled frames, resized and not cropped: uint8 [T, h, w, 3], where h or w is the short side.

    With `start_s` or `end_s`, they are sampled from the frames at start_s <= time < end_s instead of the whole video.

    Raises:
        DataError: the video cannot be decoded, is too short, changes its frame size, or is too narrow for the crop.
            The message names the file.
    """
    return read_clip(path, spec, part, start_s=start_s, end_s=end_s)[0]


def read_clip(
    path: Path,
    spec: ClipSpec,
    part: Part = WHOLE,
    *,
    start_s: float | None = None,
    end_s: float | None = None,
    resize: Callable[[Frame, ClipSpec], Frame] = resize_short_side,
) -> tuple[npt.NDArray[np.uint8], int]:
    """What `load_frames` gives, and the number of frames that were decoded for it. `resize` can be watched.

    Raises:
        DataError: as `load_frames`.
    """

    def indices(count: int) -> list[int]:
        with naming(path):
            return frame_indices(count, spec, part)

    span = Span(start_s or 0.0, math.inf if end_s is None else end_s)
    frames, decoded = decode.read_frames(path, indices, lambda frame: resize(frame, spec), span)
    if len({frame.shape for frame in frames}) > 1:
        raise DataError(f"{path}: the frame size changes within the video")
    stacked = np.stack(frames)
    with naming(path):
        check_crop(stacked.shape, spec)  # refused now, not in the middle of a training run
    return stacked, decoded


def load_clip(
    path: Path, spec: ClipSpec, *, start_s: float | None = None, end_s: float | None = None
) -> npt.NDArray[np.uint8]:
    """The clip the model takes: uint8 [T, H, W, 3] RGB, sampled, resized and centre-cropped.

    Raises:
        DataError: as `load_frames`.
    """
    frames = load_frames(path, spec, start_s=start_s, end_s=end_s)
    return np.ascontiguousarray(centre_crop(frames, spec))


@contextmanager
def naming(video: Path | str) -> Iterator[None]:
    """Put the name of the video in front of a DataError that does not know it, of whatever class it is."""
    try:
        yield
    except DataError as error:
        raise type(error)(f"{video}: {error.message}", hint=error.hint) from error
