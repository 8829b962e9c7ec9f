"""A Kinetics list says which part of which video a clip is, and its file is found wherever it lies."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d3d_edge.errors import DataError
from d3d_edge.manifest import Source, load

HEADER = "label,youtube_id,time_start,time_end,split"
ROWS = """abseiling,-abc_1234567,10,20,train
air drumming,DEF,0,10,train
abseiling,ghi,3,13,val
air drumming,jkl,110,120,val
"""


def made(tmp_path: Path, text: str, *files: str) -> Path:
    (tmp_path / "list.csv").write_text(text)
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    return tmp_path / "list.csv"


@pytest.mark.parametrize(
    ("file", "span"),
    [
        ("abseiling/-abc_1234567_000010_000020.mp4", ""),
        ("-abc_1234567_000010_000020.mkv", ""),
        ("train/abseiling/-abc_1234567_000010_000020.mp4", ""),
        ("-abc_1234567.mp4", "#t=10,20"),
        ("abseiling/-abc_1234567.webm", "#t=10,20"),
    ],
)
def test_a_cut_file_is_a_clip_and_a_whole_one_holds_it(tmp_path: Path, file: str, span: str) -> None:
    clip = load(made(tmp_path, f"{HEADER}\n{ROWS}", file)).clips[0]
    assert clip.path == str((tmp_path / file).resolve())
    assert clip.span == span
    assert (clip.label, clip.split, clip.group) == ("abseiling", "train", "-abc_1234567")


def test_a_cut_file_goes_before_a_whole_one_and_the_folder_of_the_class_before_others(tmp_path: Path) -> None:
    files = ("air_drumming/DEF_000000_000010.mp4", "abseiling/DEF_000000_000010.mp4", "DEF.mp4")
    clip = load(made(tmp_path, f"{HEADER}\n{ROWS}", *files)).clips[1]
    assert clip.path == str((tmp_path / files[0]).resolve())
    assert clip.span == ""


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    path = made(tmp_path, f"{HEADER}\n{ROWS}", "disk/DEF_000000_000010.mp4")
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "train").symlink_to(tmp_path / "disk")
    (tmp_path / "videos" / "again").symlink_to(tmp_path / "videos")
    clip = load(Source(path=path, videos=tmp_path / "videos")).clips[1]
    assert clip.path == str(tmp_path / "disk" / "DEF_000000_000010.mp4")


@pytest.mark.parametrize("name", [".Trash-1000/files", ".AppleDouble", "abseiling/.runs", "lost+found"])
def test_a_trash_and_what_a_check_of_the_disk_found_are_not_searched(tmp_path: Path, name: str) -> None:
    file = f"{name}/DEF_000000_000010.mp4"
    path = made(tmp_path, f"{HEADER}\n{ROWS}", file, "ghi_000003_000013.mp4")
    assert load(path).clips[1].path != str(tmp_path / file)


def test_missing_files_are_listed_all_the_same(tmp_path: Path) -> None:
    clips = load(made(tmp_path, f"{HEADER},is_cc\n" + ROWS.replace("\n", ",0\n"), "DEF.mp4")).clips
    assert len(clips) == 4
    assert [Path(clip.path).exists() for clip in clips] == [False, True, False, False]
    assert clips[3].path == str((tmp_path / "air drumming" / "jkl_000110_000120.mp4").resolve())


@pytest.mark.parametrize("row", [f"abseiling,{'x' * 300},0,10,train", f"{'x' * 300},abc,0,10,train"])
def test_a_file_whose_name_would_be_too_long_is_missing(tmp_path: Path, row: str) -> None:
    # Beside another: in a folder that is not there, any name is just missing.
    clips = load(made(tmp_path, f"{HEADER}\n{row}\n{ROWS}", "abseiling/other.mp4", "DEF.mp4")).clips
    assert len(clips) == 5
    assert "x" * 300 in clips[0].path


def test_two_ids_of_one_file_are_refused(tmp_path: Path) -> None:
    path = made(tmp_path, f"{HEADER}\n{ROWS}", "DEF.mp4")
    for name in ("ghi_000003_000013.mp4", "jkl_000110_000120.mp4"):
        (tmp_path / name).symlink_to("DEF.mp4")
    with pytest.raises(DataError, match=r"list\.csv:5: .*DEF\.mp4 is given by .*list\.csv:4 already"):
        load(path)


def test_val_is_the_test_split_where_there_is_no_other(tmp_path: Path) -> None:
    path = made(tmp_path, f"{HEADER}\n{ROWS}", "DEF.mp4")
    assert [clip.split for clip in load(path).clips] == ["train", "train", "test", "test"]
    path = made(tmp_path, f"{HEADER}\n{ROWS}abseiling,mno,0,10,test\n", "mno.mp4")
    assert [clip.split for clip in load(path).clips] == ["train", "train", "val", "val", "test"]


def test_a_test_split_that_is_not_there_is_told_before_val_is_left_unmeasured(tmp_path: Path) -> None:
    path = made(tmp_path, f"{HEADER}\n{ROWS}abseiling,mno,0,10,test\nair drumming,pqr,0,10,test\n", "DEF.mp4")
    with pytest.raises(DataError, match=r"none of the 2 videos of the split test is below .*those of val are"):
        load(path)
    made(tmp_path, path.read_text(), "pqr.mp4")
    assert [clip.split for clip in load(path).clips] == ["train", "train", "val", "val", "test", "test"]
    made(tmp_path, path.read_text().replace(",val", ",train"))
    (tmp_path / "pqr.mp4").unlink()
    assert [clip.split for clip in load(path).clips] == ["train"] * 4 + ["test"] * 2


@pytest.mark.parametrize("encoding", ["utf-16", "cp1252"])
def test_a_list_in_another_encoding_is_not_left_out_beside_others(tmp_path: Path, encoding: str) -> None:
    made(tmp_path, f"{HEADER}\n{ROWS}", "DEF.mp4")
    (tmp_path / "more.csv").write_text(f"{HEADER}\ncafé,mno,0,10,train\n", encoding=encoding)
    with pytest.raises(DataError, match=r"cannot read .*more.csv: .*save it as UTF-8"):
        load(tmp_path)


def test_a_folder_of_lists_is_read_as_one(tmp_path: Path) -> None:
    lists = tmp_path / "annotations"
    lists.mkdir()
    rows = ROWS.splitlines(keepends=True)
    (lists / "train.csv").write_text(HEADER + "\n" + "".join(rows[:2]))
    (lists / "validate.csv").write_text(HEADER + "\n" + "".join(rows[2:]).replace(",val", ",validate"))
    (lists / "other.csv").write_text("a,b\n1,2\n")
    (tmp_path / "DEF.mp4").touch()
    loaded = load(Source(path=lists, videos=tmp_path))
    assert [clip.split for clip in loaded.clips] == ["train", "train", "test", "test"]


UNLABELLED = "youtube_id,time_start,time_end,split\n"


def test_test_rows_without_labels_are_left_out(tmp_path: Path) -> None:
    made(tmp_path, f"{HEADER}\n{ROWS}", "DEF.mp4")
    expected = load(tmp_path)
    for text in (f"{UNLABELLED}mno,0,10,test\n", f"{HEADER}\n,mno,0,10,test\n"):
        (tmp_path / "test.csv").write_text(text)
        assert load(tmp_path) == expected


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"test": f"{UNLABELLED}a,0,10,test\n", "test2": f"{UNLABELLED}b,0,10,test\n"}, "test.csv:1: .*label"),
        ({"train": f"{UNLABELLED}a,0,10,train\n", "val": f"{HEADER}\n{ROWS}"}, "train.csv:1: .*label"),
        ({"test": f"{UNLABELLED}a,0,10,test\nb,0,10,val\n", "train": f"{HEADER}\n{ROWS}"}, "test.csv:1: .*label"),
        ({"test": "youtube_id\na\n", "train": f"{HEADER}\n{ROWS}"}, "test.csv:1: .*label"),
    ],
    ids=["no list has them", "of training", "not of test alone", "of no split"],
)
def test_other_lists_without_labels_are_refused(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        (tmp_path / f"{name}.csv").write_text(text)
    with pytest.raises(DataError, match=f"{message} is missing"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("youtube_id,time_start,time_end,split\na,0,10,test\n", r"list.csv:1: the column label is missing"),
        (f"{HEADER}\na,b,0,10\n", "list.csv:2: the row does not have the header's number of columns"),
        (f"{HEADER}\na,b,0,10,trian\n", "list.csv:2: split 'trian' is not known .*did you mean 'train'"),
        (f"{HEADER}\na,,0,10,train\n", "list.csv:2: label and youtube_id must not be empty"),
        (f"{HEADER}\na,../b,0,10,train\n", "list.csv:2: .* must be a file's name"),
        (f"{HEADER}\na,b,,10,train\n", "list.csv:2: time_start and time_end must not be empty"),
        (f"{HEADER}\na,b,x,10,train\n", "list.csv:2: time_start 'x' is not a time"),
        (f"{HEADER}\na,b,-1,10,train\n", "list.csv:2: time_start '-1' is not a time"),
        (f"{HEADER}\na,b,0,inf,train\n", "list.csv:2: time_end 'inf' is not a time"),
        (f"{HEADER}\na,b,1e300,2e300,train\n", "list.csv:2: time_start '1e300' is not a time .*a year of them at most"),
        (f"{HEADER}\na,b,10,10,train\n", "list.csv:2: the clip ends at 10 s and begins at 10 s"),
        (f"{HEADER}\n{ROWS}abseiling,DEF,20,30,val\n", "group DEF is in train and in val"),
        (f"{HEADER}\n{ROWS}air drumming,DEF,0,10,train\n", "list.csv:6: .*is given by .*list.csv:3 already"),
    ],
)
def test_a_wrong_row_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(made(tmp_path, text, "DEF.mp4"))


def test_videos_in_another_place_are_one_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of the 4 videos .*list\.csv lists .*--videos"):
        load(made(tmp_path, f"{HEADER}\n{ROWS}"))


IDS = st.text("ABCxyz019-_", min_size=11, max_size=11)


@given(
    rows=st.dictionaries(
        IDS, st.tuples(st.integers(0, 9000), st.integers(1, 600), st.booleans()), min_size=2, max_size=9
    )
)
def test_every_row_is_found_under_its_name(
    tmp_path_factory: pytest.TempPathFactory, rows: dict[str, tuple[int, int, bool]]
) -> None:
    root = tmp_path_factory.mktemp("kinetics")
    text = HEADER + "\n"
    names = []
    for place, (video, (start, length, cut)) in enumerate(rows.items()):
        names.append(f"{video}_{start:06d}_{start + length:06d}.mp4" if cut else f"{video}.mp4")
        (root / names[-1]).touch()
        text += f"class {place % 2},{video},{start},{start + length},train\n"
    (root / "list.csv").write_text(text)
    for clip, name, (start, length, cut) in zip(load(root / "list.csv").clips, names, rows.values(), strict=True):
        assert Path(clip.path).name == name
        assert (clip.start_s, clip.end_s) == ((None, None) if cut else (start, start + length))


def test_a_folder_that_is_called_as_a_list_is_none(tmp_path: Path) -> None:
    made(tmp_path, f"{HEADER}\n{ROWS}", "DEF.mp4")
    (tmp_path / "old.csv").mkdir()
    assert len(load(tmp_path).clips) == 4
