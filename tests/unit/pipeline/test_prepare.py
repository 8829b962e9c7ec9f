"""The cache is filled ahead, and its size is known before."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from d3d_edge import recipe
from d3d_edge.errors import DataError, StorageError
from d3d_edge.files import size_of
from d3d_edge.manifest import load
from d3d_edge.pipeline import prepare as module
from d3d_edge.pipeline.prepare import PrepareReport, estimate, prepare
from d3d_edge.progress import Silent
from d3d_edge.recipe import Recipe
from d3d_edge.video import rendered
from d3d_edge.video.arrays import SUFFIXES, Form


class Usage(NamedTuple):
    free: int


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty clips of 12 frames of 64x64."""
    folder = tmp_path_factory.mktemp("clips")
    rendered.render_set(folder, clips_per_class=3, seed=1, size_px=64, frames=12, workers=0, progress=Silent())
    return folder


@pytest.fixture(scope="module")
def small() -> Recipe:
    return recipe.load("demo", ["clip.frames=4", "clip.short_side=48", "clip.height=40", "clip.width=40"])


def prepared(small: Recipe, data: Path, cache: Path, **options: Any) -> PrepareReport:
    return prepare(
        small, data, cache, **({"form": "raw", "workers": 0, "strict": False, "progress": Silent()} | options)
    )


@pytest.mark.parametrize("form", ["raw", "compressed"])
def test_the_estimate_is_what_then_is_written(small: Recipe, clips: Path, tmp_path: Path, form: str) -> None:
    report = prepared(small, clips, tmp_path, form=form)
    expected = report.estimate
    assert expected is not None
    assert (expected.clips, expected.sampled, expected.encoded, expected.cached) == (30, 16, 4, 0)
    assert expected.raw_bytes == 30 * 4 * 48 * 48 * 7
    assert report.size_bytes == sum(map(size_of, tmp_path.glob("??")))  # of entries
    assert expected.needed_bytes == {"raw": expected.raw_bytes, "compressed": expected.compressed_bytes}[form]
    # Raw files have headers of 128 bytes; how well a clip can be compressed differs.
    assert report.size_bytes == pytest.approx(expected.needed_bytes, rel=0.01 if form == "raw" else 0.2)


def test_what_is_there_is_neither_needed_nor_made_again(small: Recipe, clips: Path, tmp_path: Path) -> None:
    first, second = (prepared(small, clips, tmp_path) for _ in range(2))
    assert (first.clips, first.computed, first.decoded_frames) == (30, 30, 30 * 12)
    assert first.frames_per_s == pytest.approx(first.decoded_frames / first.seconds)
    assert (second.clips, second.computed, second.decoded_frames, second.frames_per_s) == (30, 0, 0, 0)
    assert second.estimate is not None
    assert (second.estimate.cached, second.estimate.needed_bytes) == (16, 0)
    assert second.size_bytes == first.size_bytes


@pytest.mark.parametrize("left", [12, 0])
def test_clips_that_are_not_there_need_no_room(small: Recipe, clips: Path, tmp_path: Path, left: int) -> None:
    found = load(clips).clips
    gone = [clip.model_copy(update={"path": f"{clip.path}.part"}) for clip in found[left:]]
    expected = estimate([*found[:left], *gone], small, tmp_path, "raw")
    assert (expected and (expected.clips, expected.raw_bytes)) == ((left, left * 4 * 48 * 48 * 7) if left else None)


def test_as_many_are_taken_to_be_readable_as_are_of_the_sample(small: Recipe, clips: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_text("no video")
    found = load(clips).clips
    half = [clip if place % 2 else clip.model_copy(update={"path": str(broken)}) for place, clip in enumerate(found)]
    expected = estimate(half, small, tmp_path, "raw")
    assert expected is not None
    assert expected.clips == pytest.approx(15, abs=2)
    assert expected.raw_bytes == pytest.approx(15 * 4 * 48 * 48 * 7, rel=0.15)


def test_the_estimate_writes_nothing(small: Recipe, clips: Path, tmp_path: Path) -> None:
    assert estimate(load(clips).clips, small, tmp_path / "cache", "raw")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("form", ["raw", "compressed"])
def test_entries_that_are_damaged_are_needed_again(small: Recipe, clips: Path, tmp_path: Path, form: Form) -> None:
    prepared(small, clips, tmp_path, form=form)
    for path in tmp_path.glob(f"*/*.frames{SUFFIXES[form]}"):
        whole = bytearray(path.read_bytes())
        whole[len(whole) // 2] ^= 0xFF
        path.write_bytes(whole)
    expected = estimate(load(clips).clips, small, tmp_path, form)
    assert expected is not None
    assert (expected.sampled, expected.encoded, expected.cached) == (16, 4, 0)
    assert expected.needed_bytes == {"raw": expected.raw_bytes, "compressed": expected.compressed_bytes}[form]


def test_a_cache_that_links_to_itself_is_told(small: Recipe, clips: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").symlink_to("cache")
    with pytest.raises(StorageError, match="cache"):
        prepared(small, clips, tmp_path / "cache")


@pytest.mark.parametrize(("share", "hint"), [(0.9, "--compress makes it fit"), (0.01, "free some space")])
def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(
    small: Recipe, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, hint: str
) -> None:
    free = int(share * 30 * 4 * 48 * 48 * 7)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda place: Usage(free if place == tmp_path else 0))
    with pytest.raises(StorageError, match=rf"needs about 1\.9 MB more, and .*cache has .* free \({hint}"):
        prepared(small, clips, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    if share == 0.9:
        assert prepared(small, clips, tmp_path / "cache", form="compressed").computed == 30


def test_what_is_cached_does_not_count_where_compression_would_make_the_rest_fit(
    small: Recipe, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = tmp_path / "half"
    for path in sorted(clips.rglob("*.mp4"))[:15]:
        (half / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, half / path.parent.name)
    prepared(small, half, tmp_path / "cache")
    one = 4 * 48 * 48 * 7
    monkeypatch.setattr(module.shutil, "disk_usage", lambda place: Usage(13 * one))
    with pytest.raises(StorageError, match=r"--compress makes it fit"):
        prepared(small, clips, tmp_path / "cache")


def test_missing_and_damaged_files_are_counted_and_strict_stops_at_the_first(
    small: Recipe, clips: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(clips, tmp_path / "clips"))
    rows = ["path,label", *(f"{path.relative_to(data)},{path.parent.name}" for path in sorted(data.rglob("*.mp4")))]
    (data / "manifest.csv").write_text("\n".join(rows))
    (data / "grow" / "0001.mp4").unlink()
    (data / "shrink" / "0000.mp4").write_text("no video")
    report = prepared(small, data, tmp_path / "cache")
    assert (report.clips, len(report.skipped)) == (28, 2)
    assert ["No such file" in clip.reason or "is not a video" in clip.reason for clip in report.skipped] == [True, True]
    with pytest.raises(DataError, match="No such file"):
        prepared(small, data, tmp_path / "cache", strict=True)


def test_a_set_without_one_good_clip(small: Recipe, tmp_path: Path) -> None:
    for label in "ab":
        (tmp_path / "clips" / label).mkdir(parents=True)
        (tmp_path / "clips" / label / "0.mp4").write_text("no video")
    with pytest.raises(DataError, match=r"no clip of .* could be read \(.*is not a video"):
        prepared(small, tmp_path / "clips", tmp_path / "cache")


def test_training_reads_the_same_numbers_from_either_form(small: Recipe, clips: Path, tmp_path: Path) -> None:
    from d3d_edge.video import cache
    from d3d_edge.video.datasets import ClipDataset

    loaded = load(clips)
    batches = []
    for form in ("raw", "compressed"):
        prepared(small, clips, tmp_path / form, form=form)
        ready = cache.prepare(loaded.clips, small.clip, small.flow, tmp_path / form, workers=0, progress=Silent())
        assert ready.computed == 0
        batches.append(ClipDataset(ready.clips, loaded.labels, small.clip, small.augment, seed=2).batch([0, 7, 29], 1))
    for one, other in zip(*batches, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
