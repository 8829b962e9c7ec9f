"""Official split files of UCF101 and HMDB51 say which clips there are; a wrong line is refused by its number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d3d_edge.errors import DataError
from d3d_edge.manifest import Source, load

Files = dict[str, str]
UCF: Files = {
    "classInd.txt": "1 ApplyEyeMakeup\r\n2 Archery\r\n",
    "trainlist01.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\r\nArchery/v_Archery_g08_c01.avi 2\r\n",
    "testlist01.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\r\nArchery/v_Archery_g01_c02.avi\r\n\r\n",
    "trainlist02.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi 1\nArchery/v_Archery_g01_c02.avi 2\n",
    "testlist02.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi\nArchery/v_Archery_g08_c01.avi\n",
}
HMDB: Files = {
    "brush_hair_test_split1.txt": "a_brush_0.avi 1 \nb_brush_0.avi 2 \nc_brush_0.avi 0 \n",
    "wave_test_split1.txt": "#20_wave 3_0.avi 1 \nb_wave_0.avi 2 \n",
    "brush_hair_test_split3.txt": "a_brush_0.avi 2 \nc_brush_0.avi 1 \n",
    "wave_test_split3.txt": "b_wave_0.avi 1 \n",
}
NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters="/"), min_size=1, max_size=8
)


@pytest.fixture
def splits(tmp_path: Path) -> Callable[..., Source]:
    """A folder of split files, changed as given, and a folder with one of its videos."""

    def make(files: Files, video: str, changes: Files | None = None, fold: int | None = None) -> Source:
        lists, videos = tmp_path / "lists", tmp_path / "videos"
        lists.mkdir(exist_ok=True)
        for name, text in (files | (changes or {})).items():
            (lists / name).write_text(text)
        (videos / video).parent.mkdir(parents=True, exist_ok=True)
        (videos / video).touch()
        return Source(path=lists, videos=videos, fold=fold)

    return make


UCF_VIDEO = "Archery/v_Archery_g08_c01.avi"
HMDB_VIDEO = "wave/b_wave_0.avi"


def summary(source: Source) -> list[tuple[str, str, str, str]]:
    assert source.videos
    root = source.videos.resolve()
    return [(str(Path(c.path).relative_to(root)), c.label, c.split, c.group) for c in load(source).clips]


def test_ucf101_has_the_first_split_by_default_and_a_group_of_each_name(splits: Callable[..., Source]) -> None:
    assert summary(splits(UCF, UCF_VIDEO)) == [
        ("ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi", "ApplyEyeMakeup", "train", "ApplyEyeMakeup_g08"),
        ("Archery/v_Archery_g08_c01.avi", "Archery", "train", "Archery_g08"),
        ("ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi", "ApplyEyeMakeup", "test", "ApplyEyeMakeup_g01"),
        ("Archery/v_Archery_g01_c02.avi", "Archery", "test", "Archery_g01"),
    ]


def test_another_fold_is_another_split(splits: Callable[..., Source]) -> None:
    first, second = (load(splits(UCF, UCF_VIDEO, fold=fold)) for fold in (1, 2))
    assert {clip.path for clip in first.of("train")} == {clip.path for clip in second.of("test")}


def test_a_class_may_lack_a_split_of_hmdb51(splits: Callable[..., Source]) -> None:
    assert [row[:3] for row in summary(splits(HMDB, HMDB_VIDEO, fold=3))] == [
        ("brush_hair/a_brush_0.avi", "brush_hair", "test"),
        ("brush_hair/c_brush_0.avi", "brush_hair", "train"),
        ("wave/b_wave_0.avi", "wave", "train"),
    ]


def test_hmdb51_leaves_out_what_its_split_does_not_use(splits: Callable[..., Source]) -> None:
    assert [row[:3] for row in summary(splits(HMDB, HMDB_VIDEO))] == [
        ("brush_hair/a_brush_0.avi", "brush_hair", "train"),
        ("brush_hair/b_brush_0.avi", "brush_hair", "test"),
        ("wave/#20_wave 3_0.avi", "wave", "train"),
        ("wave/b_wave_0.avi", "wave", "test"),
    ]


def test_what_macos_leaves_beside_the_lists_is_none(splits: Callable[..., Source]) -> None:
    source = splits(HMDB, HMDB_VIDEO)
    (source.path / "._wave_test_split1.txt").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        \0\xff\xfe")
    assert len(summary(source)) == 4


def test_videos_may_lie_flat_and_beside_the_lists(splits: Callable[..., Source]) -> None:
    source = splits(UCF, Path(UCF_VIDEO).name)
    assert Path(UCF_VIDEO).name in {Path(row[0]).as_posix() for row in summary(source)}
    assert source.videos
    (source.videos / Path(UCF_VIDEO).name).rename(source.path / Path(UCF_VIDEO).name)
    assert str((source.path / Path(UCF_VIDEO).name).resolve()) in {clip.path for clip in load(source.path).clips}


@given(
    classes=st.lists(st.text("abcDEF", min_size=1, max_size=6), min_size=2, max_size=5, unique=True),
    groups=st.lists(st.integers(1, 25), min_size=2, max_size=6, unique=True),
    clips=st.integers(1, 3),
    data=st.data(),
)
def test_every_line_of_ucf101_is_one_clip(
    tmp_path_factory: pytest.TempPathFactory, classes: list[str], groups: list[int], clips: int, data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("ucf")
    tested = set(data.draw(st.lists(st.sampled_from(groups), min_size=1, max_size=len(groups) - 1, unique=True)))
    rows = [(c, g, n) for c in classes for g in groups for n in range(1, clips + 1)]
    (root / "classInd.txt").write_text("".join(f"{place} {name}\n" for place, name in enumerate(classes, 1)))
    for kind in ("train", "test"):
        chosen = [row for row in rows if (row[1] in tested) == (kind == "test")]
        end = {c: f" {place}" if kind == "train" else "" for place, c in enumerate(classes, 1)}
        (root / f"{kind}list01.txt").write_text(
            "".join(f"{c}/v_{c}_g{g:02d}_c{n:02d}.avi{end[c]}\n" for c, g, n in chosen)
        )
    (root / f"v_{classes[0]}_g{groups[0]:02d}_c01.avi").touch()
    loaded = load(root)
    assert loaded.labels == tuple(sorted(classes))
    assert {(clip.group, clip.split) for clip in loaded.clips} == {
        (f"{c}_g{g:02d}", "test" if g in tested else "train") for c in classes for g in groups
    }
    assert len(loaded.clips) == len(rows)


@given(
    rows=st.dictionaries(
        NAMES.filter(lambda name: name not in (".", "..")), st.sampled_from("012"), min_size=1, max_size=12
    )
)
def test_every_used_line_of_hmdb51_is_one_clip(tmp_path_factory: pytest.TempPathFactory, rows: dict[str, str]) -> None:
    root = tmp_path_factory.mktemp("hmdb")
    (root / "run_test_split1.txt").write_text("there.avi 1\n", encoding="utf-8")
    (root / "walk_test_split1.txt").write_text("".join(f"{n}.avi {u} \n" for n, u in rows.items()), encoding="utf-8")
    (root / "there.avi").touch()
    if set(rows.values()) == {"0"}:
        return  # one class only: refused, as every set of one class is
    clips = [clip for clip in load(root).clips if clip.label == "walk"]
    assert [(Path(clip.path).name, clip.split) for clip in clips] == [
        (f"{name}.avi", {"1": "train", "2": "test"}[use]) for name, use in rows.items() if use != "0"
    ]


@pytest.mark.parametrize(
    ("changes", "fold", "message"),
    [
        ({"classInd.txt": "ApplyEyeMakeup\n"}, None, r"classInd.txt:1: 'ApplyEyeMakeup' is not of the form"),
        ({"classInd.txt": "1 Archery\n2 Archery\n"}, None, r"classInd.txt:2: .*Archery.* twice"),
        ({"classInd.txt": "1 Archery\n1 Bowling\n"}, None, r"classInd.txt:2: .*number 1 is given twice"),
        ({"trainlist01.txt": "\nArchery/v.avi\n"}, None, r"trainlist01.txt:2: 'Archery/v.avi' is not of the form"),
        ({"testlist01.txt": "Archery/v.avi 2\n"}, None, r"testlist01.txt:1: .* is not of the form Class/video.avi"),
        ({"testlist01.txt": "v.avi\n"}, None, r"testlist01.txt:1: 'v.avi' is not of the form"),
        ({"testlist01.txt": "Archry/v.avi\n"}, None, r"testlist01.txt:1: no class 'Archry'.*did you mean 'Archery'"),
        ({"trainlist01.txt": "Archery/v.avi 1\n"}, None, r"trainlist01.txt:1: Archery has the number 1, .* 2"),
        (
            {"testlist01.txt": "Archery/v_Archery_g08_c01.avi\n"},
            None,
            r"testlist01.txt:1: .* is given by .*trainlist01.txt:2 already",
        ),
        (
            {"testlist01.txt": "Archery/../Archery/v_Archery_g08_c01.avi\n"},
            None,
            r"testlist01.txt:1: .*/videos/Archery/v_Archery_g08_c01.avi is given by .*trainlist01.txt:2 already",
        ),
        (
            {"trainlist01.txt": "Archery//v.avi 2\n", "testlist01.txt": "ApplyEyeMakeup//v.avi\n"},
            None,
            r"testlist01.txt:1: /v.avi is given by .*trainlist01.txt:1 already",
        ),
        ({"classInd.txt": "1 Arch\aery\n"}, None, r"classInd.txt:1: '1 Arch\\x07ery' holds a control character"),
        ({"testlist01.txt": "\nArchery/\x1b.avi\n"}, None, r"testlist01.txt:2: 'Archery/\\x1b.avi' holds a control"),
        ({"testlist01.txt": "Archery/\0.avi\n"}, None, r"testlist01.txt:1: 'Archery/\\x00.avi' holds a control"),
        ({"testlist01.txt": "Archery/v_Archery_g08_c09.avi\n"}, None, "group Archery_g08 is in train and in test"),
        ({"trainlist03.txt": "Archery/v.avi 2\n"}, 3, "has no testlist03.txt"),
        ({}, 4, r"has no split 4 \(--fold chooses one; there: 1, 2\)"),
    ],
)
def test_a_wrong_line_of_ucf101(splits: Callable[..., Source], changes: Files, fold: int | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(splits(UCF, UCF_VIDEO, changes, fold))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.avi 3", r"wave_test_split1.txt:2: 'a.avi 3' is not of the form 'video.avi 1'"),
        ("a.avi", r"wave_test_split1.txt:2: 'a.avi' is not of the form"),
        ("1", r"wave_test_split1.txt:2: '1' is not of the form"),
        ("b.avi 2", r"wave_test_split1.txt:2: .*/wave/b.avi is given by .*wave_test_split1.txt:1 already"),
        ("b.avi 0", r"wave_test_split1.txt:2: .*/wave/b.avi is given by .*wave_test_split1.txt:1 already"),
        ("../wave/b.avi 2", r"wave_test_split1.txt:2: .*/wave/b.avi is given by .*wave_test_split1.txt:1 already"),
        ("\a.avi 2", r"wave_test_split1.txt:2: '\\x07.avi 2' holds a control character"),
        ("a\0.avi 0", r"wave_test_split1.txt:2: 'a\\x00.avi 0' holds a control character"),
    ],
)
def test_a_wrong_line_of_hmdb51(splits: Callable[..., Source], line: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(splits(HMDB, HMDB_VIDEO, {"wave_test_split1.txt": f"b.avi 1\n{line}\n"}))


def test_a_flat_file_that_two_classes_list_is_refused(splits: Callable[..., Source]) -> None:
    source = splits(HMDB, "0.avi", {"brush_hair_test_split1.txt": "0.avi 1\n", "wave_test_split1.txt": "0.avi 2\n"})
    with pytest.raises(DataError, match=r"wave_test_split1\.txt:1: .*0\.avi is given by .*brush_hair.*\.txt:1 already"):
        load(source)


def test_a_class_whose_name_no_table_can_hold_is_refused(splits: Callable[..., Source]) -> None:
    with pytest.raises(DataError, match=r":1: .*wa\\x07ve.* holds a control character"):
        load(splits(HMDB, HMDB_VIDEO, {"wa\ave_test_split1.txt": "c.avi 1\n"}))


@pytest.mark.parametrize(
    ("files", "video", "changes"),
    [
        (UCF, UCF_VIDEO, {"testlist01.txt": f"Archery/{'v' * 300}.avi\n"}),
        (HMDB, HMDB_VIDEO, {"brush_hair_test_split1.txt": f"{'v' * 300}.avi 1\n"}),
    ],
    ids=["ucf101", "hmdb51"],
)
def test_a_file_whose_name_is_too_long_is_missing(
    splits: Callable[..., Source], files: Files, video: str, changes: Files
) -> None:
    assert f"{'v' * 300}.avi" in {Path(clip.path).name for clip in load(splits(files, video, changes)).clips}


def test_a_missing_class_index_is_named_once(splits: Callable[..., Source]) -> None:
    source = splits(UCF, UCF_VIDEO)
    (source.path / "classInd.txt").unlink()
    with pytest.raises(DataError, match=r"^cannot read [^ ]*classInd\.txt: No such file or directory$"):
        load(source)


def test_videos_in_another_place_are_one_error_and_a_missing_one_is_none(splits: Callable[..., Source]) -> None:
    source = splits(UCF, UCF_VIDEO)
    assert len(load(source).clips) == 4
    with pytest.raises(DataError, match=r"none of the 4 videos .*e\.g\. v_ApplyEyeMakeup_g08_c01\.avi .*--videos"):
        load(source.path)
    with pytest.raises(DataError, match="there is no folder"):
        load(Source(path=source.path, videos=source.path / "none"))


def test_options_that_mean_nothing_are_refused(splits: Callable[..., Source], tmp_path: Path) -> None:
    videos = splits(UCF, UCF_VIDEO).videos
    (tmp_path / "list.csv").write_text("path,label\na.mp4,x\nb.mp4,y\n")
    for path in (videos, tmp_path / "list.csv"):
        assert path
        with pytest.raises(DataError, match="no set with numbered splits"):
            load(Source(path=path, fold=1))
    assert videos
    with pytest.raises(DataError, match="holds no split files"):
        load(Source(path=videos, videos=videos))
