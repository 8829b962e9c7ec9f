"""Bad input gets one clear line and its exit code, no traceback, and nothing half-written."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from d3d_edge.cli import options
from tests.cli.conftest import D3DEdge, refused


def first_video(folder: Path) -> Path:
    return sorted(folder.rglob("*.mp4"))[0]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def write_text(path: Path) -> None:
    path.write_text("this is not a video\n")


def shorten(path: Path) -> None:
    import cv2

    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 12, (64, 64))
    import numpy as np

    for _ in range(2):
        writer.write(np.zeros((64, 64, 3), np.uint8))
    writer.release()


BAD_CLIPS = [
    pytest.param(truncate, "truncated", id="truncated mp4"),
    pytest.param(write_text, "not a", id="text named .mp4"),
    pytest.param(shorten, "2 frames", id="shorter than the ClipSpec"),
]


@pytest.mark.parametrize(("damage", "word"), BAD_CLIPS)
def test_a_bad_clip_is_refused_when_strict(
    damage, word: str, d3d_edge: D3DEdge, own_clips: Path, recipe_file: Path, tmp_path: Path
) -> None:
    video = first_video(own_clips)
    damage(video)
    out = tmp_path / "run"
    words = ("distill", recipe_file, "--data", own_clips, "--out", out, "--cache", tmp_path / "cache", "--workers", 0)
    refused(d3d_edge(*words, "--strict"), 8, video.name, word)


@pytest.mark.parametrize(("damage", "word"), BAD_CLIPS)
def test_predict_refuses_a_bad_clip(damage, word: str, d3d_edge: D3DEdge, made: Path, own_clips: Path) -> None:
    video = first_video(own_clips)
    damage(video)
    refused(d3d_edge("predict", made / "bundles" / "reference-int8", video), 8, video.name, word)


def test_a_video_too_short_for_a_window_is_named(d3d_edge: D3DEdge, made: Path, own_clips: Path) -> None:
    video = first_video(own_clips)
    shorten(video)
    refused(d3d_edge("predict", made / "bundles" / "reference-int8", video, "--stride", 1), 8, f"{video}: from 0.00 s")


def test_a_bad_clip_in_a_set_is_skipped_counted_and_named(
    d3d_edge: D3DEdge, own_clips: Path, bundle_copy: Path, tmp_path: Path
) -> None:
    video = first_video(own_clips)
    write_text(video)
    result = d3d_edge("validate", bundle_copy, "--data", own_clips, "--split", "all", "--out", tmp_path)
    assert result.code == 0, result.err
    assert "skipped 1 clip(s)" in result.out
    assert video.name in result.out
    refused(
        d3d_edge("validate", bundle_copy, "--data", own_clips, "--split", "all", "--strict"),
        8,
        video.name,
    )


def test_a_set_of_which_nothing_can_be_read(d3d_edge: D3DEdge, own_clips: Path, bundle_copy: Path) -> None:
    for video in own_clips.rglob("*.mp4"):
        write_text(video)
    refused(d3d_edge("validate", bundle_copy, "--data", own_clips, "--split", "all"), 8, "no clip of", "could be read")


def test_an_empty_class_folder(d3d_edge: D3DEdge, own_clips: Path, recipe_file: Path, tmp_path: Path) -> None:
    (own_clips / "zzz").mkdir()
    out = tmp_path / "run"
    refused(d3d_edge("distill", recipe_file, "--data", own_clips, "--out", out), 8, "zzz", "no video")
    assert not out.exists()


@pytest.mark.parametrize("place", ["", "run", "wave/run", "../clips/run", "link/run"])
@pytest.mark.parametrize("words", [("distill", "compact"), ("validate", "bundle")])
def test_nothing_is_written_among_the_clips(
    words: tuple[str, ...], place: str, d3d_edge: D3DEdge, tmp_path: Path
) -> None:
    # It would be taken for a class without videos, by the next command on this data.
    data = tmp_path / "clips"
    (data / "wave").mkdir(parents=True)
    (tmp_path / "link").symlink_to(data)
    out = tmp_path / place if place.startswith("link") else data / place
    result = d3d_edge(*words, "--data", data, "--out", out)
    refused(result, 2, f"--out {out} lies in the data, {data}", "choose a folder outside of the data")
    assert [path.name for path in data.rglob("*")] == ["wave"]


@pytest.mark.parametrize("command", ["distill", "prepare"])
def test_no_cache_lies_among_the_clips(command: str, d3d_edge: D3DEdge, own_clips: Path, tmp_path: Path) -> None:
    cache = own_clips / "cache"
    words: tuple[object, ...] = ("--out", tmp_path / "run") if command == "distill" else ()
    recipe: tuple[object, ...] = ("compact",) if command == "distill" else ("--recipe", "compact")
    data: tuple[object, ...] = ("--data", own_clips) if command == "distill" else (own_clips,)
    result = d3d_edge(command, *recipe, *data, *words, "--cache", cache)
    refused(result, 2, f"--cache {cache} lies in the data, {own_clips}", "choose a folder outside of the data")
    assert not cache.exists()


@pytest.mark.parametrize("there", ["manifest.csv", "run/recipe.yaml"])
def test_a_run_lies_beside_a_list_or_where_it_was_begun(there: str, d3d_edge: D3DEdge, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / there).write_text("")
    result = d3d_edge("distill", "compact", "--data", tmp_path, "--out", tmp_path / "run", "--teacher", tmp_path)
    assert "lies in the data" not in result.err


@pytest.mark.parametrize("command", ["distill", "quantize", "evaluate", "probe"])
def test_a_wrong_device_is_told_before_any_clip_is_decoded(
    command: str,
    d3d_edge: D3DEdge,
    made: Path,
    clips: Path,
    recipe_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Path(shutil.copytree(made / "run", tmp_path / "run"))
    of_run: tuple[object, ...] = (recipe_file, "--data", clips, "--out", run) if command == "distill" else (run,)
    monkeypatch.setenv("D3D_EDGE_DEVICE", "cuda:77")
    result = d3d_edge(command, *of_run, "--cache", tmp_path / "cache", "--workers", 0)
    refused(result, 2, "cuda:77 is not a device that PyTorch can use here", "D3D_EDGE_DEVICE")
    assert not (tmp_path / "cache").exists()


def test_one_class_only(d3d_edge: D3DEdge, own_clips: Path, recipe_file: Path, tmp_path: Path) -> None:
    for folder in sorted(own_clips.iterdir())[1:]:
        shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
    out = tmp_path / "run"
    refused(d3d_edge("distill", recipe_file, "--data", own_clips, "--out", out), 8, "one class only")
    assert not out.exists()


def test_an_unknown_recipe_key_names_the_near_miss(d3d_edge: D3DEdge, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: compact\nstudent:\n  initialize: scratch\n")
    refused(d3d_edge("recipes", "check", path), 2, "mine.yaml:3", "'student.initialize'", "did you mean 'initialise'?")


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("recipes", "show", "compakt"), "did you mean 'compact'?"),
        (("targets", "show", "jetsen"), "did you mean 'jetson'?"),
        (("distill", "compakt", "--data", ".", "--out", "run"), "did you mean 'compact'?"),
    ],
)
def test_a_name_that_does_not_exist(words: tuple[str, ...], hint: str, d3d_edge: D3DEdge) -> None:
    refused(d3d_edge(*words), 2, hint)


def test_a_target_that_does_not_exist(d3d_edge: D3DEdge, made: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundles"
    refused(d3d_edge("export", made / "run", "--target", "andriod", "--out", out), 2, "did you mean 'android'?")
    assert not out.exists()


def test_a_run_of_another_recipe_is_not_overwritten(d3d_edge: D3DEdge, made: Path, clips: Path) -> None:
    before = sorted((p, p.stat().st_mtime_ns) for p in (made / "run").rglob("*"))
    refused(d3d_edge("distill", "demo", "--data", clips, "--out", made / "run"), 2, "another recipe")
    assert sorted((p, p.stat().st_mtime_ns) for p in (made / "run").rglob("*")) == before


@pytest.mark.parametrize("command", ["validate", "benchmark", "predict"])
def test_a_bundle_with_one_byte_changed(command: str, d3d_edge: D3DEdge, bundle_copy: Path, clips: Path) -> None:
    model = bundle_copy / "model.onnx"
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    more = {"validate": ["--data", clips], "benchmark": [], "predict": [first_video(clips)]}[command]
    refused(d3d_edge(command, bundle_copy, *more), 6, "model.onnx", "damaged")


def test_a_stage_that_is_not_finished_names_the_command(d3d_edge: D3DEdge, made: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(made / "run", run, ignore=shutil.ignore_patterns("quantized"))
    out = tmp_path / "bundles"
    refused(d3d_edge("export", run, "--target", "jetson", "--out", out), 8, f"d3d-edge quantize {run}")
    assert not out.exists()


def test_the_best_weights_need_a_val_split(d3d_edge: D3DEdge, clips: Path, recipe_file: Path, tmp_path: Path) -> None:
    settings = ("--set", "split.val_share=0", "--set", "student.train.keep=best")
    result = d3d_edge("distill", recipe_file, "--data", clips, "--out", tmp_path / "run", *settings)
    refused(result, 2, "student.train.keep is 'best', but the data has no val split")


def test_resume_needs_something_to_go_on_with(d3d_edge: D3DEdge, clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    refused(d3d_edge("distill", "demo", "--data", clips, "--out", out, "--resume"), 8, "nothing to resume")
    assert not out.exists()


@pytest.mark.parametrize(
    ("target", "package", "extra"),
    [("android", "executorch", "android"), ("ios", "coremltools", "ios"), ("jetson", "onnx", "jetson")],
)
def test_an_extra_that_is_not_installed(
    target: str,
    package: str,
    extra: str,
    d3d_edge: D3DEdge,
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # None in sys.modules is Python's own way to say that an import fails; find_spec says so too.
    monkeypatch.setitem(sys.modules, package, None)
    out = tmp_path / "bundles"
    refused(
        d3d_edge("export", made / "run", "--target", target, "--out", out),
        3,
        package,
        f"pip install 'd3d-edge[{extra}]'",
    )
    assert not out.exists()


NOT_UTF8 = os.fsdecode(b"caf\xe9")


@pytest.mark.parametrize(
    "words",
    [
        ("predict", "BUNDLE", f"{NOT_UTF8}.mp4"),
        ("predict", "BUNDLE", "VIDEO", "--overlay", f"{NOT_UTF8}.mp4"),
        ("prepare", "CLIPS", "--recipe", "RECIPE", "--cache", NOT_UTF8),
        ("distill", "RECIPE", "--data", "CLIPS", "--out", NOT_UTF8),
    ],
    ids=["video", "overlay", "cache", "run"],
)
def test_a_name_that_is_no_text(
    words: tuple[str, ...], d3d_edge: D3DEdge, made: Path, clips: Path, recipe_file: Path, tmp_path: Path
) -> None:
    shutil.copyfile(first_video(clips), tmp_path / f"{NOT_UTF8}.mp4")
    meant = {
        "BUNDLE": made / "bundles" / "reference-int8",
        "VIDEO": first_video(clips),
        "CLIPS": clips,
        "RECIPE": recipe_file,
    }
    placed = [meant.get(word, tmp_path / word if NOT_UTF8 in word else word) for word in words]
    result = d3d_edge(*placed)
    assert result.code in (2, 8)
    assert "is no text in this locale" in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize("words", [("recipes", "show", "FILE"), ("recipes", "cp", "FILE", "new.yaml")], ids=" ".join)
def test_a_recipe_that_is_no_text(words: tuple[str, ...], d3d_edge: D3DEdge, tmp_path: Path) -> None:
    (tmp_path / "FILE").write_bytes(b"\xff\xfe")
    refused(d3d_edge(*(tmp_path / word if word in ("FILE", "new.yaml") else word for word in words)), 2, "cannot read")
    assert not (tmp_path / "new.yaml").exists()


@pytest.mark.parametrize("name", ["", NOT_UTF8])
def test_a_recipe_is_copied_to_a_name_that_can_be_read(name: str, d3d_edge: D3DEdge, tmp_path: Path) -> None:
    assert d3d_edge("recipes", "cp", "compact", tmp_path / name if name else name).code == 2
    assert not list(tmp_path.iterdir())


def test_a_folder_that_may_not_be_entered(
    d3d_edge: D3DEdge, recipe_file: Path, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(path: Path) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "is_file", forbidden)  # no folder is forbidden to root, who may run this
    refused(d3d_edge("prepare", clips, "--recipe", recipe_file), 8, str(clips), "Permission denied")


def test_an_empty_path_is_no_folder(d3d_edge: D3DEdge, clips: Path, recipe_file: Path) -> None:
    result = d3d_edge("prepare", clips, "--recipe", recipe_file, "--cache", "")
    assert result.code == 2
    assert "an empty path" in result.err


def test_a_tilde_that_no_shell_has_seen_is_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for given, path in (("~/cc", tmp_path / "cc"), ("~", "~"), ("./~/cc", "~/cc"), ("a/~/b", "a/~/b")):
        assert options.PATH.convert(given, None, None) == Path(path)


def test_a_user_without_a_home_has_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert Path(options._default_cache()).parent == Path(tempfile.gettempdir())
