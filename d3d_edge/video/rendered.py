"""A labelled set of small rendered videos whose classes differ by motion alone, to try the whole tool on.

By construction one frame has the same distribution in every class: the place is uniform on a torus (what leaves on one
side comes in on the other), the angle is uniform, the size is that of a random moment of a growth, and shape, textures
and background are drawn without looking at the class. Knows nothing of training.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from d3d_edge.errors import DataError
from d3d_edge.files import atomic_file, read_json, write_json
from d3d_edge.progress import Progress
from d3d_edge.video.decode import Frame, count_frames

FRAME_RATE_HZ = 25.0
_RADIUS = (0.1, 0.48)
"""Smallest and largest radius of the object, in sides of the frame. Below 0.5, or it would meet itself on the torus."""
_SPRITE_PX = 128
_NOTE = "rendered.json"
"""The settings, beside the clips."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Pose:
    """Where the object is. Place and angle are modulo 1, so adding a motion to a uniform start leaves it uniform."""

    x: Floats
    """Sides of the frame, to the right; one value a frame, as in the other fields."""
    y: Floats
    """Sides of the frame, down."""
    turn: Floats
    """Full turns, clockwise."""
    size: Floats
    """Place between the smallest (0) and the largest (1) radius."""


Path1D = Callable[[Floats, np.random.Generator], Floats]


def _steady(slowest: float, fastest: float) -> Path1D:
    """`slowest` to `fastest` units over the whole video, at one speed."""
    return lambda time, rng: time * rng.uniform(slowest, fastest)


def _swing(time: Floats, rng: np.random.Generator) -> Floats:
    """1 to 1.75 swings to and fro over the whole video, each as wide as 0.14 to 0.22 sides either way."""
    return rng.uniform(0.14, 0.22) * np.sin(2 * np.pi * (time * rng.uniform(1, 1.75) + rng.uniform()))


def _growth(time: Floats, rng: np.random.Generator) -> Floats:
    """From small to large, more or less of the growth in the beginning, so that no moment has a size of its own."""
    small, large = rng.uniform(0, 0.1), rng.uniform(0.9, 1)
    return small + (large - small) * time ** (2 ** rng.uniform(-2, -0.5))


_MOTIONS: dict[str, tuple[str, Path1D | None]] = {
    "grow": ("size", None),
    "move_down": ("y", _steady(0.4, 0.9)),
    "move_left": ("x", _steady(-0.9, -0.4)),
    "move_right": ("x", _steady(0.4, 0.9)),
    "move_up": ("y", _steady(-0.9, -0.4)),
    "rotate_left": ("turn", _steady(-0.65, -0.4)),
    "rotate_right": ("turn", _steady(0.4, 0.65)),
    "shrink": ("size", None),
    "swing_horizontal": ("x", _swing),
    "swing_vertical": ("y", _swing),
}
"""What changes in each class, and how; None is growth."""
CLASSES = tuple(_MOTIONS)
"""Names of the classes, sorted."""


def render_set(
    folder: Path, *, clips_per_class: int, seed: int, size_px: int, frames: int, workers: int, progress: Progress
) -> None:
    """Write `folder/<class>/<number>.mp4` for every class, with square frames of `size_px` and `frames` of them.

    A clip depends on (seed, class, number, size_px, frames) alone. A file that is there is kept, so a render that was
    killed goes on where it stood, and asking for more clips adds the missing ones.

    Raises:
        DataError: `folder` holds a set rendered with other settings, or this OpenCV cannot write the videos.
        StorageError: a file cannot be written.
    """
    _claim(folder, {"seed": seed, "size_px": size_px, "frames": frames})
    wanted = [(name, number) for name in CLASSES for number in range(clips_per_class)]
    missing = [clip for clip in wanted if not _file(folder, *clip).exists()]

    def write(clip: tuple[str, int]) -> None:
        _write_video(_file(folder, *clip), render_clip(*clip, seed=seed, size_px=size_px, frames=frames))

    # Threads are enough: most of the time goes into OpenCV, which lets the others run.
    bar = progress.task("render clips", total=len(wanted), done=len(wanted) - len(missing))
    with bar as task, ThreadPoolExecutor(max(workers, 1)) as pool:
        for _ in pool.map(write, missing):
            task.advance()


def is_set(folder: Path) -> bool:
    """Whether `folder` is one that `render_set` writes to, or wrote to."""
    return (folder / _NOTE).exists()


def render_clip(name: str, number: int, *, seed: int, size_px: int, frames: int) -> list[Frame]:
    """The frames of one clip of class `name`: uint8 [size_px, size_px, 3] RGB each."""
    rng = np.random.default_rng([seed, CLASSES.index(name), number])
    background = _texture(size_px, int(rng.integers(4, 9)), rng)
    sprite = _sprite(rng)
    time = np.linspace(0, 1, frames)
    x, y, turn, moment = rng.uniform(size=4)
    course = {axis: np.full(frames, value) for axis, value in (("x", x), ("y", y), ("turn", turn))}
    growth = _growth(time, rng)
    # A class without growth keeps a size that growth would have at some moment.
    course["size"] = np.full(frames, np.interp(moment, time, growth))
    axis, motion = _MOTIONS[name]
    if motion is None:
        course[axis] = growth if name == "grow" else growth[::-1]
    else:
        course[axis] = (course[axis] + motion(time, rng)) % 1
    pose = Pose(**course)
    return [_drawn(background, sprite, pose, at) for at in range(frames)]


def _drawn(background: npt.NDArray[np.float32], sprite: npt.NDArray[np.float32], pose: Pose, at: int) -> Frame:
    """The object over the background, wrapped around the borders."""
    side = len(background)
    smallest, largest = _RADIUS
    radius = side * (smallest + (largest - smallest) * pose.size[at])
    # The sprite is turned and scaled about the middle of the frame, shifted by the fraction of a pixel there, and
    # rolled by whole pixels, which is what wraps it.
    x, y = pose.x[at] * side, pose.y[at] * side
    half = (_SPRITE_PX - 1) / 2
    matrix = cv2.getRotationMatrix2D((half, half), -360 * pose.turn[at], 2 * radius / _SPRITE_PX)
    matrix[:, 2] += (side // 2 + x % 1 - half, side // 2 + y % 1 - half)
    shift = (int(y) - side // 2, int(x) - side // 2)
    placed = np.roll(cv2.warpAffine(sprite, matrix, (side, side)), shift, axis=(0, 1))
    image = background + placed[..., 3:] * (placed[..., :3] - background)
    return np.rint(image).astype(np.uint8)


def _sprite(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """A textured shape with a soft edge: float32 [h, w, 4], RGB in 0 to 255 and alpha in 0 to 1."""
    angle = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    radius = 1 + rng.uniform(0.15, 0.4) * np.sin(rng.integers(2, 5) * angle + rng.uniform(0, 2 * np.pi))
    radius *= 0.46 * _SPRITE_PX / radius.max()
    points = np.stack([np.cos(angle), np.sin(angle)], axis=1) * radius[:, None] + _SPRITE_PX / 2
    mask = np.zeros((_SPRITE_PX, _SPRITE_PX), np.float32)
    cv2.fillPoly(mask, [np.rint(points).astype(np.int32)], 1.0)
    alpha = cv2.GaussianBlur(mask, (0, 0), 1.5)
    return np.dstack([_texture(_SPRITE_PX, int(rng.integers(3, 6)), rng), alpha]).astype(np.float32)


def _texture(side_px: int, cells: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Smooth noise of `cells` cells a side between two random colours: float32 [side, side, 3] in 0 to 255, seamless
    on the torus."""
    noise = np.tile(rng.normal(size=(cells, cells)).astype(np.float32), (3, 3))
    smooth = cv2.resize(noise, (3 * side_px, 3 * side_px), interpolation=cv2.INTER_CUBIC)
    blend = 1 / (1 + np.exp(-3 * smooth[side_px : 2 * side_px, side_px : 2 * side_px, None]))
    dark, light = rng.uniform(0, 130, 3), rng.uniform(120, 255, 3)
    return np.asarray(dark + (light - dark) * blend, dtype=np.float32)


def _write_video(path: Path, frames: list[Frame]) -> None:
    """Write `frames` as MPEG-4 part 2, which every OpenCV build encodes; the file appears whole or not at all."""
    height, width = frames[0].shape[:2]
    # OpenCV picks the container by the suffix, so the file is made aside and then copied under its partial name.
    with tempfile.TemporaryDirectory() as scratch_dir, atomic_file(path) as partial:
        scratch = Path(scratch_dir) / path.name
        fourcc = cv2.VideoWriter.fourcc(*"mp4v")
        writer = cv2.VideoWriter(str(scratch), cv2.CAP_FFMPEG, fourcc, FRAME_RATE_HZ, (width, height))
        for frame in frames:
            writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        writer.release()
        if count_frames(scratch) != len(frames):
            raise DataError(
                f"OpenCV wrote an incomplete video {scratch}", hint="is the folder for temporary files full?"
            )
        shutil.copyfile(scratch, partial)


def _file(folder: Path, name: str, number: int) -> Path:
    return folder / name / f"{number:04d}.mp4"


def _claim(folder: Path, settings: dict[str, int]) -> None:
    """Note the settings beside the clips; refuse a folder that was rendered with others."""
    note = folder / _NOTE
    try:
        found = read_json(note)
    except FileNotFoundError:
        write_json(note, settings)
        return
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {note}: {error}") from error
    if found != settings:
        raise DataError(f"{folder} holds clips rendered with {found}, not {settings}", hint="choose another folder")
