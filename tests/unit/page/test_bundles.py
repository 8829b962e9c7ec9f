"""What the page says of bundles: what they are, what an app must feed them, and whether its figures are of them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from d3d_edge import page
from d3d_edge.bundle import Bundle, Description
from d3d_edge.page.material import gather
from d3d_edge.runner import TensorSpec
from tests.unit.page import samples
from tests.unit.page.reader import Reader
from tests.unit.video.samples import spec_of


def described(changes: dict[str, Any], runtime: Any = "executorch") -> Description:
    clip = spec_of(**changes)
    return Description(
        name=samples.NASTY,
        target="android",
        runtime=runtime,
        precision="int8",
        scheme="symmetric",
        model="model.pte",
        clip=clip,
        clip_hash=clip.hash(),
        video_length_s=None if changes else 1.5,
        video_rate_hz=30.0 if changes else None,
        labels=samples.LABELS,
        input=TensorSpec(name="clip", dtype="uint8", shape=clip.shape),
        output=TensorSpec(name="logits", dtype="float32", shape=(4,)),
        graph_sha256="1a",
        float_sha256="2b",
        logit_step=0.1,
        calibration_hash="3c",
        data_hash="4d",
        tools={"torch": "2.13"},
        lowering={"delegates": 1},
        fallbacks=(f"refused {samples.NASTY}",),
    )


def _model(folder: Path) -> None:
    (folder / "model.pte").write_bytes(b"model")


def test_what_to_feed_a_bundle_is_told_of_each_that_differs(tmp_path: Path) -> None:
    for name, changes in (("one", {}), ("same", {}), ("other", {"sampling": "dense", "stride": 2})):
        Bundle.write(tmp_path / name, described(changes), _model)
    text = Reader(page.render(gather([tmp_path]))).text
    assert "What an app must feed one, same" in text
    assert "What an app must feed other" in text
    assert text.count("every 2. from the middle (of 30 frames a second in training)") == 1


def test_a_bundle_that_is_named_twice_is_shown_once(tmp_path: Path) -> None:
    Bundle.write(tmp_path / "android", described({}), _model)
    assert list(gather([tmp_path, tmp_path / "android"]).bundles) == ["android"]


@pytest.mark.parametrize("runtime", ["executorch", "coreml"])
@pytest.mark.parametrize("changes", [{}, {"sampling": "dense", "stride": 2}])
def test_bundles_say_what_they_are_and_what_to_feed_them(tmp_path: Path, changes: dict[str, Any], runtime: Any) -> None:
    Bundle.write(tmp_path / "bundles" / samples.NASTY.replace("/", ""), described(changes, runtime), _model)
    found = Reader(page.render(gather([tmp_path / "bundles"])))
    for words in (
        "1a",
        "2b",
        "3c",
        "4d",
        "delegates: 1",
        f"refused {samples.NASTY}",
        "uint8 8\u00d740\u00d740\u00d73",
        "model.pte",
        "Answers: logits: float32 1\u00d74",
    ):
        assert words in found.text
    assert (". A Core ML package takes and gives the same as float16" in found.text) == (runtime == "coreml")
    assert ("every 2." in found.text, "1.5 s long" in found.text) == (bool(changes), not changes)
    assert not found.count("script")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_sha256": None}, ""),  # an older report, which does not tell
        ({"model_sha256": hashlib.sha256(b"model").hexdigest()}, ""),
        ({"bundle": "elsewhere"}, ""),  # a bundle that is not shown
        ({}, "android: measured on another file than the bundle holds now; run validate again"),
        ({"clips": 0}, "android: measured on another file than the bundle holds now; run benchmark again"),
    ],
)
def test_figures_of_a_model_that_the_bundle_no_longer_holds_are_called_that(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    Bundle.write(tmp_path / "android", described({}), _model)
    samples.report(rows=(samples.measured("android", **changes),)).write(tmp_path / "report.json")
    text = Reader(page.render(gather([tmp_path]))).text
    assert said in text
    assert ("another file" in text) == bool(said)
