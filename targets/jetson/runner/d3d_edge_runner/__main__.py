"""The program: `python3 -m d3d_edge_runner --protocol 1 --model FILE --shape T,H,W,C --classes N --out DIR ...`.

Events go to standard output, one JSON object a line; everything that a library prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from argparse import Namespace
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, Sequence, TextIO

from . import PROTOCOL, board, onnx_model, tensorrt_model, timing
from .errors import RunnerError, of_os_error
from .job import PID, SAMPLES, Results, clips_of, own, parse

_SAY_EVERY_S = 0.2
_PROBE_S = 0.3
"""How long the device is watched before a measurement begins."""


class Events:
    """Lines for the host."""

    def __init__(self, out: TextIO) -> None:
        self._out, self._said, self._lock = out, 0.0, threading.Lock()

    def say(self, event: str, **values: Any) -> None:
        """One event, now."""
        with self._lock:
            self._out.write(json.dumps({"event": event, **values}) + "\n")
            self._out.flush()
            self._said = time.monotonic()

    def say_at_times(self, event: str, **values: Any) -> None:
        """One event, unless another was said just before."""
        if time.monotonic() - self._said >= _SAY_EVERY_S:
            self.say(event, **values)

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Say every second that work goes on, for work that takes long and says nothing."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(1.0):
                self.say("alive")

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def main(words: Sequence[str] | None = None) -> int:
    """Run what the command line says; 0, or 1 after an event 'error'."""
    events = Events(_claim_stdout())
    try:
        job = parse(sys.argv[1:] if words is None else words)
        if job.watch_stdin:
            threading.Thread(target=_end_with_stdin, daemon=True).start()
        lock = own(job.out, job.run)
        try:
            _run(job, events)
        finally:
            (job.out / PID).unlink(missing_ok=True)  # another host that found us busy has removed it
            lock.close()
    except RunnerError as error:
        events.say("error", kind=error.kind, message=str(error))
        return 1
    except OSError as error:
        told = of_os_error(error)
        events.say("error", kind=told.kind, message=str(told))
        return 1
    events.say("done")
    return 0


def _claim_stdout() -> TextIO:
    """Standard output for events alone: what native code prints there from now on goes to standard error."""
    sys.stdout.flush()
    mine = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return mine


def _end_with_stdin() -> None:
    """The host holds standard input open. When it dies or the connection does, nobody waits for results."""
    while os.read(0, 4096):
        pass
    os._exit(3)


def _run(job: Namespace, events: Events) -> None:
    backend = _backend(job.runtime)
    runtime = backend.version()
    events.say("hello", protocol=PROTOCOL, runtime=runtime, native=backend.NATIVE, device=board.describe())
    results = Results(job.out, runtime, resume=job.resume)
    timed = bool(results.done) and (job.out / SAMPLES).is_file()  # the host tells of old times by old clips
    total = sum(pack.clips for pack in job.clips)
    events.say("clips", done=len(results.done), total=total)
    if timed and len(results.done) == total:
        return
    with events.alive():
        prepared = backend.prepare(job.model)  # minutes and much memory, perhaps: none of it is the model's
        watch = board.Watch()
        time.sleep(0 if timed else _PROBE_S)
        before, memory = {**board.state(), **watch.found()}, timing.memory_peak_from_now()
        began = time.perf_counter()
        model = backend.Model(prepared, job.threads)
        load_ms = (time.perf_counter() - began) * 1e3
    try:
        if not timed:
            _, clip = next(clips_of(job.clips, job.shape, set()))
            watch = board.Watch()
            samples = timing.measure(model, clip, job, load_ms, lambda: events.say("alive"))
            samples["environment_before"] = before
            samples["environment_after"] = {**board.state(), **watch.found()}
            # Linux counts pages some late: of a model that needs almost none, the peak may lie below what was there.
            if memory is not None and (peak := timing.memory_peak_bytes() or 0) > memory:
                samples["memory_peak_bytes"] = peak - memory
            samples["threads"] = model.threads
            _write(job.out / SAMPLES, samples)
        for place, clip in clips_of(job.clips, job.shape, results.done.copy()):
            logits = model.run(clip)
            if len(logits) != job.classes:
                raise RunnerError("model", f"the model gives {len(logits)} logits, not {job.classes}")
            results.add(place, logits)
            events.say_at_times("clips", done=len(results.done), total=total)
    finally:
        model.close()
    results.close()
    events.say("clips", done=len(results.done), total=total)


def _backend(name: str) -> Any:
    """What is asked for; of 'auto', TensorRT where it is installed, else ONNX Runtime."""
    if name == "auto":
        return tensorrt_model if tensorrt_model.installed() else onnx_model
    return {"tensorrt": tensorrt_model, "onnxruntime": onnx_model}[name]


def _write(path: Path, value: dict[str, Any]) -> None:
    """Whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(value))
    os.replace(str(partial), str(path))


if __name__ == "__main__":
    sys.exit(main())
