"""`predict` over time: windows of files, streams and cameras, drawn and summed up."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import click
import cv2
import numpy as np
import pytest

from d3d_edge.bundle import Bundle
from d3d_edge.pipeline import predict, videos, watch
from d3d_edge.runs import Run
from d3d_edge.video import decode, stream
from d3d_edge.video.stream import Source, Stream
from tests.cli.conftest import D3DEdge, changed

BUNDLE = "jetson"  # the one that opens fastest


def test_one_long_name_does_not_widen_the_other_rows(d3d_edge: D3DEdge, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = tuple(predict.Answer(label=label, probability=0.5) for label in ("x" * 300, "short"))
    times = {"open_ms": 1.0, "decode_ms": 1.0, "network_ms": 1.0, "end_to_end_fps": 1.0, "frames": 1}
    found = SimpleNamespace(answers=answers, where="host", runtime="eager", notes=(), **times)
    monkeypatch.setattr(predict, "predict", lambda *_, **__: found)
    _, second, *_ = d3d_edge("predict", "bundle", "clip.mp4").out.splitlines()
    assert second.endswith(" 50.0%")
    assert len(second) < 80


@pytest.fixture
def video(clips: Path) -> Path:
    """Twelve frames at 25 a second."""
    return sorted(clips.rglob("*.mp4"))[0]


@contextmanager
def endless(pictures: int | None = None) -> Iterator[str]:
    """The address of a Motion JPEG stream without end; or that sends so many pictures, and then nothing more."""
    _, picture = cv2.imencode(".jpg", np.full((64, 64, 3), 90, np.uint8))
    head = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(picture)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            for number in count():
                if number == pictures:
                    over.wait(60)
                    return
                try:
                    self.wfile.write(head + picture.tobytes() + b"\r\n")
                except OSError:
                    return
                time.sleep(0.002 if pictures else 0.01)

        def log_message(self, format: str, *args: object) -> None:
            pass

    over = threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        over.set()
        server.shutdown()
        thread.join()


def test_a_file_is_answered_for_window_by_window(made: Path, video: Path, tmp_path: Path, d3d_edge: D3DEdge) -> None:
    overlay, timeline = tmp_path / "out.mp4", tmp_path / "out.png"
    words = ("predict", made / "bundles" / BUNDLE, video, "--window", 0.24, "--stride", 0.08)
    result = d3d_edge(*words, "--overlay", overlay, "--timeline", timeline)
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    spans = [line.split(" s ")[0].strip() for line in lines[:4]]
    assert spans == ["0.00 to 0.24", "0.08 to 0.32", "0.16 to 0.40", "0.24 to 0.48"]
    assert "4 windows of 0.24 s every 0.08 s (uniform sampling)" in lines[4]
    assert "frames/s of 12 frames: decode" in lines[5]
    frames = list(decode.iterate_frames(overlay))
    assert len(frames) == 12
    assert frames[0].image.shape == (384, 384, 3)
    assert timeline.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.mp4", "out.png"]


def test_windows_of_too_few_frames_are_left_out(
    made: Path, video: Path, tmp_path: Path, d3d_edge: D3DEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a file whose rate falls to a third in its second half."""
    opened = watch.opened

    @contextmanager
    def slowing(source: Source) -> Iterator[Stream]:
        with opened(source) as stream:
            times_s = [0.04 * number + 0.08 * max(0, number - 6) for number in range(12)]
            frames = (frame._replace(time_s=time_s) for time_s, frame in zip(times_s, stream.frames, strict=True))
            yield stream._replace(frames=frames)

    monkeypatch.setattr(watch, "opened", slowing)
    words = ("predict", made / "bundles" / BUNDLE, video, "--window", 0.24, "--stride", 0.08)
    result = d3d_edge(*words, "--timeline", tmp_path / "out.png")
    assert result.code == 0, result.err
    assert [line.split(" s ")[0].strip() for line in result.out.splitlines()[:3]] == [
        "0.00 to 0.24",
        "0.08 to 0.32",
        "0.16 to 0.40",
    ]
    assert "windows left out, to keep up or for want of frames" in result.out
    assert (tmp_path / "out.png").is_file()


def test_a_window_as_long_as_the_training_videos_answers_as_the_whole_file_does(
    made: Path, video: Path, d3d_edge: D3DEdge
) -> None:
    bundle = made / "bundles" / BUNDLE
    assert json.loads((bundle / "manifest.json").read_text())["video_length_s"] == 0.48
    whole = json.loads(d3d_edge("predict", bundle, video, "--json").out)
    *windows, summed = [
        json.loads(line) for line in d3d_edge("predict", bundle, video, "--json", "--stride", 1).out.splitlines()
    ]
    assert [window["answers"] for window in windows] == [whole["answers"]]
    assert summed["window_s"] == pytest.approx(0.48)
    assert summed["frames"] == whole["frames"] == 12
    assert summed["end_to_end_fps"] > 0
    assert whole["end_to_end_fps"] > 0


def test_the_length_of_a_video_is_not_that_of_a_list_that_ends_behind_it(made: Path, tmp_path: Path) -> None:
    run = Run.open(made / "run")
    clips = tuple(clip.model_copy(update={"start_s": 0.08, "end_s": 1000.0}) for clip in run.data.clips)
    listed = Run(run.path, run.recipe, run.data.model_copy(update={"clips": clips}))
    found = videos.looked_at(listed)
    assert (found.length_s, found.rate_hz) == (pytest.approx(0.4), 25)


def test_what_the_videos_were_like_is_known_when_they_are_away(made: Path, tmp_path: Path) -> None:
    run = Run.open(made / "run")
    clips = tuple(clip.model_copy(update={"path": str(tmp_path / "away.mp4")}) for clip in run.data.clips)
    away = Run(run.path, run.recipe, run.data.model_copy(update={"clips": clips}))
    assert videos.trained_on(away) == videos.looked_at(run)
    assert videos.looked_at(away).length_s is None


@pytest.mark.parametrize("words", [(), ("--stride", 0.1)], ids=["whole", "windows"])
@pytest.mark.parametrize(("trained_hz", "said"), [(50.0, True), (24.0, False)])
def test_a_source_of_another_rate_than_counted_frames_had_in_training_is_told(
    trained_hz: float, said: bool, words: tuple[object, ...], bundle_copy: Path, video: Path, d3d_edge: D3DEdge
) -> None:
    clip = Bundle.open(bundle_copy).manifest.clip.model_copy(update={"sampling": "dense", "stride": 2})
    changed(bundle_copy, lambda _: None, clip=clip, clip_hash=clip.hash(), video_rate_hz=trained_hz)
    result = d3d_edge("predict", bundle_copy, video, *words)
    assert result.code == 0, result.err
    note = "note: 25 frames a second here, and 50 in the videos of training: to the network, motion is 2 times as fast"
    assert (note in result.out) is said
    assert ("note:" in result.out) is said


def test_a_window_may_end_where_seconds_do(made: Path, video: Path, d3d_edge: D3DEdge) -> None:
    words = ("predict", made / "bundles" / BUNDLE, video, "--window", 0.24, "--stride", 0.08)
    for seconds, windows in (("0.24", "1 window"), ("0.4", "3 windows")):
        result = d3d_edge(*words, "--seconds", seconds)
        assert result.code == 0, result.err
        assert f"{windows} of 0.24 s" in result.out


def test_a_stream_that_ends_is_answered_for_to_its_end(made: Path, video: Path, d3d_edge: D3DEdge) -> None:
    words = (made / "bundles" / BUNDLE, video.as_uri(), "--window", 0.24, "--stride", 0.08)
    result = d3d_edge("predict", *words)
    assert result.code == 0, result.err
    assert "4 windows" in result.out


def test_an_endless_stream_is_answered_for_until_the_seconds_are_over(made: Path, d3d_edge: D3DEdge) -> None:
    with endless() as address:
        words = ("--window", 0.2, "--stride", 0.1, "--seconds", 0.6, "--json")
        result = d3d_edge("predict", made / "bundles" / BUNDLE, address, *words)
    assert result.code == 0, result.err
    *windows, summed = [json.loads(line) for line in result.out.splitlines()]
    assert summed["ended"] == "seconds"
    assert windows
    assert all(window["end_s"] - window["start_s"] == pytest.approx(0.2) for window in windows)


@pytest.mark.parametrize(
    ("pictures", "patience_s", "said"),
    # FFmpeg looks at some hundred pictures before a stream counts as open.
    [(500, 2, "sent nothing for 2 s (is it still there, and the way to it?)"), (2, 0.5, "cannot be opened")],
)
def test_a_stream_that_stalls_is_given_up_and_what_was_answered_is_kept(
    made: Path,
    tmp_path: Path,
    d3d_edge: D3DEdge,
    monkeypatch: pytest.MonkeyPatch,
    pictures: int,
    patience_s: float,
    said: str,
) -> None:
    monkeypatch.setattr(stream, "_PATIENCE_MS", int(1000 * patience_s))
    overlay = tmp_path / "out.mp4"
    with endless(pictures) as address:
        words = (address, "--window", 0.1, "--stride", 0.1, "--overlay", overlay)
        result = d3d_edge("predict", made / "bundles" / BUNDLE, *words)
    assert result.code == 8, result.err
    assert said in result.err
    answered = "sent" in said
    assert ("windows of" in result.out, overlay.exists()) == (answered, answered)


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize(
    ("number", "code", "error"),
    [
        (signal.SIGINT, 0, ""),
        (signal.SIGTERM, 143, "error: ended by SIGTERM; run the same command again\n"),
        (signal.SIGHUP, 129, "error: ended by SIGHUP; run the same command again\n"),
    ],
    ids=["ctrl-c", "asked to end", "terminal closed"],
)
def test_a_stream_that_is_interrupted_ends_well_and_keeps_the_overlay(
    number: signal.Signals,
    code: int,
    error: str,
    made: Path,
    tmp_path: Path,
    d3d_edge: D3DEdge,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    echo, said = click.echo, count(1)

    def echo_and_interrupt(*words: object, **more: object) -> None:
        echo(*words, **more)  # type: ignore[arg-type]
        if next(said) == 3:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(click, "echo", echo_and_interrupt)
    with endless() as address:
        words = (address, "--window", 0.1, "--stride", 0.1, "--overlay", tmp_path / "out.mp4")
        result = d3d_edge("predict", made / "bundles" / BUNDLE, *words)
    assert (result.code, result.err) == (code, error)
    assert "3 windows" in result.out
    assert ", stopped" in result.out
    assert decode.count_frames(tmp_path / "out.mp4") > 0


def test_what_goes_wrong_is_one_line_and_leaves_no_file(
    made: Path, video: Path, tmp_path: Path, d3d_edge: D3DEdge
) -> None:
    bundle = made / "bundles" / BUNDLE
    overlay = ("--overlay", tmp_path / "out.mp4")
    loop = tmp_path / "loop.mp4"
    loop.symlink_to(loop)
    cases = {
        ("77",): (7, "camera 77"),
        ("http://127.0.0.1:9/none", *overlay): (8, "cannot be opened"),
        ("none.mp4", *overlay): (8, "no video file"),
        (video, "--overlay", tmp_path / "out.txt"): (2, "out.txt"),
        (video, "--seconds", 0.1, *overlay): (8, "was left after 3 frames, 0.08 s, before a window was complete"),
        (video, "--window", 0.08, *overlay): (8, "a clip needs 4"),
        (video, "--window", 0): (2, "--window"),
        (video, "--window", "nan"): (2, "not a finite number"),
        (video, "--timeline", tmp_path / "out.jpg"): (2, "out.jpg is no .png"),
        (video, "--overlay", video): (2, "is the video itself"),
        (video.as_uri(), "--overlay", video): (2, "is the video itself"),
        (f"file://{video.parent}/%{ord(video.name[0]):x}{video.name[1:]}", "--overlay", video): (2, "the video itself"),
        (video, "--overlay", bundle / "out.mp4"): (
            2,
            "is a bundle, which holds nothing else (choose another --overlay)",
        ),
        (video, "--timeline", bundle / "golden" / "out.png"): (2, "(choose another --timeline)"),
        (loop, *overlay): (8, "no video file"),
    }
    for words, (code, said) in cases.items():
        result = d3d_edge("predict", bundle, *words)
        assert result.code == code, (words, result.err)
        assert said in result.err
        assert "Traceback" not in result.err
    assert list(tmp_path.iterdir()) == [loop]
