"""What large sets and devices cost is worked out of what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest
from click.testing import CliRunner

from benchmarks import sampling, scale, training, transport
from d3d_edge import recipe
from d3d_edge.manifest import Clip
from tests.unit.video.samples import textured


@pytest.mark.parametrize(("limit", "places"), [(1, [0]), (3, [0, 3, 6]), (10, [*range(10)]), (30, [*range(10)])])
def test_a_sample_is_spread_and_has_no_clip_twice(limit: int, places: list[int]) -> None:
    clips = [Clip(path=f"{place}.mp4", label="a", split="", group="") for place in range(10)]
    assert sampling.spread(clips, limit) == [clips[place] for place in places]


SIZE = ("clip.frames=4", "clip.short_side=36", "clip.height=32", "clip.width=32")
SMALL = ["--recipe", "demo", *(word for value in SIZE for word in ("--set", value))]


def videos(folder: Path) -> str:
    """Two classes of a clip each, and a file that is none."""
    for place, name in enumerate(("a", "b")):
        (folder / name).mkdir()
        video = cv2.VideoWriter(str(folder / name / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25, (48, 48))
        for _ in range(12):
            video.write(textured(48, 48, place))
        video.release()
    (folder / "a" / "broken.mp4").write_bytes(b"no video")
    return str(folder)


def test_training_is_timed_without_reading_and_reading_without_training(tmp_path: Path) -> None:
    words = [videos(tmp_path), *SMALL, "--steps", "1", "--batch-size", "2", "--threads", "1", "--threads", "3"]
    ran = CliRunner().invoke(training.main, words)
    made = json.loads(ran.stdout)
    assert made["clips_per_s"]["loop" if made["device"] == "cpu" else "captured"] > 0
    assert {form: [*rates] for form, rates in made["read_per_s"].items()} == {
        form: ["1", "3"] for form in ("raw", "compressed")
    }
    # Of so small a clip a picture is as quick to read as the numbers, so only that both were read is certain.
    assert all(rate > 0 for rates in made["read_per_s"].values() for rate in rates.values())


def test_scale_works_a_whole_set_out_from_a_sample(tmp_path: Path) -> None:
    words = [videos(tmp_path), *SMALL]
    ran = CliRunner().invoke(scale.main, [*words, "--clips", "3600000", "--batch-size", "2", "--steps", "1"])
    made = json.loads(ran.stdout)
    clip, whole = made["mean_of_a_clip"], made["worked_out"]
    assert clip["clips"] == 2, "the broken clip is left out"
    assert clip["decoded_frames"] == 12
    # uint8 frames in three colours and two float16 components of flow, not cropped.
    assert clip["raw_bytes"] == pytest.approx(4 * 36 * 36 * (3 + 2 * 2), rel=1e-3)
    assert 0 < clip["compressed_bytes"] < clip["raw_bytes"]
    assert whole["cache_raw_gb"] == pytest.approx(3.6e-3 * clip["raw_bytes"], rel=1e-2)
    # 3.6 million clips take as many thousand hours as one takes seconds.
    assert whole["flow_cpu_h"] == pytest.approx(1000 * clip["flow_cpu_s"], rel=1e-2)
    epochs, rates = recipe.load("demo").student.train.epochs, made["training"]["student"]
    assert whole["student_device_h"] == pytest.approx(1000 * epochs / rates["raw"]["clips_per_s"], rel=1e-2)
    for form in ("raw", "compressed"):
        assert 0 < rates[form]["waiting_for_data"] < 1


def test_scale_needs_one_clip_that_can_be_read(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "broken.mp4").write_bytes(b"no video")
    ran = CliRunner().invoke(scale.main, [str(tmp_path), "--recipe", "demo"])
    assert ran.exit_code == 1
    assert "no clip of the sample can be read" in ran.output


def test_transport_parts_what_a_device_costs_from_its_run(tmp_path: Path) -> None:
    (tmp_path / "device").mkdir()
    done = CliRunner().invoke(
        transport.main, ["--clips", "3", "--clip-ms", "5", "--device", f"local:{tmp_path / 'device'}"]
    )
    assert done.exit_code == 0, done.output
    result = json.loads(done.output)
    assert [result[which]["sent_mb"] > 0 for which in ("first", "again")] == [True, False]
    for which in ("first", "again"):
        steps = result[which]
        assert 0.015 <= steps["run_s"] < 5
        parts = sum(steps[f"{step}_s"] for step in ("push", "start", "pull"))
        assert steps["overhead_s"] == pytest.approx(parts, abs=0.03)
