"""docs/apps.md: its Python makes the model's own bytes of a video, and its answers are those of the tool."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from d3d_edge.bundle import BundleManifest
from d3d_edge.clip import ClipSpec
from d3d_edge.runner import TensorSpec
from d3d_edge.video import preprocess
from tests.cli.conftest import D3DEdge, moved_by_noise

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "apps.md").read_text(encoding="utf-8")
CLIP, GOLDEN = re.findall(r"^```python\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)
SIZE = {"frames": 5, "short_clips": "repeat_last", "short_side": 40, "height": 33, "width": 40}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"interpolation": "bilinear", "short_side": 64},
        {"short_side": 97},
        {"sampling": "dense", "stride": 2},
        {"sampling": "dense", "stride": 2, "frames": 9},
        {"frames": 20},
    ],
    ids=str,
)
def test_the_clip_of_a_video_is_that_of_the_tool(
    changes: dict[str, Any], clip_data: dict[str, Any], clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ClipSpec.model_validate({**clip_data, **SIZE, **changes})
    (tmp_path / "bundles" / "android").mkdir(parents=True)
    (tmp_path / "bundles" / "android" / "manifest.json").write_text(json.dumps({"clip": spec.model_dump()}))
    (tmp_path / "clips" / "wave").mkdir(parents=True)
    video = tmp_path / "clips" / "wave" / "01.mp4"
    shutil.copyfile(next(clips.rglob("*.mp4")), video)
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(CLIP, found)
    np.testing.assert_array_equal(found["clip"], preprocess.load_clip(video, spec))


@pytest.mark.slow
def test_golden_clips_and_a_video_are_answered_as_by_the_tool(
    made: Path, clips: Path, d3d_edge: D3DEdge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("executorch")
    shutil.copytree(made / "bundles", tmp_path / "bundles")
    (tmp_path / "clips" / "wave").mkdir(parents=True)
    shutil.copyfile(next(clips.rglob("*.mp4")), tmp_path / "clips" / "wave" / "01.mp4")
    monkeypatch.chdir(tmp_path)
    with redirect_stdout(StringIO()) as printed:
        exec(CLIP + GOLDEN, {})
    *golden, answer = printed.getvalue().splitlines()
    expected = np.load("bundles/android/golden/logits.npy")
    assert len(golden) == len(expected)
    for line in golden:
        difference, moved = re.fullmatch(r".*, off by (\S+) \(noise: (\S+)\)", line).groups()  # type: ignore[union-attr]
        assert float(moved) == moved_by_noise(made / "bundles" / "android")
        assert float(difference) < 2 * float(moved)
    (tool,) = json.loads(d3d_edge("predict", "bundles/android", "clips/wave/01.mp4", "--json").out)["answers"][:1]
    assert answer.split()[0] == tool["label"]


def test_the_gradle_line_has_the_version_that_is_tested() -> None:
    (version,) = re.findall(r'"org\.pytorch:executorch-android:(.+)"', TEXT)
    assert f"executorch=={version}" in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()


def test_kotlin_and_swift_read_what_a_manifest_has() -> None:
    kotlin = set(re.findall(r'manifest\.getJSON\w+\("(\w+)"\)', TEXT))
    swift = set(re.findall(r"^    let (\w+): ", TEXT, flags=re.MULTILINE))
    assert kotlin == swift == {"input", "labels"} <= set(BundleManifest.model_fields)
    assert "shape" in TensorSpec.model_fields


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)#]+)", TEXT))
def test_links_lead_somewhere(link: str) -> None:
    assert (ROOT / "docs" / link).exists()
