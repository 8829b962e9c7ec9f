"""Who makes the entries of a cache: this process, several, or a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from d3d_edge.clip import ClipSpec, FlowSpec
from d3d_edge.errors import DataError, RecipeError
from d3d_edge.manifest import Clip
from d3d_edge.video import cache
from tests.unit.video.samples import prepared


def test_processes_give_the_same_entries(
    clips: list[Clip], tmp_path: Path, spec: ClipSpec, flow_spec: FlowSpec, capfd: pytest.CaptureFixture[str]
) -> None:
    Path(clips[1].path).write_text("no video")
    alone = prepared(clips, tmp_path / "a", spec, flow_spec)
    pooled = prepared(clips, tmp_path / "b", spec, flow_spec, workers=2)
    assert pooled.skipped == alone.skipped
    assert pooled.computed == 2
    for one, other in zip(alone.clips, pooled.clips, strict=True):
        assert one.frames_path.read_bytes() == other.frames_path.read_bytes()
        assert one.flow_path.read_bytes() == other.flow_path.read_bytes()
    with pytest.raises(DataError, match=r"1\.mp4 is not a video"):
        prepared(clips, tmp_path / "b", spec, flow_spec, workers=2, strict=True)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("missing", "given", "look_s", "handed_out", "started"),
    [
        ((), {}, 60, 0, 0),
        ((1,), {}, 60, 1, 1),
        ((0, 2), {}, 60, 2, 2),
        ((0, 1, 2), {}, 60, 3, 2),
        ((), {"verify": True}, 60, 3, 2),
        ((), {}, -1, 3, 2),
    ],
    ids=["all there", "one missing", "as many missing as processes", "none there", "verified", "slow to look up"],
)
def test_processes_are_started_for_what_is_missing(
    missing: tuple[int, ...],
    given: dict[str, bool],
    look_s: float,
    handed_out: int,
    started: int,
    clips: list[Clip],
    tmp_path: Path,
    spec: ClipSpec,
    flow_spec: FlowSpec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = prepared(clips, tmp_path / "c", spec, flow_spec)
    for place in missing:
        whole.clips[place].flow_path.unlink()
    seen: list[Any] = []

    @contextmanager
    def mapper(workers: int, **options: object) -> Iterator[Callable[..., Any]]:
        seen.append(workers)
        yield lambda work, rest: seen.append(len(rest)) or map(work, rest)

    monkeypatch.setattr(cache, "mapper", mapper)
    monkeypatch.setattr(cache, "_LOOK_S", look_s)
    again = prepared(clips, tmp_path / "c", spec, flow_spec, workers=2, **given)
    assert seen == [started, handed_out]
    assert again.clips == whole.clips
    assert again.computed == len(missing)


def test_an_unknown_engine_is_refused(clips: list[Clip], tmp_path: Path, spec: ClipSpec, flow_spec: FlowSpec) -> None:
    with pytest.raises(RecipeError, match="no engine 'spark'"):
        prepared(clips, tmp_path / "c", spec, flow_spec, engine="spark")
