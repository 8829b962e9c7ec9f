"""A run on a device: model and clips go there, logits and raw times come back. Knows the protocol, and no device.

The protocol is in docs/devices.md. Every runner speaks it, whatever it is written in; accuracy and every figure are
computed here from what it sends, by the same code as for this machine.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from d3d_edge.errors import DeviceError
from d3d_edge.files import is_text, json_value, sha256_of_value
from d3d_edge.harness.accuracy import Logits
from d3d_edge.timing import Samples

if TYPE_CHECKING:
    from d3d_edge.transports import Ended, File, Transport

PROTOCOL = 1
"""The one in targets/jetson/runner, targets/android/bench and targets/ios/bench."""
SILENCE_S = 120.0
"""A runner that prints nothing for so long is given up. While it works it prints about once a second, but not
within one run of the model, nor, on a phone, while it loads one."""
RESULTS, SAMPLES, RUN = "results.jsonl", "samples.json", "run"
_HINTS = {
    "protocol": "build and install the device's program again, from this version of d3d-edge",
    "busy": "wait for the other run, or end it",
    "disk_full": f"make room there; {DeviceError.AGAIN}",
    "missing": "docs/devices.md says what the device needs",
    "model": "export the bundle again, or see docs/devices.md for what the device needs",
}


@dataclass(frozen=True)
class Program:
    """A device's runner."""

    name: str
    """The pushed file that the transport starts. Where it is an installed app, the transport knows that."""
    files: tuple[File, ...] = ()
    """To be pushed."""
    words: tuple[str, ...] = ()
    """Its own arguments, beside the protocol's."""


@dataclass(frozen=True)
class Job:
    """What a device is to run."""

    program: Program
    model: str
    """Name of the model on the device."""
    files: tuple[File, ...]
    """Of the model."""
    clips: tuple[tuple[File, int], ...]
    """Packs, and the number of clips in each."""
    shape: tuple[int, ...]
    """[T, H, W, C] of a clip."""
    classes: int
    threads: int
    timing: Mapping[str, float]
    """Values of --warmup, --runs, --min-runs, --budget-s and --sustained-s, by name without the dashes."""

    @property
    def count(self) -> int:
        """Clips in all packs."""
        return sum(clips for _, clips in self.clips)

    @property
    def folder(self) -> str:
        """Where the results lie on the device: the same job finds them again."""
        said = [self.program.name, self.words(), [file.sha256 for file in self.files], PROTOCOL]
        return f"jobs/{sha256_of_value(said)[:32]}"

    def words(self) -> list[str]:
        """The command line, but for --out, --run and --resume."""
        words = ["--protocol", str(PROTOCOL), "--model", self.model, "--shape", ",".join(map(str, self.shape))]
        words += ["--classes", str(self.classes), "--threads", str(self.threads), *self.program.words]
        for pack, clips in self.clips:
            words += ["--clips", f"{pack.name}={clips}"]
        for name, value in self.timing.items():
            words += [f"--{name}", f"{value:.12g}"]  # a million runs are no 1e+06: runners read whole numbers
        return words


@dataclass(frozen=True)
class Outcome:
    """What came back."""

    runtime: str
    """Name and version of what ran the model there."""
    native: bool
    """Whether that is the runtime that the bundle is made for; if not, its times say nothing about it."""
    device: str
    """What the device says it is."""
    logits: Logits
    """float32 [clips, classes], in the order of the packs."""
    samples: Samples
    ran: int
    """Clips that were run now; the others were there from before."""


def run(
    transport: Transport, job: Job, *, resume: bool, silence_s: float = SILENCE_S, on_clip: Callable[[int], None]
) -> Outcome:
    """Run `job`. `on_clip` is given the number of clips that are done, as it grows.

    With `resume`, the clips of an earlier run of this job that was cut short are kept.

    Raises:
        DeviceError: the device, the tool that reaches it, or the runner failed.
    """
    transport.push([*job.program.files, *job.files, *(pack for pack, _ in job.clips)])
    mine = secrets.token_hex(8)
    words = [*job.words(), "--out", job.folder, "--run", mine, "--watch-stdin", *(("--resume",) if resume else ())]
    heard = _Listener(transport.name, job.count, on_clip)
    ended = transport.start(job.program.name, words, folder=job.folder, on_line=heard, silence_s=silence_s)
    heard.check(ended)
    with tempfile.TemporaryDirectory() as scratch:
        results, samples, whose = (Path(scratch) / name for name in (RESULTS, SAMPLES, RUN))
        for path in (results, samples, whose):  # the last one last: another run writes it before the others
            transport.pull(f"{job.folder}/{path.name}", path)
        if _text(transport.name, whose) != mine:
            raise DeviceError(
                f"{transport.name}: another run took the device before the results were copied", hint=DeviceError.AGAIN
            )
        runtime = str(heard.hello.get("runtime", ""))
        return Outcome(
            runtime=runtime,
            native=bool(heard.hello.get("native")),
            device=str(heard.hello.get("device", "")),
            logits=_logits(transport.name, results, job, runtime),
            samples=_samples(transport.name, samples, job),
            ran=job.count - heard.kept,
        )


class _Listener:
    """Follows the events of a runner. Lines that are none, such as what a library prints, are passed over."""

    def __init__(self, device: str, count: int, on_clip: Callable[[int], None]) -> None:
        self._device, self._count, self._on_clip = device, count, on_clip
        self.hello: dict[str, Any] = {}
        self._error: dict[str, Any] = {}
        self._counts: list[int] = []
        self._done = False

    @property
    def kept(self) -> int:
        """Clips that were done before."""
        return self._counts[0] if self._counts else 0

    def __call__(self, line: str) -> None:
        try:
            event = json_value(line)
        except ValueError:
            return
        kind = event.get("event") if isinstance(event, dict) else None
        if kind == "hello":
            self.hello = event
            if event.get("protocol") != PROTOCOL:
                raise self._failed("protocol", f"its runner speaks protocol {event.get('protocol')}, not {PROTOCOL}")
            if not all(is_text(str(event.get(name, ""))) for name in ("runtime", "device")):
                raise self._failed("", "it says what it is in words that are no text")
        elif kind == "clips" and isinstance(event.get("done"), int) and 0 <= event["done"] <= self._count:
            self._counts.append(event["done"])
            self._on_clip(self._counts[-1])
        elif kind == "error":
            self._error = event
        elif kind == "done":
            self._done = True

    def check(self, ended: Ended) -> None:
        """Raises DeviceError unless the runner said hello, no error, and that it is done."""
        if self._error:
            raise self._failed(str(self._error.get("kind")), str(self._error.get("message")))
        said = ended.errors.splitlines()[-1] if ended.errors else f"exit code {ended.code}"
        if not self.hello:
            raise self._failed("protocol" if "--protocol" in said else "", f"its runner did not start: {said}")
        if not self._done:
            raise DeviceError(
                f"{self._device}: the runner was ended after {max(self._counts, default=0)} of {self._count} clips "
                f"({said})",
                hint=DeviceError.AGAIN,
            )

    def _failed(self, kind: str, message: str) -> DeviceError:
        return DeviceError(f"{self._device}: {' '.join(message.split())}", hint=_HINTS.get(kind, "docs/devices.md"))


def _logits(device: str, path: Path, job: Job, runtime: str) -> Logits:
    """float32 [clips, classes] of a results file, whose first line says what ran, which is to be `runtime`.

    Raises:
        DeviceError: a clip is missing, is there twice or has not its number of logits; or something else ran.
    """
    found = np.full((job.count, job.classes), np.nan, dtype=np.float32)
    seen = set()
    first, *lines = _text(device, path).splitlines() or [""]
    if _json(device, first).get("runtime") != runtime:
        raise _damaged(device, first)
    for line in lines:
        result = _json(device, line)
        place, logits = result.get("clip"), result.get("logits", [])
        numbers = isinstance(logits, list) and all(isinstance(value, int | float) for value in logits)
        if not isinstance(place, int) or not 0 <= place < job.count or place in seen:
            raise _damaged(device, line)
        if not numbers or len(logits) != job.classes:
            raise _damaged(device, line)
        try:
            with np.errstate(over="ignore"):  # what no float32 holds is found below
                found[place] = logits
        except OverflowError:
            raise _damaged(device, line) from None
        seen.add(place)
    if len(seen) < job.count:
        raise DeviceError(f"{device}: {job.count - len(seen)} clips have no result", hint=DeviceError.AGAIN)
    if not np.isfinite(found).all():
        raise DeviceError(f"{device} gives logits that are not finite", hint="validate the bundle here first")
    return found


def _samples(device: str, path: Path, job: Job) -> Samples:
    """The times in a file of samples.

    Raises:
        DeviceError: they are none, or not of what was asked for.
    """
    try:
        samples = Samples.model_validate_json(_text(device, path))
    except ValidationError as error:
        first = error.errors()[0]
        raise _damaged(device, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    least = job.timing.get("min-runs", 1)
    if len(samples.network_ms) < least:
        raise _damaged(device, f"{len(samples.network_ms)} timed runs, at least {least:g} were asked for")
    if job.threads and samples.threads not in (0, job.threads):  # 0: of a runtime that cannot be told
        raise _damaged(device, f"{samples.threads} threads, {job.threads} were asked for")
    if job.timing.get("sustained-s") and not samples.sustained:
        raise _damaged(device, "no times without a pause, which were asked for")
    if samples.end_to_end:
        raise _damaged(device, "times from a video file, which nobody asked for")
    return samples


def _text(device: str, path: Path) -> str:
    """What a file holds that came from the device."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:  # adb may say that it copied a file, and leave none
        raise _damaged(device, f"{path.name}: {error.strerror if isinstance(error, OSError) else error}") from None


def _json(device: str, text: str) -> dict[str, Any]:
    try:
        value = json_value(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise _damaged(device, text)
    return value


def _damaged(device: str, text: str) -> DeviceError:
    return DeviceError(
        f"{device}: the results are damaged: {text[:80]!r}",
        hint="run the same command again (validate: without --resume)",
    )
