"""d3d-edge prepare: the clips of a data set decoded into the cache, ahead of training."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from d3d_edge import manifest
from d3d_edge.clip import ClipSpec
from d3d_edge.errors import DataError, StorageError
from d3d_edge.manifest import Clip, Source
from d3d_edge.pipeline.notes import note_left_aside, note_skipped
from d3d_edge.progress import Progress
from d3d_edge.recipe import Recipe
from d3d_edge.report import SkippedClip
from d3d_edge.schema import Schema
from d3d_edge.video import arrays, cache
from d3d_edge.video.arrays import Form
from d3d_edge.video.decode import first_frame
from d3d_edge.video.hashes import Hashed, Hashes
from d3d_edge.video.preprocess import resize_short_side
from d3d_edge.workers import PROCESSES

_SAMPLED = 16
"""Clips whose size stands for all: the frames' shape differs with the videos' aspect ratio only."""
_ENCODED = 4
"""Of these, the clips that are decoded and compressed for the estimate."""


class Estimate(Schema):
    """The size of the cache, from a sample of the clips."""

    clips: int
    """Those that can be read, as far as their files and the sample tell."""
    sampled: int
    """Clips behind the estimate, evenly spread over the set; those that cannot be read are not counted."""
    encoded: int
    """Of these, the clips that were compressed for it."""
    cached: int
    """Of these, the clips whose entries were there."""
    raw_bytes: int
    """All entries, raw."""
    compressed_bytes: int
    """All entries, compressed."""
    needed_bytes: int
    """What is still to be written, in the form asked for."""
    free_bytes: int
    """Free space where the cache is."""


class PrepareReport(Schema):
    """What `prepare` did."""

    recipe: str
    cache: str
    form: Form
    """Of new entries; older ones are read in the form they have."""
    engine: str
    workers: int
    estimate: Estimate | None
    """Null where no clip of the sample could be read."""
    clips: int
    """Clips that are ready."""
    computed: int
    """Of these, new ones."""
    skipped: tuple[SkippedClip, ...]
    size_bytes: int
    """Bytes of the entries of all clips that are ready."""
    decoded_frames: int
    """Frames of videos decoded for the new entries."""
    seconds: float
    frames_per_s: float
    """Decoded frames in a second, with all that is done with them; 0 where nothing was new."""


def prepare(
    recipe: Recipe,
    data: Path | Source,
    cache_dir: Path,
    *,
    form: Form,
    workers: int,
    engine: str = PROCESSES,
    verify: bool = False,
    strict: bool,
    progress: Progress,
) -> PrepareReport:
    """Fill the cache for `recipe` with all clips of `data`, of every split.

    What is there already is kept; with `verify` it is read first, and made anew if it is damaged.

    Raises:
        DataError: the data cannot be used; a clip cannot be read and `strict` is given, or none can.
        StorageError: the cache will not fit on its disk, or cannot be written.
        MissingDependency: the engine's package is not installed.
    """
    found = manifest.load(data)
    note_left_aside(data, found, progress)
    clips = found.clips
    expected = estimate(clips, recipe, cache_dir, form)
    if expected is None:
        progress.note("the size of the cache cannot be estimated: no clip of the sample can be read")
    else:
        progress.note(text_of(expected))
        refuse_too_large(expected, cache_dir, form)
    began = time.perf_counter()
    made = cache.prepare(
        clips,
        recipe.clip,
        recipe.flow,
        cache_dir,
        workers=workers,
        progress=progress,
        strict=strict,
        form=form,
        engine=engine,
        verify=verify,
    )
    seconds = time.perf_counter() - began
    skipped = made.skipped
    note_skipped(skipped, progress)
    if not made.clips:
        raise DataError(f"no clip of {data} could be read", hint=skipped[0].reason)
    return PrepareReport(
        recipe=recipe.name,
        cache=str(cache_dir),
        form=form,
        engine=engine,
        workers=workers,
        estimate=expected,
        clips=len(made.clips),
        computed=made.computed,
        skipped=skipped,
        # Copies of one video share an entry.
        size_bytes=sum({entry.frames_path: entry.size_bytes for entry in made.clips}.values()),
        decoded_frames=made.decoded,
        seconds=seconds,
        frames_per_s=made.decoded / seconds,
    )


class _Size(NamedTuple):
    raw_bytes: int
    compressed_bytes: int | None
    """None where the clip was not compressed."""
    cached: bool


def estimate(clips: Sequence[Clip], recipe: Recipe, cache_dir: Path, form: Form) -> Estimate | None:
    """The size of the cache of `clips`, from a sample of those whose file is there; None if no clip of it can be read.

    As large a part of the others is taken to be readable as is of the sample. Writes nothing. Of what the cache holds,
    an entry that is damaged is deleted (`arrays.read`).
    """
    clips = [clip for clip in clips if os.path.isfile(clip.path)]
    places = sorted({place * len(clips) // _SAMPLED for place in range(_SAMPLED)}) if clips else []
    sizes: list[_Size] = []
    hashes = Hashes(cache_dir)
    for place in places:
        encode = sum(size.compressed_bytes is not None for size in sizes) < _ENCODED
        try:
            known = hashes.of(clips[place].path)
            sizes.append(_size(clips[place], known, recipe, cache_dir, form, encode))
        except DataError:
            continue  # said when it is skipped
    if not sizes:
        return None
    encoded = [(size.raw_bytes, size.compressed_bytes) for size in sizes if size.compressed_bytes is not None]
    ratio = sum(size for _, size in encoded) / sum(size for size, _ in encoded)
    raw_bytes = sum(size.raw_bytes for size in sizes) / len(places) * len(clips)
    new = sum(size.raw_bytes for size in sizes if not size.cached) / len(places) * len(clips)
    return Estimate(
        clips=round(len(clips) * len(sizes) / len(places)),
        sampled=len(sizes),
        encoded=len(encoded),
        cached=sum(size.cached for size in sizes),
        raw_bytes=round(raw_bytes),
        compressed_bytes=round(raw_bytes * ratio),
        needed_bytes=round(new * (ratio if form == "compressed" else 1)),
        free_bytes=_free_bytes(cache_dir),
    )


def _size(clip: Clip, known: Hashed | None, recipe: Recipe, cache_dir: Path, form: Form, encode: bool) -> _Size:
    found = cache.find(clip, recipe.clip, recipe.flow, cache_dir, form, known)
    if found.whole:
        with suppress(DataError):  # damaged: made anew
            return _size_of(found.entry.frames(), found.entry.flow(), encode, cached=True)
    if encode:
        made = cache.compute(clip, recipe.clip, recipe.flow)
        return _size_of(made.frames, made.flow, encode, cached=False)
    return _Size(_raw_bytes(Path(clip.path), recipe.clip), None, False)


def _raw_bytes(path: Path, clip_spec: ClipSpec) -> int:
    """Bytes of a raw entry of the video at `path`, by the size of its first frame: three of colour and four of flow a
    pixel.

    Raises:
        DataError: it is not a video.
    """
    height, width, _ = resize_short_side(first_frame(path), clip_spec).shape
    return clip_spec.frames * int(height) * int(width) * 7


def _size_of(frames: NDArray[np.uint8], flow: NDArray[np.float16], encode: bool, *, cached: bool) -> _Size:
    compressed = sum(len(arrays.png_of(array)) for array in (frames, flow)) if encode else None
    return _Size(frames.nbytes + flow.nbytes, compressed, cached)


def _free_bytes(folder: Path) -> int:
    """Free space on the disk that `folder` is, or will be, on."""
    place = Path(os.path.realpath(folder))
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def refuse_too_large(expected: Estimate, cache_dir: Path, form: Form) -> None:
    """An error where what is to be written, in that form, does not fit.

    Raises:
        StorageError: it does not.
    """
    if expected.needed_bytes <= expected.free_bytes:
        return
    compressed_bytes = expected.needed_bytes * expected.compressed_bytes / expected.raw_bytes
    smaller = form == "raw" and compressed_bytes < expected.free_bytes
    raise StorageError(
        f"the cache needs about {gigabytes(expected.needed_bytes)} more, and {cache_dir} has "
        f"{gigabytes(expected.free_bytes)} free",
        hint="--compress makes it fit" if smaller else "free some space, or choose another --cache",
    )


def text_of(expected: Estimate) -> str:
    """The estimate in a line, with what it rests on."""
    cached = f", {expected.cached} of them in the cache" if expected.cached else ""
    return (
        f"{expected.clips} clips: about {gigabytes(expected.raw_bytes)} raw, {gigabytes(expected.compressed_bytes)} "
        f"compressed; {gigabytes(expected.needed_bytes)} to write, {gigabytes(expected.free_bytes)} free (estimated: "
        f"frames of the recipe's size for {expected.sampled} clips{cached}, {expected.encoded} of them compressed)"
    )


def gigabytes(size_bytes: float) -> str:
    """A size to read: GB, or MB below one."""
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.1f} MB"
