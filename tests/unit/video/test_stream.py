"""Files, cameras and streams as one source of frames."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from d3d_edge.errors import DataError, DeviceError
from d3d_edge.video import decode
from d3d_edge.video.stream import Source, opened
from tests.unit.video.samples import VideoWriter


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The address at which the test's folder is served."""
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=tmp_path)) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("text", "kind", "live", "name"),
    [
        ("clip.mp4", "file", False, "clip.mp4"),
        ("0", "camera", True, "camera 0"),
        ("./0", "file", False, "./0"),
        ("rtsp://me:secret@10.0.0.5:554/live?key=secret", "stream", True, "rtsp://10.0.0.5:554/live"),
        ("file:///clips/a.mp4", "stream", True, "file:///clips/a.mp4"),
        ("rtsp://me:secret@[10.0.0.5/live", "stream", True, "rtsp://..."),
    ],
)
def test_what_a_source_is(text: str, kind: str, live: bool, name: str) -> None:
    source = Source.of(text)
    assert (source.kind, source.live, source.name) == (kind, live, name)


@pytest.mark.parametrize(
    ("text", "files"),
    [
        ("clip.mp4", ("clip.mp4",)),
        ("a%20b.mp4", ("a%20b.mp4",)),
        ("file:///clips/a%20b.mp4", ("/clips/a%20b.mp4", "/clips/a b.mp4")),
        ("FILE://clips/a.mp4", ("/clips/a.mp4", "/clips/a.mp4")),
        ("http://10.0.0.5/clips/a.mp4", ()),
        ("0", ()),
    ],
)
def test_which_file_a_source_may_be(text: str, files: tuple[str, ...]) -> None:
    assert Source.of(text).files == files


def test_a_stream_gives_the_frames_and_times_of_the_file(write_video: VideoWriter, served: str) -> None:
    path = write_video("clip.mkv", count=12)
    frames = list(decode.iterate_frames(path))
    for address in (str(path), path.as_uri(), f"{served}/clip.mkv"):
        with opened(Source.of(address)) as stream:
            assert stream.rate_hz == 25
            read = list(stream.frames)
        assert [frame.time_s for frame in read] == pytest.approx([frame.time_s for frame in frames], abs=1e-3)
        assert all((one.image == other.image).all() for one, other in zip(read, frames, strict=True))


def test_times_go_on_where_those_of_a_stream_begin_again(write_video: VideoWriter) -> None:
    path = write_video("once.ts", count=10)
    twice = path.with_name("twice.ts")
    twice.write_bytes(2 * path.read_bytes())
    with opened(Source.of(twice.as_uri())) as stream:
        times_s = [frame.time_s for frame in stream.frames]
    assert times_s == pytest.approx([number / 25 for number in range(20)])


@pytest.mark.parametrize(
    ("address", "error", "words"),
    [
        ("77", DeviceError, "camera 77 cannot be opened"),
        ("99999999999999999999", DeviceError, "cannot be opened"),
        ("http://127.0.0.1:9/none", DataError, "the stream http://127.0.0.1:9/none cannot be opened"),
        ("nonsense://user:secret@host/x", DataError, "the stream nonsense://host/x cannot be opened"),
        ("none.mp4", DataError, "there is no video file none.mp4"),
    ],
)
def test_what_cannot_be_read_is_named_without_its_password(
    address: str, error: type[Exception], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(error, match=words) as raised, opened(Source.of(address)) as stream:
        list(stream.frames)
    assert "secret" not in str(raised.value)
    assert capfd.readouterr().err == ""
