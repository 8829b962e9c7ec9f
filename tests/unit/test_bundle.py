"""A bundle is whole and unchanged, or it does not open; and writing one never harms anything else."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from d3d_edge import bundle
from d3d_edge.bundle import Bundle, Description
from d3d_edge.clip import ClipSpec
from d3d_edge.errors import BundleError, LoweringError, RecipeError, StorageError
from d3d_edge.runner import TensorSpec


@pytest.fixture
def description(clip_data: dict[str, Any]) -> Description:
    clip = ClipSpec(**clip_data)
    return Description(
        name="least",
        target="host",
        runtime="eager",
        precision="int8",
        scheme="symmetric",
        model="model.bin",
        clip=clip,
        clip_hash=clip.hash(),
        labels=("clap", "wave"),
        input=TensorSpec(name="clip", dtype="uint8", shape=clip.shape),
        output=TensorSpec(name="logits", dtype="float32", shape=(1, 2)),
        graph_sha256="0" * 64,
        float_sha256="3" * 64,
        logit_step=0.125,
        calibration_hash="1" * 64,
        data_hash="2" * 64,
        tools={"torch": "2.13.0"},
        lowering={"delegates": 1},
    )


def fill(folder: Path) -> None:
    (folder / "model.bin").write_bytes(b"weights")
    (folder / "labels.txt").write_text("clap\nwave\n")
    (folder / "golden").mkdir()
    (folder / "golden" / "clips.npy").write_bytes(b"clips")


@pytest.fixture
def made(tmp_path: Path, description: Description) -> Bundle:
    return Bundle.write(tmp_path / "out" / "host", description, fill)


def edit_manifest(made: Bundle, edit: Callable[[dict[str, Any]], object]) -> None:
    path = made.path / "manifest.json"
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))


def test_what_is_written_opens_equal(made: Bundle, description: Description) -> None:
    opened = Bundle.open(made.path)
    assert opened.manifest == made.manifest
    assert Description(**{name: getattr(opened.manifest, name) for name in Description.model_fields}) == description
    assert opened.model_path == made.path / "model.bin"
    assert opened.model_size_bytes == len(b"weights")
    assert set(opened.manifest.files) == {"model.bin", "labels.txt", "golden/clips.npy"}


def test_the_manifest_says_what_it_is_to_any_reader(made: Bundle) -> None:
    data = json.loads((made.path / "manifest.json").read_text())
    assert data["format"] == "d3d-edge bundle"
    assert data["format_version"] == bundle.FORMAT_VERSION == 1
    assert data["clip"]["colour"] == "rgb"
    assert data["files"]["model.bin"]["size_bytes"] == 7


def test_a_bundle_may_be_moved_and_copied(made: Bundle, tmp_path: Path) -> None:
    shutil.copytree(made.path, tmp_path / "elsewhere")
    assert Bundle.open(tmp_path / "elsewhere").manifest == made.manifest


def write_package(path: Path, description: Description, weights: bytes = b"123") -> Bundle:
    """A bundle whose model is a folder."""

    def fill_folder(folder: Path) -> None:
        (folder / "model.mlpackage" / "Data").mkdir(parents=True)
        (folder / "model.mlpackage" / "Data" / "weights").write_bytes(weights)
        (folder / "model.mlpackage" / "Manifest.json").write_bytes(b"45")

    return Bundle.write(path, description.model_copy(update={"model": "model.mlpackage"}), fill_folder)


def test_a_model_may_be_a_folder(tmp_path: Path, description: Description) -> None:
    write_package(tmp_path / "ios", description)
    assert Bundle.open(tmp_path / "ios").model_size_bytes == 5


def test_a_model_is_told_by_its_hash_whatever_lies_beside_it(
    made: Bundle, tmp_path: Path, description: Description
) -> None:
    assert made.manifest.model_sha256 == hashlib.sha256(b"weights").hexdigest()
    one, same, other = (
        write_package(tmp_path / name, description, weights).manifest.model_sha256
        for name, weights in (("one", b"123"), ("same", b"123"), ("other", b"124"))
    )
    assert one == same != other


@pytest.mark.parametrize("name", ["model.bin", "labels.txt", "golden/clips.npy"])
def test_one_changed_byte_is_found(made: Bundle, name: str) -> None:
    path = made.path / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=rf"the file {name} is damaged .*export the bundle again"):
        Bundle.open(made.path)


def test_a_clip_that_was_changed_is_found(made: Bundle) -> None:
    edit_manifest(made, lambda data: data["clip"].update(interpolation="bilinear"))
    with pytest.raises(BundleError, match="the clip was changed"):
        Bundle.open(made.path)


@pytest.mark.parametrize("length_s", [0, -5])
def test_a_length_of_videos_is_more_than_nothing(length_s: float, made: Bundle) -> None:
    edit_manifest(made, lambda data: data.update(video_length_s=length_s))
    with pytest.raises(BundleError, match="video_length_s"):
        Bundle.open(made.path)


def test_a_missing_file_is_found(made: Bundle) -> None:
    (made.path / "golden" / "clips.npy").unlink()
    with pytest.raises(BundleError, match=r"the file golden/clips\.npy is missing"):
        Bundle.open(made.path)


def test_an_added_file_is_found(made: Bundle) -> None:
    (made.path / "golden" / "more.npy").write_bytes(b"")
    with pytest.raises(BundleError, match=r"the file golden/more\.npy is not part of the bundle"):
        Bundle.open(made.path)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_format_version_is_refused_before_anything_else(made: Bundle, version: object) -> None:
    edit_manifest(made, lambda data: (data.clear(), data.update(format_version=version)))
    with pytest.raises(BundleError, match=rf"has bundle format {version!r}, this version reads 1"):
        Bundle.open(made.path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda data: data.pop("labels"), "labels: Field required"),
        (lambda data: data["clip"].pop("frames"), "clip.frames: Field required"),
        (lambda data: data.update(runtime=1), "runtime: Input should be 'executorch'"),
        (lambda data: data.update(runtime="nosuch"), "runtime: Input should be 'executorch'"),
        (lambda data: data.update(labels=["clap"]), "labels or clip do not fit"),
        (lambda data: data.update(labels=["wave", "clap"]), r"the labels are not those of labels\.txt"),
        (lambda data: data["clip"].update(frames=data["clip"]["frames"] + 1), "labels or clip do not fit"),
        (lambda data: data.update(later=1), "later: Extra inputs"),
        (lambda data: data.update(model="other.bin"), "the model other.bin is not among the bundle's files"),
        (lambda data: data.update(model="../other/model.bin"), "is not among the bundle's files"),
        *(
            (lambda data, moved=moved: data["lowering"].update(answers_moved_by_noise=moved), "and no length")
            for moved in ("abc", True, -1.0)
        ),
        (lambda data: data["files"].update({"../x": data["files"]["model.bin"]}), r"the file \.\./x is missing"),
    ],
)
def test_a_manifest_that_does_not_hold_is_refused(
    made: Bundle, edit: Callable[[dict[str, Any]], object], message: str
) -> None:
    edit_manifest(made, edit)
    with pytest.raises(BundleError, match=message):
        Bundle.open(made.path)


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe"])
def test_a_manifest_that_is_not_json_is_refused(made: Bundle, content: bytes) -> None:
    (made.path / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match="is not JSON"):
        Bundle.open(made.path)


def test_what_is_not_a_bundle_does_not_open(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "manifest.json").write_text("[]")
    for name, message in (("none", "not a bundle"), ("file", "not a bundle"), ("list", "bundle format None")):
        with pytest.raises(BundleError, match=message):
            Bundle.open(tmp_path / name)


def test_a_bundle_replaces_an_older_one_whole(made: Bundle, description: Description) -> None:
    def fill_less(folder: Path) -> None:
        (folder / "model.bin").write_bytes(b"newer")

    Bundle.write(made.path, description, fill_less)
    assert set(Bundle.open(made.path).manifest.files) == {"model.bin"}
    assert [path.name for path in made.path.parent.iterdir()] == ["host"]


def test_others_may_read_what_a_library_wrote_for_one_user(description: Description, tmp_path: Path) -> None:
    def fill_for_one(folder: Path) -> None:
        fill(folder)
        (folder / "golden" / "clips.npy").chmod(0o600)
        (folder / "golden").chmod(0o700)

    path = Bundle.write(tmp_path / "bundle", description, fill_for_one).path
    expected = path.stat().st_mode & 0o777
    assert (path / "golden").stat().st_mode & 0o777 == expected
    assert (path / "golden" / "clips.npy").stat().st_mode & 0o777 == expected & 0o666


def test_a_damaged_bundle_and_an_empty_folder_may_be_replaced(made: Bundle, description: Description) -> None:
    (made.path / "model.bin").unlink()
    Bundle.write(made.path, description, fill)
    (made.path.parent / "empty").mkdir()
    Bundle.write(made.path.parent / "empty", description, fill)
    assert Bundle.open(made.path).manifest == Bundle.open(made.path.parent / "empty").manifest


@pytest.mark.parametrize("content", ['{"manifest_version": 3}', "[]", "not json"])
def test_a_folder_that_is_not_a_bundle_is_never_replaced(
    tmp_path: Path, description: Description, content: str
) -> None:
    """Browser extensions and web apps have a manifest.json too."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "manifest.json").write_text(content)
    with pytest.raises(BundleError, match=r"exists and is not a bundle \(choose another --out\)"):
        Bundle.write(precious, description, fill)
    assert (precious / "manifest.json").read_text() == content


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_anything_else_is_never_replaced_either(tmp_path: Path, description: Description, kind: str) -> None:
    path = tmp_path / "precious"
    inside = path / "notes.txt" if kind == "folder" else path
    inside.parent.mkdir(exist_ok=True)
    inside.write_text("mine")
    with pytest.raises(BundleError, match="exists and is not a bundle"):
        Bundle.write(path, description, fill)
    assert inside.read_text() == "mine"


@pytest.mark.parametrize("name", ["report.json", "golden/report.json", "new/folder/times.json", "manifest.json"])
def test_nothing_else_may_be_put_into_a_bundle(made: Bundle, tmp_path: Path, name: str) -> None:
    (tmp_path / "link").symlink_to(made.path)
    for folder in (made.path, tmp_path / "link", tmp_path / "elsewhere" / ".." / "out" / "host"):
        with pytest.raises(RecipeError, match=r"host is a bundle, which holds nothing else \(choose another --out\)"):
            bundle.check_output(folder / name, "--out")
        bundle.check_output(folder.parent / "report.json", "--out")


def test_a_failed_export_leaves_the_older_bundle(made: Bundle, description: Description) -> None:
    def fill_and_fail(folder: Path) -> None:
        fill(folder)
        raise LoweringError("no kernel", stage="to_edge")

    with pytest.raises(LoweringError):
        Bundle.write(made.path, description, fill_and_fail)
    assert Bundle.open(made.path).manifest == made.manifest
    assert [path.name for path in made.path.parent.iterdir()] == ["host"]


def test_a_full_disk_leaves_the_older_bundle(
    made: Bundle, description: Description, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="free some space"):
        Bundle.write(made.path, description, fill)
    assert Bundle.open(made.path).manifest == made.manifest


def test_the_hash_of_a_model_folder_is_of_its_files_alone(tmp_path: Path, description: Description) -> None:
    made = write_package(tmp_path / "ios", description)

    def fill_more(folder: Path) -> None:
        (folder / "model.mlpackage" / "Data").mkdir(parents=True)
        (folder / "model.mlpackage" / "Data" / "weights").write_bytes(b"123")
        (folder / "model.mlpackage" / "Manifest.json").write_bytes(b"45")
        (folder / "labels.txt").write_text("clap\nwave\n")

    described = description.model_copy(update={"model": "model.mlpackage"})
    beside = Bundle.write(tmp_path / "beside", described, fill_more)
    assert beside.manifest.model_sha256 == made.manifest.model_sha256


def test_bundles_of_one_name_are_told_apart_by_their_place(tmp_path: Path, description: Description) -> None:
    places = ("one/bundles/android", "two/bundles/android", "two/bundles/ios")
    made = [Bundle.write(tmp_path / place, description, fill) for place in places]
    found = {name: one.path for name, one in bundle.by_place(made).items()}
    assert found == {place: tmp_path / place for place in places}
    assert list(bundle.by_place(made[1:])) == ["android", "ios"]
    assert list(bundle.by_place([made[0], made[0]])) == ["android"]
