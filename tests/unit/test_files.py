"""A file is written whole or not at all, and what was there before stays until then."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d3d_edge import files
from d3d_edge.errors import StorageError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text('aé ☃\\"'),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abé", max_size=3), inner, max_size=4),
    max_leaves=12,
)


def disk_full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def half_written(path: Path, error: type[BaseException]) -> None:
    path.write_text("half")
    raise error


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_atomic_file_appears_at_the_end_of_its_block(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "a.txt"
    with files.atomic_file(path) as partial:
        partial.write_text("new")
        assert not path.exists()
        assert partial.parent == path.parent
    assert path.read_text() == "new"
    assert names_in(path.parent) == ["a.txt"]


def age(path: Path, hours: float) -> None:
    written_s = path.stat().st_mtime - 3600 * hours
    os.utime(path, (written_s, written_s))


def test_what_a_killed_process_left_is_swept_once_it_is_old(tmp_path: Path) -> None:
    for name, hours in ((".last.pt.1a2b3c4d.partial", 2), (".best.pt.00000000.partial", 0), (".own.partial", 2)):
        (tmp_path / name).write_text("half")
        age(tmp_path / name, hours)
    for name, hours in (
        (".a.00000001.partial", 2),
        (".b.00000002.lowering", 2),
        (".c.00000003.replaced", 2),
        (".own", 2),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model").write_text("half")
        age(tmp_path / name / "model", hours)
        age(tmp_path / name, hours)
    at_work = files.beside(tmp_path / "d", "lowering")
    at_work.mkdir()
    (at_work / "model").write_text("half")
    age(at_work, 2)
    files.sweep(tmp_path)
    assert names_in(tmp_path) == sorted([at_work.name, ".best.pt.00000000.partial", ".own", ".own.partial"])
    files.sweep(tmp_path / "nowhere")


def test_two_that_write_the_same_do_not_meet(tmp_path: Path) -> None:
    """Nor two of the same process number, as in two containers."""
    with files.atomic_file(tmp_path / "a") as one, files.atomic_file(tmp_path / "a") as other:
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "a").read_text() == "one", "the last to end"
    with files.atomic_folder(tmp_path / "b") as first, files.atomic_folder(tmp_path / "b") as second:
        (first / "first").write_text("")
        (second / "second").write_text("")
    assert names_in(tmp_path / "b") == ["first"]
    assert names_in(tmp_path) == ["a", "b"]


def test_a_file_that_comes_while_its_place_is_looked_at_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, stat = tmp_path / "file", Path.stat
    theirs = [path]

    def early(self: Path, **options: Any) -> os.stat_result:
        try:
            return stat(self, **options)
        finally:
            if self == path and not options and theirs:
                theirs.pop().write_text("theirs")

    monkeypatch.setattr(Path, "stat", early)
    files.write_text(path, "ours")
    assert path.read_text() == "ours"
    assert names_in(tmp_path) == ["file"]


def test_a_folder_that_comes_while_another_is_moved_in_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, replace = tmp_path / "folder", os.replace
    theirs = [path]

    def late(source: Path, to: Path) -> None:
        if to == path and theirs:
            theirs.pop().mkdir()
            (path / "theirs").write_text("")
        replace(source, to)

    monkeypatch.setattr(os, "replace", late)
    with files.atomic_folder(path) as partial:
        (partial / "ours").write_text("")
    assert names_in(path) == ["ours"]
    assert names_in(tmp_path) == ["folder"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_atomic_file_is_unchanged_by_an_error_in_its_block(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), files.atomic_file(path) as partial:
        half_written(partial, error)
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    monkeypatch.setattr(os, call, disk_full)
    with pytest.raises(StorageError, match="free some space") as caught:
        files.write_text(path, "new")
    assert caught.value.exit_code == 9
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["a.txt"]


def test_a_disk_that_fills_while_writing_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="free some space"), files.atomic_file(tmp_path / "a.txt"):
        disk_full()
    assert names_in(tmp_path) == []


def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path: Path) -> None:
    there = tmp_path / "there" / "new"
    for name in ("a", "b"):
        (tmp_path / name).symlink_to(there / "a.txt")
    for text in ("one", "other"):
        files.check_writable(tmp_path / "a")
        files.write_text(tmp_path / "a", text)
        assert (tmp_path / "b").read_text() == text
    assert names_in(there) == ["a.txt"]
    assert names_in(tmp_path) == ["a", "b", "there"]


def test_a_link_to_a_folder_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    for text in ("one", "other"):
        with files.atomic_folder(tmp_path / "link") as folder:
            (folder / "a.txt").write_text(text)
        assert (tmp_path / "there" / "a.txt").read_text() == text
    assert (tmp_path / "link").is_symlink()
    assert names_in(tmp_path) == ["link", "there"]


@pytest.mark.parametrize("write", [files.check_writable, lambda path: files.write_text(path, "text")])
@pytest.mark.parametrize("kind", ["device", "pipe", "pipe without a name", "folder", "loop"])
def test_what_is_no_file_is_never_replaced(tmp_path: Path, kind: str, write: Callable[[Path], None]) -> None:
    path, ends = tmp_path / "out", os.pipe()
    {
        "device": lambda: path.symlink_to(os.devnull),
        "pipe": lambda: os.mkfifo(path),
        "pipe without a name": lambda: path.symlink_to(f"/dev/fd/{ends[1]}"),  # as /dev/stdout in a shell's pipe
        "folder": path.mkdir,
        "loop": lambda: path.symlink_to(path),
    }[kind]()
    before = path.lstat()
    with pytest.raises(StorageError, match=r"out: it is a device, a pipe, .* \(choose a file\)$"):
        write(path)
    assert path.lstat().st_ino == before.st_ino
    assert names_in(tmp_path) == ["out"]
    for end in ends:
        os.close(end)


@pytest.mark.parametrize("atomic", [files.atomic_file, files.atomic_folder])
def test_a_parent_that_is_a_file_is_a_storage_error(tmp_path: Path, atomic: Callable[[Path], Any]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"), atomic(tmp_path / "file" / "below"):
        pass


def test_an_atomic_folder_replaces_the_old_one_whole(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    for text in ("old", "new"):
        with files.atomic_folder(path) as partial:
            (partial / f"{text}.txt").write_text(text)
    assert names_in(path) == ["new.txt"]
    assert names_in(tmp_path) == ["folder"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_atomic_folder_is_unchanged_by_an_error_in_its_block(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old.txt").write_text("old")
    with pytest.raises(error), files.atomic_folder(path) as partial:
        half_written(partial / "new.txt", error)
    assert names_in(path) == ["old.txt"]
    assert names_in(tmp_path) == ["folder"]


@pytest.mark.parametrize("failing", [0, 1], ids=["moving the old folder away", "moving the new one in"])
def test_a_failed_replacement_brings_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old.txt").write_text("old")
    calls: list[object] = []
    replace = os.replace

    def fail_once(source: Path, to: Path) -> None:
        calls.append(source)
        if len(calls) - 1 == failing:
            disk_full()
        replace(source, to)

    monkeypatch.setattr(os, "replace", fail_once)
    with pytest.raises(StorageError), files.atomic_folder(path) as partial:
        (partial / "new.txt").write_text("new")
    assert names_in(path) == ["old.txt"]
    assert names_in(tmp_path) == ["folder"]


@pytest.mark.parametrize(("renamed", "left"), [(1, "old.txt"), (2, "new.txt")])
def test_ctrl_c_while_a_folder_takes_its_place_leaves_one_of_the_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renamed: int, left: str
) -> None:
    path, replace, calls = tmp_path / "folder", os.replace, []
    path.mkdir()
    (path / "old.txt").write_text("old")

    def interrupted(source: Path, to: Path) -> None:
        replace(source, to)
        calls.append(source)
        if len(calls) == renamed:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), files.atomic_folder(path) as partial:
        (partial / "new.txt").write_text("new")
    assert names_in(path) == [left]
    assert names_in(tmp_path) == ["folder"]


@given(value=JSON)
def test_json_reads_back_equal(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.mktemp("json") / "value.json"
    files.write_json(path, value)
    assert json.loads(path.read_text(encoding="utf-8")) == value


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_refuses_what_json_has_not(tmp_path: Path, value: float) -> None:
    path = tmp_path / "value.json"
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(path, {"top1": value})
    assert not path.exists()


def test_files_and_sizes_below_a_folder(tmp_path: Path) -> None:
    (tmp_path / "b" / "c").mkdir(parents=True)
    (tmp_path / "b" / "c" / "two").write_bytes(b"22")
    (tmp_path / "a").write_bytes(b"333")
    assert files.files_below(tmp_path) == [tmp_path / "a", tmp_path / "b" / "c" / "two"]
    assert files.size_of(tmp_path) == 5
    assert files.size_of(tmp_path / "a") == 3


def test_the_hash_of_a_file_is_sha256_of_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"bytes" * 100_000)
    assert files.sha256_of_file(path) == hashlib.sha256(path.read_bytes()).hexdigest()


@given(value=st.dictionaries(st.text(max_size=4), st.integers(), max_size=6), seed=st.randoms())
def test_the_hash_of_a_value_does_not_depend_on_the_order_of_keys(value: dict[str, int], seed: Any) -> None:
    items = list(value.items())
    seed.shuffle(items)
    assert files.sha256_of_value(dict(items)) == files.sha256_of_value(value)


@given(one=JSON, other=JSON)
def test_different_values_have_different_hashes(one: Any, other: Any) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (files.sha256_of_value(one) == files.sha256_of_value(other)) is same


def test_the_hash_of_a_value_never_changes() -> None:
    """Written into bundles: another canonical form needs another bundle format version."""
    known = "d764fee2563da33e3d57334755404e635da33c995824b0adfabc4b6e1af4f608"
    assert hashlib.sha256('{"a":"é","b":[1,2.5,null]}'.encode()).hexdigest() == known
    assert files.sha256_of_value({"b": [1, 2.5, None], "a": "é"}) == known
