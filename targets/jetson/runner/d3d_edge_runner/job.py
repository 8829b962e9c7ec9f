"""One run: its command line, its clips, and the results that are added to a file clip by clip."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
from pathlib import Path
from typing import Any, Iterator, NamedTuple, NoReturn, Sequence

import numpy as np

from . import PROTOCOL
from .errors import RunnerError

RESULTS, SAMPLES, PID, RUN = "results.jsonl", "samples.json", "pid", "run"
"""Names in the folder of a run."""
LOCK = "lock"
"""In the folder that the runner works in: of the whole device."""


class Pack(NamedTuple):
    """A file of clips, uint8 [clips, T, H, W, C], without a header."""

    path: Path
    clips: int


class _Parser(argparse.ArgumentParser):
    """Raises what is wrong with a command line: the host reads events, and not text for who sits at a terminal."""

    def error(self, message: str) -> NoReturn:
        raise RunnerError("usage", message)


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The command line of the protocol.

    Raises:
        RunnerError: the host speaks another version of it, or an argument is wrong.
    """
    parser = _Parser(prog="d3d_edge_runner", description=__doc__)
    parser.add_argument("--protocol", type=int, required=True, help="version of the protocol that the caller speaks")
    known, _ = parser.parse_known_args(words)
    if known.protocol != PROTOCOL:
        raise RunnerError("protocol", f"this runner speaks protocol {PROTOCOL}, not {known.protocol}")
    parser.add_argument("--model", type=Path, required=True, help="the ONNX file")
    parser.add_argument("--shape", type=shape, required=True, help="T,H,W,C of a clip")
    parser.add_argument("--classes", type=int, required=True, help="number of logits")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run: results.jsonl, samples.json")
    parser.add_argument("--run", default="", metavar="ID", help="written to --out: whose results are there")
    parser.add_argument("--clips", type=pack, action="append", default=[], metavar="FILE=COUNT", help="packed clips")
    parser.add_argument("--runtime", choices=["auto", "tensorrt", "onnxruntime"], default="auto")
    parser.add_argument("--threads", type=int, default=0, help="0: the runtime's own choice")
    parser.add_argument("--warmup", type=int, default=5, help="runs before the timed ones")
    parser.add_argument("--runs", type=int, default=50, help="timed runs")
    parser.add_argument("--min-runs", type=int, default=10, help="timed runs that the budget does not cut")
    parser.add_argument("--budget-s", type=float, default=3.0, help="seconds after which timing ends early")
    parser.add_argument("--sustained-s", type=float, default=0.0, help="then run without a pause for so many seconds")
    parser.add_argument("--resume", action="store_true", help="keep what an interrupted run left in --out")
    parser.add_argument("--watch-stdin", action="store_true", help="end when standard input does: the host is gone")
    job = parser.parse_args(words)
    if sum(pack.clips for pack in job.clips) < 1:
        parser.error("--clips FILE=COUNT is needed")
    return job


def shape(text: str) -> tuple[int, ...]:
    """The numbers of 'T,H,W,C'. Where there are none, the parser says this function's name."""
    return tuple(int(part) for part in text.split(","))


def pack(text: str) -> Pack:
    """The pack of 'FILE=COUNT'."""
    path, _, clips = text.rpartition("=")
    return Pack(Path(path), int(clips))


def clips_of(packs: Sequence[Pack], shape: tuple[int, ...], skip: set[int]) -> Iterator[tuple[int, Any]]:
    """Place and clip uint8 [T, H, W, C] of every packed clip whose place is not in `skip`.

    Raises:
        RunnerError: a file has not the size of its clips.
    """
    place = 0
    for pack in packs:
        expected = pack.clips * int(np.prod(shape))
        if pack.path.stat().st_size != expected:
            raise RunnerError("input", f"{pack.path} has {pack.path.stat().st_size} bytes, {expected} are expected")
        clips = np.memmap(pack.path, dtype=np.uint8, mode="r", shape=(pack.clips, *shape))
        for clip in clips:
            if place not in skip:
                yield place, np.array(clip)
            place += 1


class Results:
    """results.jsonl: a line that says what ran, then a line for each clip. A killed run leaves whole lines behind."""

    def __init__(self, folder: Path, runtime: str, *, resume: bool) -> None:
        self._path = folder / RESULTS
        self.done: set[int] = set()
        head = {"runtime": runtime}
        kept = self._whole_lines() if resume else []
        if kept and kept[0] == head:
            self.done = {int(line["clip"]) for line in kept[1:]}
            self._file = self._path.open("a", encoding="utf-8")
        else:
            # Logits of another version of the runtime are not mixed with these, and neither are its times.
            (folder / SAMPLES).unlink() if (folder / SAMPLES).exists() else None
            self._file = self._path.open("w", encoding="utf-8")
            self._write(head)

    def _whole_lines(self) -> list[Any]:
        """What the file holds, which is cut after its last whole line."""
        if not self._path.exists():
            return []
        with self._path.open("rb+") as file:
            found = file.read()
            whole = found[: found.rfind(b"\n") + 1]
            if whole != found:
                file.truncate(len(whole))
        try:
            return [json.loads(line) for line in whole.splitlines()]
        except ValueError:  # not what a killed process leaves, but a disk that lost power might
            return []

    def add(self, place: int, logits: Any) -> None:
        """Add the logits float32 [classes] of a clip. As text they keep every bit."""
        self._write({"clip": place, "logits": [float(value) for value in logits]})
        self.done.add(place)

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Wait until all is on the disk."""
        os.fsync(self._file.fileno())
        self._file.close()


def own(folder: Path, run: str) -> Any:
    """Take the device for this process, and say in the folder of the run which process group to end, and whose it is.

    Raises:
        RunnerError: another runner works here: two at once would spoil each other's times.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = (Path() / LOCK).open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise RunnerError("busy", "another run is going on on this device") from None
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    (folder / PID).write_text(str(os.getpid()))
    (folder / RUN).write_text(run)
    return lock
