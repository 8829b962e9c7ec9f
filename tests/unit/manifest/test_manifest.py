"""Clips come from a folder per class or a CSV, and are refused with the place of what is wrong."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given

from d3d_edge.errors import DataError
from d3d_edge.manifest import Clip, Manifest, Source, left_aside, load, with_split, write
from tests.unit.manifest.samples import manifests


def videos(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "list.csv"
    path.write_text(text, encoding="utf-8")
    return path


class TestFolders:
    def test_each_folder_is_a_class_and_each_video_below_it_a_clip(self, tmp_path: Path) -> None:
        videos(tmp_path, "wave/b.mp4", "wave/a.MOV", "wave/deep/c.avi", "clap/a.mp4", "wave/notes.txt", "readme.txt")
        loaded = load(tmp_path)
        assert loaded.labels == ("clap", "wave")
        assert [(Path(clip.path).relative_to(tmp_path).as_posix(), clip.label) for clip in loaded.clips] == [
            ("clap/a.mp4", "clap"),
            ("wave/a.MOV", "wave"),
            ("wave/b.mp4", "wave"),
            ("wave/deep/c.avi", "wave"),
        ]
        assert {clip.split for clip in loaded.clips} == {""}
        assert len({clip.group for clip in loaded.clips}) == 4, "without more knowledge each clip is its own group"

    def test_files_that_are_no_videos_by_their_suffix_are_told(self, tmp_path: Path) -> None:
        videos(tmp_path, "wave/b.mp4", "clap/a.mp4", "readme.txt", "clap/._a.mp4", ".git/x/config", "clap/.x/y.jpg")
        assert left_aside(tmp_path, load(tmp_path)) == ""
        videos(tmp_path, "wave/deep/c.DIVX", "wave/c.divx", "wave/notes", "clap/a.srt")
        told = left_aside(Source(path=tmp_path), load(tmp_path))
        assert told.endswith("that are no clips by their suffix: 4, .divx (2), .srt (1), none (1)")

    def test_videos_that_a_list_in_their_folder_leaves_out_are_told(self, tmp_path: Path) -> None:
        videos(tmp_path, "wave/b.mp4", "clap/a.mp4", "clap/a.txt")
        (tmp_path / "manifest.csv").write_text("path,label\nwave/b.mp4,wave\nclap/a.mp4,clap\n")
        assert left_aside(tmp_path, load(tmp_path)) == ""
        videos(tmp_path, "clap/new.mp4")
        assert left_aside(tmp_path, load(tmp_path)).endswith(f"does not list: 1, e.g. {tmp_path / 'clap/new.mp4'}")
        # Somebody who names the list means the list.
        assert left_aside(tmp_path / "manifest.csv", load(tmp_path / "manifest.csv")) == ""

    def test_a_folder_below_a_class_that_may_not_be_read_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its clips would be missed without a word."""
        videos(tmp_path, "wave/b.mp4", "wave/deep/c.mp4", "clap/a.mp4")
        scandir = os.scandir

        def refusing(path: str) -> object:
            if os.fspath(path).endswith("deep"):
                raise PermissionError(errno.EACCES, "Permission denied", path)
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refusing)
        with pytest.raises(PermissionError, match="deep"):
            load(tmp_path)

    def test_folders_named_after_splits_are_the_split(self, tmp_path: Path) -> None:
        videos(tmp_path, "train/a/1.mp4", "train/b/1.mp4", "Validation/a/2.mp4", "test/b/2.mp4", ".git/a/1.mp4")
        loaded = load(tmp_path)
        assert loaded.labels == ("a", "b")
        assert [(clip.group, clip.label, clip.split) for clip in loaded.clips] == [
            ("Validation/a/2.mp4", "a", "val"),
            ("test/b/2.mp4", "b", "test"),
            ("train/a/1.mp4", "a", "train"),
            ("train/b/1.mp4", "b", "train"),
        ]

    @pytest.mark.parametrize(
        "names",
        [
            ("train/1.mp4", "test/1.mp4", "bus/1.mp4"),
            ("train/a/1.mp4", "bus/a/1.mp4"),
            ("val/a/1.mp4", "test/a/1.mp4"),
        ],
        ids=["videos lie in them", "another name beside them", "nothing to train on"],
    )
    def test_other_folders_of_such_names_are_classes(self, tmp_path: Path, names: tuple[str, ...]) -> None:
        loaded = load(videos(tmp_path, *names))
        assert loaded.labels == tuple(sorted(name.partition("/")[0] for name in names))
        assert {clip.split for clip in loaded.clips} == {""}

    def test_hidden_files_and_folders_are_left_out(self, tmp_path: Path) -> None:
        videos(tmp_path, "a/1.mp4", "a/._1.mp4", "b/1.mp4", ".cache/1.mp4", "a/.Trash-1000/files/2.mp4", "b/c/.d/3.mp4")
        (tmp_path / "b" / "folder.mp4").mkdir()
        assert len(load(tmp_path).clips) == 2

    def test_paths_are_absolute(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        videos(tmp_path, "data/a/1.mp4", "data/b/1.mp4")
        monkeypatch.chdir(tmp_path)
        assert load(Path("data")) == load(tmp_path / "data")

    def test_a_folder_with_a_manifest_is_read_by_it(self, tmp_path: Path) -> None:
        videos(tmp_path, "a/1.mp4", "b/1.mp4")
        (tmp_path / "manifest.csv").write_text("path,label\na/1.mp4,x\nb/1.mp4,y\n")
        assert load(tmp_path).labels == ("x", "y")

    def test_a_moved_folder_is_the_same_data_with_the_same_split(self, tmp_path: Path) -> None:
        names = [f"{label}/{n}.mp4" for label in "ab" for n in range(9)]
        first, second = (
            with_split(load(videos(tmp_path / place, *names)), val_share=0.2, test_share=0.2, seed=1)
            for place in ("here", "there/else")
        )
        assert first.data_hash() == second.data_hash()
        assert first != second

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            ([], "holds no class folders"),
            (["clip.mp4"], "holds no class folders"),
            (["a/1.mp4"], "one class only: a"),
            (["a/1.mp4", "b/notes.txt"], "class folder .*b holds no video"),
            (["train/a/1.mp4", "train/b/1.mp4", "test/b/notes.txt"], "class folder .*test/b holds no video"),
            (
                ["train/a/1.mp4", "train/b/1.mp4", "test/2.mp4"],
                r"test/2\.mp4 lies in no class folder, and test is a split",
            ),
            (["train/1.mp4", "test/2.mp4"], r"test/2\.mp4 lies in no class folder, and test is a split"),
            (["train/a/1.mp4", "train/b/1.mp4", "test/a/2.mp4", "extra/a/3.mp4"], "extra is no split, and lies beside"),
            (["train/a/1.mp4", "train/b/1.mp4", "test/a/2.mp4", "raw/3.mp4"], "raw is no split, and lies beside"),
            (["a/1.mp4", "b/1.mp4", "2.mp4"], r"2\.mp4 lies in no class folder"),
            (["a/1.mp4", "b/line\nbreak.mp4"], r"b/line\\nbreak\.mp4' holds a control character"),
            (["a/1.mp4", " /1.mp4"], r" /1\.mp4': its class has no name"),
            (["a/1.mp4", "b/not\udce9utf8.mp4"], r"b/not\\udce9utf8\.mp4' holds .* not UTF-8 .*rename"),
        ],
    )
    def test_a_folder_that_cannot_be_used_is_refused(self, tmp_path: Path, names: list[str], message: str) -> None:
        with pytest.raises(DataError, match=message):
            load(videos(tmp_path, *names))

    def test_a_link_that_leads_nowhere_is_a_missing_clip(self, tmp_path: Path) -> None:
        videos(tmp_path, "a/1.mp4", "b/1.mp4")
        (tmp_path / "b" / "2.mp4").symlink_to(tmp_path / "not fetched.mp4")
        assert [Path(clip.path).name for clip in load(tmp_path).clips] == ["1.mp4", "1.mp4", "not fetched.mp4"]

    def test_links_to_folders_are_followed_and_none_is_walked_twice(self, tmp_path: Path) -> None:
        videos(tmp_path, "elsewhere/p1/2.mp4", "data/a/1.mp4", "data/b/3.mp4")
        (tmp_path / "data" / "a" / "p1").symlink_to(tmp_path / "elsewhere" / "p1")
        (tmp_path / "data" / "a" / "again").symlink_to(tmp_path / "data" / "a")
        assert [Path(clip.path).name for clip in load(tmp_path / "data").clips if clip.label == "a"] == [
            "1.mp4",
            "2.mp4",
        ]

    def test_one_video_under_two_names_is_refused(self, tmp_path: Path) -> None:
        videos(tmp_path, "a/1.mp4", "b/2.mp4")
        (tmp_path / "b" / "1.mp4").symlink_to(tmp_path / "a" / "1.mp4")
        with pytest.raises(DataError, match=r"b/1\.mp4': .*a/1\.mp4 is given by '.*a/1\.mp4' already"):
            load(tmp_path)


class TestTable:
    def test_a_quote_may_stand_behind_a_blank(self, tmp_path: Path) -> None:
        loaded = load(table(tmp_path, 'label, path\n"u", "a, b.mp4"\n v , c.mp4\n'))
        assert [(Path(clip.path).name, clip.label) for clip in loaded.clips] == [("a, b.mp4", "u"), ("c.mp4", "v")]

    def test_columns_may_come_in_any_order_and_with_blanks(self, tmp_path: Path) -> None:
        path = table(tmp_path, "label, path ,group,split\n wave ,a.mp4, p1 ,train\nclap,/b.mp4,,test\n")
        assert load(path).clips == (
            Clip(path=str(tmp_path / "a.mp4"), label="wave", split="train", group="p1"),
            Clip(path="/b.mp4", label="clap", split="test", group="/b.mp4"),
        )

    def test_two_parts_of_a_video_are_two_clips_of_one_group(self, tmp_path: Path) -> None:
        path = table(tmp_path, "path,label,start_s,end_s\na.mp4,x,,2.5\na.mp4,y,2.5,\nb.mp4,y,,\n")
        clips = load(path).clips
        assert [(clip.start_s, clip.end_s) for clip in clips] == [(None, 2.5), (2.5, None), (None, None)]
        assert [clip.key.removeprefix(str(tmp_path)) for clip in clips] == ["/a.mp4#t=0,2.5", "/a.mp4#t=2.5", "/b.mp4"]
        assert [clip.group for clip in clips] == ["a.mp4", "a.mp4", "b.mp4"]
        assert load(path).without([clips[0].key]).clips == clips[1:]

    @pytest.mark.parametrize("other", ["./a.mp4", "sub/../a.mp4", "{here}/a.mp4", "link.mp4"])
    def test_a_file_is_one_group_however_it_is_spelled(self, tmp_path: Path, other: str) -> None:
        (tmp_path / "link.mp4").symlink_to("a.mp4")
        rows = f"a.mp4,x,{{}},,1\n{other.format(here=tmp_path)},x,{{}},1,2\nb.mp4,y,{{}},,\n"
        header = "path,label,split,start_s,end_s\n"
        clips = load(table(tmp_path, header + rows.format("", "", ""))).clips
        assert [clip.group for clip in clips] == ["a.mp4", "a.mp4", "b.mp4"]
        with pytest.raises(DataError, match=r"group a\.mp4 is in train and in test"):
            load(table(tmp_path, header + rows.format("train", "test", "test")))

    def test_a_folder_whose_name_no_table_can_hold_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "\a").mkdir()
        with pytest.raises(DataError, match=r"list\.csv:2: .*/\\x07/a\.mp4' holds a control character"):
            load(Source(path=table(tmp_path, "path,label\na.mp4,x\nb.mp4,y\n"), videos=tmp_path / "\a"))

    def test_a_link_to_itself_is_a_missing_clip(self, tmp_path: Path) -> None:
        (tmp_path / "a.mp4").symlink_to("a.mp4")
        assert len(load(table(tmp_path, "path,label\na.mp4,x\nb.mp4,y\n")).clips) == 2

    def test_videos_may_lie_in_another_folder(self, tmp_path: Path) -> None:
        path = table(tmp_path, "path,label\na.mp4,x\n/b.mp4,y\n")
        (tmp_path / "videos").mkdir()
        clips = load(Source(path=path, videos=tmp_path / "videos")).clips
        assert [clip.path for clip in clips] == [str(tmp_path / "videos" / "a.mp4"), "/b.mp4"]
        assert clips[0].group == "a.mp4"

    def test_times_are_part_of_the_data_and_no_times_change_nothing(self, tmp_path: Path) -> None:
        hashes = [
            load(table(tmp_path, f"path,label,end_s\na.mp4,x,{end_s}\nb.mp4,y,\n")).data_hash()
            for end_s in ("", "1", "2")
        ]
        assert len(set(hashes)) == 3
        assert load(table(tmp_path, "path,label\na.mp4,x\nb.mp4,y\n")).data_hash() == hashes[0]

    def test_a_byte_order_mark_and_empty_lines_do_no_harm(self, tmp_path: Path) -> None:
        path = tmp_path / "list.csv"
        path.write_bytes(b"\xef\xbb\xbfpath,label\r\n\r\na.mp4,x\r\nb.mp4,y\r\n\r\n")
        assert load(path).labels == ("x", "y")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", r"list.csv:1: the columns are .*expected path,label,split\[,group\]\[,start_s,end_s\]"),
            ("path,class\na.mp4,x\n", "the columns are path,class"),
            ("path,label,speed\na.mp4,x,1\n", "the columns are path,label,speed"),
            ("path,label,label\na.mp4,x,y\n", "the columns are path,label,label"),
            ("path,label\n", "lists no clip"),
            ("path,label\na.mp4,x\n", "one class only: x"),
            ("path,label\na.mp4,x\nb.mp4\n", "list.csv:3: the row does not have the header's number of columns"),
            ("path,label\na.mp4,x,y\n", "list.csv:2: the row does not have"),
            ("path,label\n,x\n", "list.csv:2: path and label must not be empty"),
            ("path,label\na.mp4, \n", "list.csv:2: path and label must not be empty"),
            ("path,label,split\na.mp4,x,dev\n", "list.csv:2: split 'dev' is not known"),
            ("path,label,split\na.mp4,x,Train\n", "list.csv:2: split 'Train' is not known .*train, val, test"),
            ("path,label\nhttps://host/a.mp4,x\n", "list.csv:2: https://host/a.mp4 is an address .*download"),
            ("path;label\na.mp4;x\n", "list.csv:1: the columns are path;label"),
            (
                'path,label\na.mp4,"two\nlines"\n',
                r"list.csv:3: 'two\\nlines' holds a control character",
            ),
            ("path,label\na.mp4,two\u2028lines\n", r"list.csv:2: 'two\\u2028lines' holds .* a line's end"),
            ("path,label\na.mp4,two\u2029lines\n", r"list.csv:2: 'two\\u2029lines' holds .* a line's end"),
            ("path,label,start_s\na.mp4,x,\na.mp4,y,0\n", "list.csv:3: .*a.mp4#t=0 is given by .*list.csv:2 already"),
            ("path,label\na.mp4,x\nb.mp4,y\n./a.mp4,y\n", "list.csv:4: .*a.mp4 is given by .*list.csv:2 already"),
            ("path,label,split\na.mp4,x,train\nb.mp4,y,\n", "1 of 2 rows have no split"),
            (
                "path,label,split,group\na.mp4,x,train,p\nb.mp4,y,test,p\n",
                "group p is in train and in test .*results mean nothing",
            ),
            ("path,label,start_s\na.mp4,x,now\n", "list.csv:2: start_s 'now' is not a time"),
            ("path,label,end_s\na.mp4,x,-3\n", "list.csv:2: end_s '-3' is not a time"),
            ("path,label,end_s\na.mp4,x,31536001\n", "list.csv:2: end_s '31536001' is not a time .*a year"),
            ("path,label,start_s,end_s\na.mp4,x,4,4\n", "list.csv:2: the clip ends at 4 s and begins at 4 s"),
            (
                "path,label,start_s,end_s\na.mp4,x,1,2\na.mp4,x,1.0,2\n",
                r"list.csv:3: .*a.mp4#t=1,2 is given by .*list.csv:2 already",
            ),
            ('path,label\n"a.mp4,x\nb.mp4,y\n', "is not a CSV file: .*is a quote left open"),
            ("path,label\n" + "a" * 200_000 + ",x\n", "is not a CSV file"),
        ],
    )
    def test_a_wrong_row_is_refused_with_its_line(self, tmp_path: Path, text: str, message: str) -> None:
        with pytest.raises(DataError, match=message):
            load(table(tmp_path, text))

    @pytest.mark.parametrize("held", [b"path,label\n\xff\xfe,x\n", "path,label\na.mp4,x\n".encode("utf-16")])
    def test_a_table_in_another_encoding_is_refused(self, tmp_path: Path, held: bytes) -> None:
        (tmp_path / "list.csv").write_bytes(held)
        with pytest.raises(DataError, match=r"cannot read .*list\.csv.*save it as UTF-8"):
            load(tmp_path / "list.csv")

    @given(manifest=manifests(with_splits=True) | manifests(with_splits=False))
    def test_what_is_written_reads_back_equal(
        self, tmp_path_factory: pytest.TempPathFactory, manifest: Manifest
    ) -> None:
        path = tmp_path_factory.mktemp("manifest") / "list.csv"
        write(manifest, path)
        assert load(path) == manifest
        assert load(path).data_hash() == manifest.data_hash()


@pytest.mark.parametrize(
    ("name", "message"),
    [("none", "there is no"), (300 * "n", "there is no"), ("file.txt", "neither a folder nor a .csv")],
)
def test_data_that_is_neither_folder_nor_table_is_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(DataError, match=message):
        load(tmp_path / name)
