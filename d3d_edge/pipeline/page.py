"""d3d-edge report: one HTML page of what runs and bundles hold, with pictures where the clips are at hand."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from d3d_edge import page
from d3d_edge.bundle import check_output
from d3d_edge.clip import ClipSpec
from d3d_edge.errors import DataError, RecipeError, StorageError
from d3d_edge.files import write_text
from d3d_edge.manifest.clips import place_of
from d3d_edge.page.material import gather
from d3d_edge.page.views import changed_keys
from d3d_edge.video.preprocess import load_clip

_FRAMES = 4
"""Frames of a clip beside one another: motion is in their differences."""
_SIDE_PX = 112
_MOST = 60
"""Clips with pictures; each takes about 12 kB of the page."""


class Written(NamedTuple):
    """What to know about a page."""

    pictures: int
    """Clips that are shown in it."""
    outdated: list[str]
    """What in it was measured on another model than its bundle holds now."""


def write_page(paths: Sequence[Path], out: Path, data: Path | None) -> Written:
    """Write the page of the runs and bundles at `paths`.

    `data`: the folder of the clips; without it there are no pictures.

    Raises:
        RecipeError: something else is at `out`, or it lies in a bundle.
        DataError: a path holds neither a run nor a bundle, what it holds is unreadable, or `data` is no folder.
        BundleError: a bundle is damaged.
        StorageError: the page cannot be written.
    """
    check_output(out, "--html")
    _refuse_other_file(out)
    if data is not None and not data.is_dir():
        raise DataError(f"{data} is not a folder", hint="--data takes the folder that the clips' paths start from")
    material = gather(paths)
    pictures = {}
    if data is not None:
        for key in changed_keys(material)[:_MOST]:
            with suppress(DataError):  # a clip that is not at hand has no picture
                pictures[key] = _picture(data, key)
    write_text(out, page.render(material, pictures))
    return Written(len(pictures), material.outdated)


def _refuse_other_file(out: Path) -> None:
    """A page may replace a page, but no report."""
    try:
        if not out.is_file():
            return
        with out.open("rb") as file:
            start = file.read(64)
    except OSError as error:  # a name that is too long
        raise StorageError.of(out, error) from error
    if start and not start.lstrip().lower().startswith(b"<!doctype html"):
        raise RecipeError(f"{out} exists and is no page", hint="choose another name with --html")


def _picture(data: Path, key: str) -> str:
    """Some frames of a clip beside one another, as the data URI of a JPEG."""
    spec = ClipSpec(
        frames=_FRAMES,
        sampling="uniform",
        short_clips="repeat_last",
        short_side=_SIDE_PX,
        interpolation="area",
        height=_SIDE_PX,
        width=_SIDE_PX,
        crop="center",
        colour="rgb",
        layout="THWC",
        dtype="uint8",
    )
    path, start_s, end_s = place_of(key)
    frames = load_clip(data / path, spec, start_s=start_s, end_s=end_s)
    good, encoded = cv2.imencode(".jpg", np.hstack(list(frames))[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])
    if not good:
        raise DataError(f"{path} cannot be shown")
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()
