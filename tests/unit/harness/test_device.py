"""What the host makes of a runner's words: whatever a device prints or leaves, it is logits or one clear line."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d3d_edge.errors import DeviceError
from d3d_edge.harness import device, latency, packs
from d3d_edge.harness.packs import PACK_BYTES, Packer
from d3d_edge.timing import Samples
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

RUNTIME = "onnxruntime 1"
HEAD = json.dumps({"runtime": RUNTIME})
ANSWERS = [json.dumps({"clip": place, "logits": [1, 2]}) for place in (0, 1)]


def job(clips: int = 2, classes: int = 2, threads: int = 0) -> device.Job:
    pack = File("blobs/a.clips", Path("a"), "0" * 64)
    return device.Job(
        program=device.Program("blobs/run"),
        model="blobs/model",
        files=(),
        clips=((pack, clips),),
        shape=(1, 2, 2, 3),
        classes=classes,
        threads=threads,
        timing={"runs": 5, "min-runs": 3, "budget-s": 0.5},
    )


@settings(max_examples=50)
@given(lines=st.lists(st.text() | JSON.map(json.dumps) | EVENTS.map(json.dumps), max_size=6), code=st.integers(-9, 255))
def test_whatever_a_device_prints_is_followed_or_refused_in_one_line(lines: list[str], code: int) -> None:
    heard = device._Listener("adb", 2, lambda done: None)
    with suppress(DeviceError):  # and nothing else
        for line in lines:
            heard(line)
        heard.check(Ended(code, ""))


@settings(max_examples=30)
@given(lines=st.lists(st.text(max_size=20) | JSON.map(json.dumps), max_size=4))
def test_whatever_a_device_leaves_is_logits_or_refused(
    lines: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "results.jsonl"
    path.write_text("\n".join([HEAD, *lines]), encoding="utf-8")
    with pytest.raises(DeviceError, match=r"^adb"):
        device._logits("adb", path, job(), RUNTIME)


def followed(heard: device._Listener, line: str) -> None:
    heard(line)
    heard.check(Ended(0, ""))


DEEP = "[" * 100_000
HUGE = "9" * 400


@pytest.mark.parametrize(
    "line",
    [
        DEEP,
        f'{{"event": "clips", "done": {HUGE}}}',
        '{"event": "clips", "done": -1}',
        '{"event": "hello", "protocol": 1, "runtime": "\\ud800"}',
        '{"event": "hello", "protocol": 1, "device": "\\udfff"}',
    ],
    ids=["deep", "huge", "negative", "runtime no text", "device no text"],
)
def test_an_event_that_nothing_can_be_made_of_is_passed_over_or_refused(line: str) -> None:
    counts: list[int] = []
    heard = device._Listener("adb", 2, counts.append)
    with pytest.raises(DeviceError, match=r"^adb: (it says what it is in words that are no text|its runner did not)"):
        followed(heard, line)
    assert counts == []


@pytest.mark.parametrize(
    "content",
    [
        None,
        f"{HEAD}\n".encode() + b"\xff",
        f"{HEAD}\n{DEEP}".encode(),
        f'{HEAD}\n{{"clip": 0, "logits": [{HUGE}, 1]}}'.encode(),
        f'{HEAD}\n{{"clip": 0, "logits": ["5", "6"]}}'.encode(),
        f'{HEAD}\n{{"clip": 0, "logits": [[5], 6]}}'.encode(),
        f'{HEAD}\n{{"clip": 0, "logits": 5}}'.encode(),
    ],
    ids=["no file", "not UTF-8", "deep", "huge", "texts", "a list of lists", "one number"],
)
def test_results_that_nothing_can_be_made_of_are_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "results.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DeviceError, match=r"^adb: the results are damaged: "):
        device._logits("adb", path, job(), RUNTIME)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([json.dumps({"runtime": "another"}), *ANSWERS], "another"),
        ([*ANSWERS], "clip"),
        ([], ""),
        ([HEAD, *ANSWERS, json.dumps({"clip": 0, "logits": [5, 6]})], "5, 6"),
    ],
    ids=["of another runtime", "of nobody", "empty", "a clip twice"],
)
def test_results_of_something_else_are_refused(lines: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text("\n".join(lines))
    with pytest.raises(DeviceError, match=f"^adb: the results are damaged: .*{said}"):
        device._logits("adb", tmp_path / "results.jsonl", job(), RUNTIME)


def test_a_failure_of_a_device_is_one_line() -> None:
    heard = device._Listener("adb", 2, lambda _: None)
    heard(json.dumps({"event": "error", "kind": "model", "message": "no engine:\n\n  of this version"}))
    with pytest.raises(DeviceError, match=r"^adb: no engine: of this version"):
        heard.check(Ended(1, ""))


def test_logits_that_no_float32_holds_are_not_finite(tmp_path: Path) -> None:
    lines = [f'{{"clip": {place}, "logits": [1e308, 1]}}' for place in (0, 1)]
    (tmp_path / "results.jsonl").write_text("\n".join([HEAD, *lines]))
    with pytest.raises(DeviceError, match="not finite"):
        device._logits("adb", tmp_path / "results.jsonl", job(), RUNTIME)


TIMES: dict[str, Any] = {
    "load_ms": 0.0,
    "first_ms": 5.0,
    "network_ms": [4.0, 4.1, 4.2],
    "threads": 2,
    "sustained": {"at_s": [0.0, 1.0, 1.0], "network_ms": [4.0, 4.0, 4.0]},
    "environment_after": {"cpus": 4},
}
VIDEO_TIMES = {"video": "a", "decode_ms": [1.0], "resize_ms": [1.0], "network_ms": [1.0]}


def sampled(folder: Path, changes: dict[str, Any], **timing: float) -> Samples:
    path = folder / "samples.json"
    path.write_text(json.dumps(TIMES | changes))
    asked = job(threads=2)
    return device._samples("adb", path, replace(asked, timing={**asked.timing, **timing}))


@pytest.mark.parametrize("changes", [{}, {"threads": 0}, {"network_ms": [1e-6, 1e9, 4.0], "sustained": None}])
def test_times_that_can_be_are_taken(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert latency.figures(sampled(tmp_path, changes)).runs == 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"network_ms": [4.0, 0.0, 4.0]}, "network_ms.1: "),
        ({"network_ms": [4.0, -1.0, 4.0]}, "network_ms.1: "),
        ({"network_ms": [4.0, 1e308, 4.0]}, "network_ms.1: "),
        ({"network_ms": [4.0, 1e-320, 4.0]}, "network_ms.1: "),
        ({"network_ms": [4.0, 4.0]}, "2 timed runs, at least 3 were asked for"),
        ({"threads": 7}, "7 threads, 2 were asked for"),
        ({"load_ms": -3}, "load_ms: "),
        ({"first_ms": 0}, "first_ms: "),
        ({"warmup_ms": [0.0]}, "warmup_ms.0: "),
        ({"memory_peak_bytes": -1}, "memory_peak_bytes: "),
        ({"memory_peak_bytes": 2**63}, "memory_peak_bytes: "),
        ({"environment_after": {"cpus": -4}}, "environment_after.cpus: "),
        ({"environment_before": {"clock_mhz": [1e308]}}, "environment_before.clock_mhz.0: "),
        ({"sustained": {"at_s": [2.0, 1.0], "network_ms": [4.0, 4.0]}}, "sustained: .*at_s must rise"),
        ({"sustained": {"at_s": [0.0, 90.0], "network_ms": [0.0, 0.0]}}, "sustained.network_ms.0: "),
        ({"end_to_end": {"video": "a", "decode_ms": [], "resize_ms": [], "network_ms": []}}, "end_to_end.decode_ms: "),
        ({"end_to_end": VIDEO_TIMES}, "times from a video file, which nobody asked for"),
        ({"build": "\ud800"}, ""),
    ],
)
def test_times_that_cannot_be_are_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(DeviceError, match=f"^adb: the results are damaged: .{said}"):
        sampled(tmp_path, changes)


def test_times_without_a_pause_come_where_they_are_asked_for(tmp_path: Path) -> None:
    assert sampled(tmp_path, {}, **{"sustained-s": 1.0}).sustained
    with pytest.raises(DeviceError, match="no times without a pause, which were asked for"):
        sampled(tmp_path, {"sustained": None}, **{"sustained-s": 1.0})


@settings(max_examples=30)
@given(values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=4, max_size=4))
def test_logits_keep_every_bit(values: list[float], tmp_path_factory: pytest.TempPathFactory) -> None:
    """As Python's runner writes them, and as the others do, with nine digits."""
    expected = np.array(values, dtype=np.float32).reshape(2, 2)
    path = tmp_path_factory.getbasetemp() / "results.jsonl"
    for write in (json.dumps, lambda logits: "[" + ", ".join(f"{value:.9g}" for value in logits) + "]"):
        lines = [f'{{"clip": {place}, "logits": {write(expected[place].tolist())}}}' for place in (1, 0)]
        path.write_text("\n".join([HEAD, *lines]), encoding="utf-8")
        assert np.array_equal(device._logits("adb", path, job(), RUNTIME), expected)


def test_a_job_is_found_again_by_what_it_runs() -> None:
    assert job().folder == job().folder
    assert len({job().folder, job(3).folder, job(classes=3).folder}) == 3
    assert "--resume" not in job().words()


def test_counts_are_written_out() -> None:
    words = replace(job(), timing={"runs": 1_000_000, "budget-s": 0.5}).words()
    assert words[-4:] == ["--runs", "1000000", "--budget-s", "0.5"]


def test_packs_of_a_large_set_grow_and_stay_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "PACK_BYTES", 32)
    monkeypatch.setattr(packs, "_MOST_BYTES", 128)
    packer = Packer(tmp_path)
    for number in range(16_384):
        packer.add(np.full((1, 1, 1, 1), number % 251, np.uint8))
    made = packer.finished()
    sizes = [pack.clips for pack in made]
    assert sizes[:32] == [32] * 32
    assert sizes[:-1] == sorted(sizes[:-1])
    assert max(sizes) == 128
    assert len(sizes) < 200  # of 512 that do not grow
    content = b"".join(pack.path.read_bytes() for pack in made)
    assert content == bytes(number % 251 for number in range(16_384))


def test_clips_are_packed_in_their_order_bit_for_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shape = (4, 512, 1024, 3)  # six of them fill a pack
    clips = [rng.integers(0, 256, shape, dtype=np.uint8) for _ in range(7)]
    packer = Packer(tmp_path)
    assert [clip is given for clip, given in zip(packer.through(clips), clips, strict=True)] == [True] * 7
    made = packer.finished()
    assert [pack.clips for pack in made] == [6, 1]
    assert PACK_BYTES <= made[0].path.stat().st_size < PACK_BYTES + clips[0].nbytes
    content = b"".join(pack.path.read_bytes() for pack in made)
    assert content == b"".join(clip.tobytes() for clip in clips)
