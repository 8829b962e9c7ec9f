from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from d3d_edge import manifest
from d3d_edge.clip import FlowSpec
from d3d_edge.errors import DataError, StorageError
from d3d_edge.progress import Silent
from d3d_edge.video.decode import count_frames
from d3d_edge.video.flow import flow_of_frames
from d3d_edge.video.rendered import CLASSES, render_clip, render_set

SIZE_PX, FRAMES = 48, 12


def render(folder: Path, clips_per_class: int = 1, seed: int = 0) -> None:
    render_set(
        folder,
        clips_per_class=clips_per_class,
        seed=seed,
        size_px=SIZE_PX,
        frames=FRAMES,
        workers=2,
        progress=Silent(),
    )


def features(frame: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """What one frame shows: a coarse picture, and how strong its edges are in each part."""
    grey = frame.mean(2)
    edges = np.abs(np.diff(grey, axis=0))[:, :-1] + np.abs(np.diff(grey, axis=1))[:-1]
    coarse = [part[:40, :40].reshape(5, 8, 5, 8).mean((1, 3)).ravel() for part in (grey, edges)]
    return np.concatenate([*coarse, frame.mean((0, 1)), frame.std((0, 1))])


def nearest_mean_accuracy(clips: list[list[npt.NDArray[np.float64]]]) -> float:
    """Accuracy of a nearest-mean classifier; the first half of each class trains, the other half tests."""
    data = np.array(clips)
    data = (data - data.mean((0, 1))) / data.std((0, 1))
    half = data.shape[1] // 2
    means = data[:, :half].mean(1)
    distances = np.linalg.norm(data[:, half:, None] - means, axis=-1)
    return float((distances.argmin(-1) == np.arange(len(data))[:, None]).mean())


def test_writes_a_folder_per_class_that_a_manifest_reads(tmp_path: Path) -> None:
    render(tmp_path / "set", clips_per_class=2)
    found = manifest.load(tmp_path / "set")
    assert found.labels == CLASSES
    assert len(CLASSES) == 10
    assert len(found.clips) == 20
    assert count_frames(Path(found.clips[0].path)) == FRAMES


def test_is_deterministic_and_goes_on_where_it_stood(tmp_path: Path) -> None:
    render(tmp_path / "a")
    render(tmp_path / "b", clips_per_class=2)
    first = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*.mp4")}
    (tmp_path / "a" / "grow" / "0000.mp4").unlink()
    (tmp_path / "a" / "grow" / ".0000.mp4.1.partial").write_bytes(b"left by a killed run")
    render(tmp_path / "a", clips_per_class=2)
    changed = {path for path, time in first.items() if path.stat().st_mtime_ns != time}
    assert changed == {tmp_path / "a" / "grow" / "0000.mp4"}
    for path in (tmp_path / "b").rglob("*.mp4"):
        assert path.read_bytes() == (tmp_path / "a" / path.relative_to(tmp_path / "b")).read_bytes()


def test_a_folder_of_another_set_is_refused(tmp_path: Path) -> None:
    render(tmp_path / "set")
    with pytest.raises(DataError, match="rendered with"):
        render(tmp_path / "set", seed=1)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises((StorageError, DataError)):
        render(tmp_path / "file" / "set")


@pytest.mark.parametrize(
    ("name", "axis", "sign"), [("move_left", 0, -1), ("move_right", 0, 1), ("move_up", 1, -1), ("move_down", 1, 1)]
)
def test_things_move_where_the_class_says(name: str, axis: int, sign: int) -> None:
    spec = FlowSpec(method="dis", preset="medium", bound_px=10)
    for number in range(3):
        frames = np.stack(render_clip(name, number, seed=0, size_px=96, frames=24))
        x_and_y = np.median(flow_of_frames(frames, spec), axis=0).mean((0, 1))
        assert sign * x_and_y[axis] > 4 * abs(x_and_y[1 - axis])


def test_one_frame_says_nothing_about_the_class() -> None:
    """Neither the first, the middle nor the last one."""
    clips = [
        [render_clip(name, number, seed=0, size_px=SIZE_PX, frames=FRAMES) for number in range(40)] for name in CLASSES
    ]
    for at in (0, FRAMES // 2, FRAMES - 1):
        # 200 test clips: chance is 0.10 +- 0.021.
        assert nearest_mean_accuracy([[features(clip[at]) for clip in of_class] for of_class in clips]) < 0.17
