from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import pytest

from d3d_edge.clip import ClipSpec, FlowSpec
from d3d_edge.errors import DataError, StorageError
from d3d_edge.files import sha256_of_file
from d3d_edge.manifest import Clip
from d3d_edge.video import arrays, cache
from d3d_edge.video.arrays import Form
from d3d_edge.video.flow import flow_of_frames
from d3d_edge.video.preprocess import load_frames
from tests.unit.video.samples import prepared, spec_of


def written(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.glob("??/*") if path.is_file()}


def test_an_entry_holds_frames_and_flow(clips: list[Clip], tmp_path: Path, spec: ClipSpec, flow_spec: FlowSpec) -> None:
    result = prepared(clips, tmp_path / "c", spec, flow_spec)
    assert (result.computed, len(result.clips), result.skipped) == (3, 3, ())
    assert [cached.clip for cached in result.clips] == clips
    cached = result.clips[1]
    assert cached.video_sha256 == sha256_of_file(Path(clips[1].path))
    frames = load_frames(Path(clips[1].path), spec)
    np.testing.assert_array_equal(cached.frames(), frames)
    assert cached.flow().dtype == np.float16
    np.testing.assert_allclose(cached.flow(), flow_of_frames(frames, flow_spec), atol=1e-3)
    assert not cached.flow().flags.writeable
    assert not cached.frames().flags.writeable


def test_a_second_run_computes_nothing(
    clips: list[Clip], tmp_path: Path, spec: ClipSpec, flow_spec: FlowSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepared(clips, tmp_path / "c", spec, flow_spec)
    before = written(tmp_path / "c")
    monkeypatch.delattr(cache, "read_clip")
    second = prepared(clips, tmp_path / "c", spec, flow_spec)
    assert second.computed == 0
    assert second.clips == first.clips
    assert written(tmp_path / "c") == before


def test_a_copied_video_shares_its_entry(
    clips: list[Clip], tmp_path: Path, spec: ClipSpec, flow_spec: FlowSpec
) -> None:
    copy = shutil.copy(clips[0].path, tmp_path / "copy.mp4")
    twin = Clip(path=str(copy), label="other", split="test", group="copy")
    result = prepared([clips[0], twin], tmp_path / "c", spec, flow_spec)
    assert result.computed == 1
    assert result.clips[0].frames_path == result.clips[1].frames_path
    assert result.clips[1].clip.label == "other"


@pytest.mark.parametrize(
    "change", [{"frames": 6}, {"sampling": "dense", "stride": 1}, {"short_side": 44}, {"interpolation": "bilinear"}]
)
def test_another_spec_is_another_entry(
    clips: list[Clip], tmp_path: Path, spec: ClipSpec, flow_spec: FlowSpec, change: dict[str, Any]
) -> None:
    first = prepared(clips[:1], tmp_path / "c", spec, flow_spec)
    second = prepared(clips[:1], tmp_path / "c", spec_of(**change), flow_spec)
    assert second.computed == 1
    assert second.clips[0].frames_path != first.clips[0].frames_path


def test_another_flow_is_another_entry_and_another_crop_is_not(
    clips: list[Clip], tmp_path: Path, spec: ClipSpec, flow_spec: FlowSpec
) -> None:
    prepared(clips, tmp_path / "c", spec, flow_spec)
    assert prepared(clips, tmp_path / "c", spec_of(height=24, width=32), flow_spec).computed == 0
    assert prepared(clips, tmp_path / "c", spec, flow_spec.model_copy(update={"bound_px": 5.0})).computed == 3


def test_a_crop_that_does_not_fit_is_refused_for_cached_clips_too(
    clips: list[Clip], tmp_path: Path, spec: ClipSpec, flow_spec: FlowSpec
) -> None:
    prepared(clips, tmp_path / "c", spec, flow_spec)
    with pytest.raises(DataError, match=r"0\.mp4: .* does not fit"):
        prepared(clips, tmp_path / "c", spec_of(width=100), flow_spec, strict=True)


def test_bad_clips_are_skipped_and_named_or_raised(
    clips: list[Clip], tmp_path: Path, spec: ClipSpec, flow_spec: FlowSpec
) -> None:
    Path(clips[0].path).write_text("no video")
    Path(clips[2].path).unlink()
    result = prepared(clips, tmp_path / "c", spec, flow_spec)
    assert [cached.clip for cached in result.clips] == [clips[1]]
    assert [skipped.path for skipped in result.skipped] == [clips[0].path, clips[2].path]
    assert "is not a video" in result.skipped[0].reason
    assert "No such file" in result.skipped[1].reason
    with pytest.raises(DataError, match=r"0\.mp4 is not a video"):
        prepared(clips, tmp_path / "c", spec, flow_spec, strict=True)


@pytest.mark.parametrize("damage", ["empty", "cut", "longer", "garbled", "other", "gone"])
def test_a_damaged_entry_is_made_again(
    clips: list[Clip], tmp_path: Path, spec: ClipSpec, flow_spec: FlowSpec, damage: str
) -> None:
    entry = prepared(clips, tmp_path / "c", spec, flow_spec).clips[1]
    for path in (entry.frames_path, entry.flow_path):
        good = path.read_bytes()
        if damage == "other":
            np.save(path, np.zeros((8, 48, 60, 1), np.int32))
        elif damage == "gone":
            path.unlink()
        else:
            bad = {"empty": b"", "cut": good[:-1], "longer": good + b"x", "garbled": good[:10] + b"({[" + good[13:]}
            path.write_bytes(bad[damage])
        assert prepared(clips, tmp_path / "c", spec, flow_spec).computed == 1
        assert path.read_bytes() == good


def test_parts_of_a_video_are_entries_of_their_own(
    clips: list[Clip], tmp_path: Path, spec: ClipSpec, flow_spec: FlowSpec
) -> None:
    parts = [clips[0].model_copy(update={"end_s": 8 / 25}), clips[0].model_copy(update={"start_s": 4 / 25})]
    result = prepared([clips[0], *parts, parts[1]], tmp_path / "c", spec, flow_spec)
    assert result.computed == 3
    assert len({entry.frames_path for entry in result.clips}) == len({entry.content for entry in result.clips}) == 3
    for entry in result.clips:
        clip = entry.clip
        frames = load_frames(Path(clip.path), spec, start_s=clip.start_s, end_s=clip.end_s)
        np.testing.assert_array_equal(entry.frames(), frames)
    late = clips[0].model_copy(update={"start_s": 9.0})
    (skipped,) = prepared([late], tmp_path / "c", spec, flow_spec).skipped
    assert skipped.path == f"{clips[0].path}#t=9"
    assert "has no frame from 9 s: its last is at 0.440 s" in skipped.reason


def test_compressed_entries_hold_the_same_bits_and_either_form_is_found(
    clips: list[Clip], tmp_path: Path, spec: ClipSpec, flow_spec: FlowSpec
) -> None:
    raw = prepared(clips, tmp_path / "raw", spec, flow_spec)
    small = prepared(clips, tmp_path / "small", spec, flow_spec, form="compressed", workers=2)
    assert small.decoded == raw.decoded == 36
    for one, other in zip(raw.clips, small.clips, strict=True):
        assert other.size_bytes < one.size_bytes
        np.testing.assert_array_equal(one.frames(), other.frames())
        np.testing.assert_array_equal(one.flow().view(np.uint16), other.flow().view(np.uint16))
        assert not other.frames().flags.writeable
        assert not other.flow().flags.writeable
    assert prepared(clips, tmp_path / "small", spec, flow_spec).clips == small.clips
    again = prepared(clips, tmp_path / "raw", spec, flow_spec, form="compressed")
    assert (again.computed, again.decoded, again.clips) == (0, 0, raw.clips)


def test_a_clip_that_its_form_cannot_hold_is_skipped_by_name(
    clips: list[Clip], tmp_path: Path, spec: ClipSpec, flow_spec: FlowSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A PNG has a greatest height, which 512 tall frames are beyond."""
    write, refused = arrays.write, cache.find(clips[1], spec, flow_spec, tmp_path, "compressed").entry.frames_path

    def refuses_one(path: Path, array: np.ndarray) -> None:
        if path == refused:
            raise DataError("too large for one .png")
        write(path, array)

    monkeypatch.setattr(arrays, "write", refuses_one)
    made = prepared(clips, tmp_path, spec, flow_spec, form="compressed", workers=0)
    assert [cached.clip for cached in made.clips] == [clips[0], *clips[2:]]
    assert [skipped.reason for skipped in made.skipped] == [f"{clips[1].path}: too large for one .png"]


@pytest.mark.parametrize("damage", ["empty", "cut", "longer", "garbled", "other", "gone"])
def test_a_damaged_compressed_entry_is_made_again(
    clips: list[Clip], tmp_path: Path, spec: ClipSpec, flow_spec: FlowSpec, damage: str
) -> None:
    entry = prepared(clips, tmp_path / "c", spec, flow_spec, form="compressed").clips[1]
    for path in (entry.frames_path, entry.flow_path):
        good = path.read_bytes()
        if damage == "other":
            cv2.imwrite(str(path), np.zeros((8 * 48, 60), np.uint8))
        elif damage == "gone":
            path.unlink()
        else:
            bad = {"empty": b"", "cut": good[:-1], "longer": good + b"x", "garbled": good[:18] + b"abc" + good[21:]}
            path.write_bytes(bad[damage])
        assert prepared(clips, tmp_path / "c", spec, flow_spec, form="compressed").computed == 1
        assert path.read_bytes() == good


@pytest.mark.parametrize("form", get_args(Form))
@pytest.mark.parametrize("place", ["frames_path", "flow_path"])
def test_damage_inside_an_entry_is_told_when_it_is_read_or_mended_when_all_are_verified(
    clips: list[Clip], tmp_path: Path, spec: ClipSpec, flow_spec: FlowSpec, form: Form, place: str
) -> None:
    entry = prepared(clips, tmp_path / "c", spec, flow_spec, form=form).clips[1]
    path: Path = getattr(entry, place)
    good = path.read_bytes()
    bad = bytearray(good)
    bad[len(bad) // 2] ^= 0xFF

    path.write_bytes(bad)
    with pytest.raises(DataError, match=rf"{path.name}: it was damaged, and is deleted; run the same command again"):
        entry.frames(), entry.flow()
    assert prepared(clips, tmp_path / "c", spec, flow_spec, form=form).computed == 1
    assert path.read_bytes() == good

    path.write_bytes(bad)
    assert prepared(clips, tmp_path / "c", spec, flow_spec).computed == 0  # only its header is looked at
    assert prepared(clips, tmp_path / "c", spec, flow_spec, form=form, verify=True, workers=2).computed == 1
    assert path.read_bytes() == good
    assert prepared(clips, tmp_path / "c", spec, flow_spec, verify=True).computed == 0


def test_a_file_that_is_replaced_while_it_is_read_makes_no_entry(
    clips: list[Clip], tmp_path: Path, spec: ClipSpec, flow_spec: FlowSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replaced(clip: Clip, *specs: Any) -> cache.Computed:
        shutil.copy(clips[1].path, clip.path)
        return computed(clip, *specs)

    computed = cache.compute
    monkeypatch.setattr(cache, "compute", replaced)
    with pytest.raises(DataError, match=r"0\.mp4 changed while it was read \(run again once it is whole\)"):
        prepared(clips[:1], tmp_path / "c", spec, flow_spec, strict=True)
    assert not written(tmp_path / "c")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_not_waited_for(
    tmp_path: Path, spec: ClipSpec, flow_spec: FlowSpec, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "a.mp4")
    clip = Clip(path=str(tmp_path / "a.mp4"), label="a", split="train", group="")
    with pytest.raises(DataError, match=r"a\.mp4 is a device, a pipe or a folder"):
        prepared([clip], tmp_path / "c", spec, flow_spec, strict=True)


def test_what_a_killed_run_left_is_harmless(
    clips: list[Clip], tmp_path: Path, spec: ClipSpec, flow_spec: FlowSpec
) -> None:
    entry = prepared(clips, tmp_path / "c", spec, flow_spec).clips[0]
    entry.flow_path.rename(entry.flow_path.with_name(f".{entry.flow_path.name}.1.partial"))
    assert prepared(clips, tmp_path / "c", spec, flow_spec).computed == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's device that is always full")
@pytest.mark.parametrize("strict", [True, False])
def test_a_full_disk_ends_the_run_and_keeps_what_is_done(
    clips: list[Clip],
    tmp_path: Path,
    spec: ClipSpec,
    flow_spec: FlowSpec,
    monkeypatch: pytest.MonkeyPatch,
    strict: bool,
) -> None:
    prepared(clips[:1], tmp_path / "c", spec, flow_spec)
    before = written(tmp_path / "c")

    real_open = Path.open

    def on_full_disk(path: Path, mode: str = "r", **how: Any) -> Any:
        return real_open(Path("/dev/full") if mode == "wb" else path, mode, **how)

    monkeypatch.setattr(Path, "open", on_full_disk)
    with pytest.raises(StorageError, match=r"No space left.*free some space"):
        prepared(clips, tmp_path / "c", spec, flow_spec, strict=strict)
    monkeypatch.undo()
    assert written(tmp_path / "c") == before
    assert prepared(clips, tmp_path / "c", spec, flow_spec).computed == 2
