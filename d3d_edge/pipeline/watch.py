"""d3d-edge predict over time: the answers of a bundle for every window of a file, a camera or a stream."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from d3d_edge import runtimes, signals
from d3d_edge.bundle import Bundle, check_output
from d3d_edge.errors import DataError, DeviceError, RecipeError
from d3d_edge.pipeline.film import Film, named, of_file
from d3d_edge.pipeline.predict import best, notes_on_rate, probabilities
from d3d_edge.pipeline.watched import Ended, Moment, Watched
from d3d_edge.runner import Runner
from d3d_edge.video import encode, timeline
from d3d_edge.video.decode import TimedFrame
from d3d_edge.video.preprocess import naming
from d3d_edge.video.stream import Source, Stream, opened
from d3d_edge.video.windows import Window, Windows

WINDOW_S = 2.0
"""Length of a window with uniform sampling, where neither the caller nor the bundle says."""
STRIDE_S = 0.25
"""From one window to the next, where it is not given: four answers a second."""
_KEPT = 100_000
"""Answers that are kept: a camera may run for days."""


@dataclass(frozen=True)
class Wanted:
    """What to do with a source."""

    source: Source
    top: int = 5
    threads: int = 0
    window_s: float | None = None
    stride_s: float | None = None
    seconds: float | None = None
    overlay: Path | None = None
    timeline: Path | None = None


@dataclass
class _Clock:
    """Seconds spent in each step."""

    decode_s: float = 0.0
    preprocess_s: float = 0.0
    network_total_s: float = 0.0
    network_s: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))
    last_s: float = field(default_factory=time.perf_counter)

    def lap(self) -> float:
        """Seconds since the last lap."""
        now_s = time.perf_counter()
        passed_s, self.last_s = now_s - self.last_s, now_s
        return passed_s

    @property
    def total_s(self) -> float:
        return self.decode_s + self.preprocess_s + self.network_total_s


def watch(
    bundle_path: Path, wanted: Wanted, tell: Callable[[Moment], None], end: Callable[[Watched], None] = lambda _: None
) -> Watched:
    """Answer for each window of a source, and `tell` each answer as it comes; `end` is given all of it.

    A live source is read until it ends, for `seconds`, or until it is interrupted, which is not an error then. Where it
    fails after some answers, or a signal asks this process to end, what was found is drawn and given to `end` before
    that is raised.

    Raises:
        BundleError: the bundle is damaged.
        MissingDependency: its runtime's package is not installed.
        RecipeError: a window's length is given and the bundle's sampling sets it, the overlay's name is no video or
            the timeline's no picture, or one of them is the source or the other, or lies in a bundle.
        DataError: the source cannot be read, or holds too few frames for a window.
        DeviceError: there is no such camera.
        StorageError: overlay or timeline cannot be written.
    """
    bundle = Bundle.open(bundle_path)
    made = bundle.manifest
    if wanted.window_s is not None and made.clip.stride is not None:
        raise RecipeError(
            f"{bundle_path} takes every {made.clip.stride}. frame, {made.clip.frames} of them: that is its window",
            hint="leave out --window",
        )
    _check_outputs(wanted)
    runtime = runtimes.get(made.runtime)
    runtime.check_run()
    with ExitStack() as stack:
        stream = stack.enter_context(opened(wanted.source))
        runner = stack.enter_context(runtime.open(bundle, threads=wanted.threads))
        runner.run(np.zeros(made.clip.shape, np.uint8))  # the first run also prepares memory
        # A live source is drawn as it comes; a file afterwards, when the answers around each frame are known.
        live = wanted.overlay is not None and wanted.source.live
        film = stack.enter_context(Film(wanted.overlay, stream.rate_hz)) if wanted.overlay and live else None
        watcher = _Watcher(bundle, wanted, stream, runner, tell, film)
        ended = watcher.run()
        found = watcher.result(str(bundle_path), ended)
    watcher.draw(found)
    end(found)
    if watcher.failure:
        raise watcher.failure
    return found


def _check_outputs(wanted: Wanted) -> None:
    if wanted.overlay:
        encode.check_name(wanted.overlay)
    if wanted.timeline and wanted.timeline.suffix.lower() != ".png":
        raise RecipeError(f"the timeline {wanted.timeline} is no .png", hint="a timeline is a PNG picture")
    taken = {os.path.realpath(file): "the video itself" for file in wanted.source.files}
    for what, path in (("overlay", wanted.overlay), ("timeline", wanted.timeline)):
        if path and (is_ := taken.setdefault(os.path.realpath(path), f"the {what}")) != f"the {what}":
            raise RecipeError(f"the {what} {path} is {is_}", hint="another name")
    for what, path in (("overlay", wanted.overlay), ("timeline", wanted.timeline)):
        if path:
            check_output(path, f"--{what}")


class _Watcher:
    """One walk through a source."""

    def __init__(
        self,
        bundle: Bundle,
        wanted: Wanted,
        stream: Stream,
        runner: Runner,
        tell: Callable[[Moment], None],
        film: Film | None,
    ) -> None:
        made = bundle.manifest
        self._labels, self._sampling = made.labels, made.clip.sampling
        self._wanted, self._stream, self._runner, self._tell = wanted, stream, runner, tell
        self._stride_s = wanted.stride_s or STRIDE_S
        self._window_s = wanted.window_s or made.video_length_s or WINDOW_S
        self._windows = Windows(made.clip, window_s=self._window_s, stride_s=self._stride_s, rate_hz=stream.rate_hz)
        self._notes = notes_on_rate(made, stream.rate_hz)
        self._clock = _Clock()
        self._moments: deque[Moment] = deque(maxlen=_KEPT)
        self._scores: deque[npt.NDArray[np.float64]] = deque(maxlen=_KEPT)
        self._answered = 0
        self._too_late = 0
        self._frames = 0
        self._last_s = 0.0
        self._film = film
        self.failure: DataError | DeviceError | signals.Ended | None = None
        """Why a live source was not read to its end, when it was answered for until then."""

    def run(self) -> Ended:
        """Walk until the source ends, fails, or is ended."""
        try:
            began_s = time.monotonic()
            for frame in self._decoded():
                if self._wanted.seconds is not None and frame.time_s >= self._wanted.seconds:
                    self._answer_all(self._windows.until(self._wanted.seconds))
                    return "seconds"
                self._take(frame, late_s=time.monotonic() - began_s - frame.time_s)
        except (KeyboardInterrupt, signals.Ended, DataError, DeviceError) as error:
            if not (self._wanted.source.live and self._moments):
                raise
            self.failure = None if isinstance(error, KeyboardInterrupt) else error
            return "interrupted" if isinstance(error, (KeyboardInterrupt, signals.Ended)) else "failed"
        self._clock.lap()
        self._answer_all(self._windows.flush())
        return "end of source"

    def _decoded(self) -> Iterator[TimedFrame]:
        """The frames, and the time that decoding them took."""
        self._clock.lap()
        for frame in self._stream.frames:
            self._clock.decode_s += self._clock.lap()
            yield frame
            self._clock.lap()

    def _take(self, frame: TimedFrame, late_s: float) -> None:
        self._frames += 1
        self._last_s = frame.time_s
        with naming(self._wanted.source.name):
            windows = self._windows.push(frame.time_s, frame.image)
        self._answer_all(windows, late_s)
        if self._film:
            scores = named(self._scores[-1], self._labels) if self._scores else ()
            self._film.add(frame, scores, f"first answer at {self._window_s:.1f} s")

    def _answer_all(self, windows: Iterator[Window], late_s: float = 0.0) -> None:
        """One of too few frames is left out: a camera may falter, and a file's rate may vary."""
        for window in windows:
            self._clock.preprocess_s += self._clock.lap()
            if self._wanted.source.live and self._moments and late_s > self._stride_s:
                self._too_late += 1  # the stream waits for nobody: catch up by decoding alone
            else:
                self._answer(window)
        self._clock.preprocess_s += self._clock.lap()
        # A camera that gave no window at all would be watched for ever.
        if self._wanted.source.live and not self._moments:
            self._refuse_too_few()

    def _refuse_too_few(self) -> None:
        if self._windows.too_few:
            with naming(self._wanted.source.name):
                raise self._windows.too_few

    def _answer(self, window: Window) -> None:
        self._clock.lap()
        scores = probabilities(self._runner.run(window.clip))
        took_s = self._clock.lap()
        self._clock.network_s.append(took_s)
        self._clock.network_total_s += took_s
        self._scores.append(scores)
        moment = Moment(
            start_s=window.start_s,
            end_s=window.end_s,
            answers=best(scores, self._labels, self._wanted.top),
            network_ms=1e3 * took_s,
        )
        self._moments.append(moment)
        self._answered += 1
        self._tell(moment)
        self._clock.lap()

    def result(self, bundle: str, ended: Ended) -> Watched:
        """All that was found.

        Raises:
            DataError: no window was answered.
        """
        if not self._moments:
            self._refuse_too_few()
            left = "was left" if ended == "seconds" else "ended"
            raise DataError(
                f"{self._wanted.source.name} {left} after {self._frames} frames, {self._last_s:.2f} s, before a window "
                "was complete",
                hint="a shorter --window, or more --seconds" if self._sampling == "uniform" else "more --seconds",
            )
        clock, frames = self._clock, max(self._frames, 1)
        first = self._moments[0]
        return Watched(
            source=self._wanted.source.name,
            bundle=bundle,
            where=self._runner.where,
            runtime=self._runner.runtime,
            sampling=self._sampling,
            window_s=first.end_s - first.start_s,
            stride_s=self._stride_s,
            windows=self._answered,
            moments=tuple(self._moments),
            left_out=self._too_late + self._windows.left_out,
            ended=ended,
            frames=self._frames,
            source_s=self._last_s,
            decode_ms=1e3 * clock.decode_s / frames,
            preprocess_ms=1e3 * clock.preprocess_s / frames,
            network_ms=1e3 * float(np.median(clock.network_s)),
            end_to_end_fps=self._frames / clock.total_s if clock.total_s > 0 else 0.0,
            notes=self._notes,
        )

    def draw(self, found: Watched) -> None:
        """Write the overlay of a file, and the timeline."""
        middles_s = [(moment.start_s + moment.end_s) / 2 for moment in found.moments]
        if self._wanted.overlay and not self._film:
            answers = [named(scores, self._labels) for scores in self._scores]
            of_file(self._wanted.source, self._wanted.overlay, middles_s, answers, self._wanted.seconds)
        if self._wanted.timeline:
            said = f"probability in a window of {found.window_s:.2f} s around each moment, every {found.stride_s:g} s"
            picture = timeline.draw(
                middles_s,
                np.stack(self._scores),
                self._labels,
                span_s=(found.moments[0].start_s, found.moments[-1].end_s),
                title=Path(found.source).name or found.source,
                subtitle=f"{found.bundle}: {said}",
            )
            timeline.save(picture, self._wanted.timeline)
