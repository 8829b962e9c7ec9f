"""What the host makes of a runner's words: whatever a device prints or leaves, it is logits or one clear line."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d3d_edge.errors import DeviceError
from d3d_edge.harness import device
from d3d_edge.harness.packs import PACK_BYTES, Packer
from d3d_edge.transports import Ended, File

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
EVENTS = st.fixed_dictionaries(
    {"event": st.sampled_from(["hello", "clips", "error", "done", "alive", "later"])},
    optional=dict.fromkeys(("done", "total", "kind", "message", "device", "runtime"), JSON),
)


def job(clips: int = 2, classes: int = 2) -> device.Job:
    pack = File("blobs/a.clips", Path("a"), "0" * 64)
    return device.Job(
        program=device.Program("blobs/run"),
        model="blobs/model",
        files=(),
        clips=((pack, clips),),
        shape=(1, 2, 2, 3),
        classes=classes,
        threads=0,
        timing={"runs": 5, "budget-s": 0.5},
    )


@settings(max_examples=50)
@given(lines=st.lists(st.text() | JSON.map(json.dumps) | EVENTS.map(json.dumps), max_size=6), code=st.integers(-9, 255))
def test_whatever_a_device_prints_is_followed_or_refused_in_one_line(lines: list[str], code: int) -> None:
    heard = device._Listener("adb", lambda done: None)
    with suppress(DeviceError):  # and nothing else
        for line in lines:
            heard(line)
        heard.check(Ended(code, ""), 2)


@settings(max_examples=30)
@given(lines=st.lists(st.text(max_size=20) | JSON.map(json.dumps), max_size=4))
def test_whatever_a_device_leaves_is_logits_or_refused(
    lines: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "results.jsonl"
    path.write_text("\n".join(["{}", *lines]), encoding="utf-8")
    with pytest.raises(DeviceError, match=r"^adb"):
        device._logits("adb", path, job())


@settings(max_examples=30)
@given(values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=4, max_size=4))
def test_logits_keep_every_bit(values: list[float], tmp_path_factory: pytest.TempPathFactory) -> None:
    """As Python's runner writes them, and as the others do, with nine digits."""
    expected = np.array(values, dtype=np.float32).reshape(2, 2)
    path = tmp_path_factory.getbasetemp() / "results.jsonl"
    for write in (json.dumps, lambda logits: "[" + ", ".join(f"{value:.9g}" for value in logits) + "]"):
        lines = [f'{{"clip": {place}, "logits": {write(expected[place].tolist())}}}' for place in (1, 0)]
        path.write_text("\n".join(["{}", *lines]), encoding="utf-8")
        assert np.array_equal(device._logits("adb", path, job()), expected)


def test_a_job_is_found_again_by_what_it_runs() -> None:
    assert job().folder == job().folder
    assert len({job().folder, job(3).folder, job(classes=3).folder}) == 3
    assert "--resume" not in job().words()


def test_clips_are_packed_in_their_order_bit_for_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shape = (4, 512, 1024, 3)  # six of them fill a pack
    clips = [rng.integers(0, 256, shape, dtype=np.uint8) for _ in range(7)]
    packer = Packer(tmp_path)
    assert [clip is given for clip, given in zip(packer.through(clips), clips, strict=True)] == [True] * 7
    packs = packer.finished()
    assert [pack.clips for pack in packs] == [6, 1]
    assert PACK_BYTES <= packs[0].path.stat().st_size < PACK_BYTES + clips[0].nbytes
    content = b"".join(pack.path.read_bytes() for pack in packs)
    assert content == b"".join(clip.tobytes() for clip in clips)
