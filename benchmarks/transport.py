"""What reaching a device costs: push, start and pull against the run itself, over SSH to this machine.

The network is a stand-in that takes a given time a clip, so that the share is that of a device as fast, whatever this
machine is. Clips are random bytes, which no link can compress. The server is an OpenSSH of its own on a free port.

    python -m benchmarks.transport --clips 300 --clip-ms 30
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from d3d_edge import transports
from d3d_edge.files import sha256_of_file
from d3d_edge.harness import device
from d3d_edge.harness.packs import Packer
from d3d_edge.transports import Ended, File, Transport
from tests import sshd

SHAPE, CLASSES = (16, 112, 112, 3), 10
# Speaks the protocol: the clips are read as a runner reads them, and the network is a pause.
STAND_IN = """\
import argparse, json, os, sys, time
parser = argparse.ArgumentParser()
for name in ("model", "shape", "classes", "out", "run", "protocol", "threads", "clip-ms"):
    parser.add_argument("--" + name)
parser.add_argument("--clips", action="append")
parser.add_argument("--watch-stdin", action="store_true")
job, _ = parser.parse_known_args()
say = lambda **event: print(json.dumps(event), flush=True)
pause, logits = float(job.__dict__["clip_ms"]) / 1e3, [0.0] * int(job.classes)
os.makedirs(job.out, exist_ok=True)
with open(job.out + "/run", "w") as file:
    file.write(job.run)
say(event="hello", protocol=1, runtime="a pause", native=False, device="this machine")
times = []
with open(job.out + "/results.jsonl", "w") as results:
    results.write('{"runtime": "a pause"}\\n')
    place = 0
    for name, count in (pack.rsplit("=", 1) for pack in job.clips):
        size = os.path.getsize(name) // int(count)
        with open(name, "rb") as pack:
            for _ in range(int(count)):
                began = time.perf_counter()
                pack.read(size)
                time.sleep(pause)
                results.write(json.dumps({"clip": place, "logits": logits}) + "\\n")
                results.flush()
                times.append(1e3 * (time.perf_counter() - began))
                place += 1
                if place % 10 == 0:
                    say(event="clips", done=place, total=0)
with open(job.out + "/samples.json", "w") as file:
    json.dump({"load_ms": 0.0, "first_ms": times[0], "network_ms": times, "threads": 0}, file)
say(event="done")
"""


class Timed:
    """A transport whose every step is timed, in seconds."""

    def __init__(self, transport: Transport) -> None:
        self._transport, self.name = transport, transport.name
        self.seconds: dict[str, float] = {}
        self.sent = 0

    def __enter__(self) -> Timed:
        self.timed("connect", self._transport.__enter__)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._transport.__exit__(*exc_info)

    def timed(self, step: str, call: Callable[..., Any], *given: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return call(*given, **named)
        finally:
            self.seconds[step] = self.seconds.get(step, 0.0) + time.perf_counter() - began

    def push(self, files: Sequence[File]) -> int:
        self.sent = self.timed("push", self._transport.push, files)
        return self.sent

    def start(self, *given: Any, **named: Any) -> Ended:
        ended: Ended = self.timed("start_and_run", self._transport.start, *given, **named)
        return ended

    def pull(self, name: str, path: Path) -> None:
        self.timed("pull", self._transport.pull, name, path)


def make_job(folder: Path, clips: int, clip_ms: float) -> device.Job:
    """A run of `clips` clips of random bytes, packed in `folder`."""
    packer = Packer(folder)
    random = np.random.default_rng(0)
    for _ in range(clips):
        packer.add(random.integers(0, 256, SHAPE, dtype=np.uint8))
    program = folder / "stand_in.py"
    program.write_text(STAND_IN)
    sent = File(f"blobs/{(sha256 := sha256_of_file(program))}.pyz", program, sha256)
    packs = packer.finished()
    return device.Job(
        program=device.Program(sent.name, (sent,), ("--clip-ms", f"{clip_ms:g}")),
        model=sent.name,
        files=(),
        clips=tuple((File(f"blobs/{pack.sha256}.clips", pack.path, pack.sha256), pack.clips) for pack in packs),
        shape=SHAPE,
        classes=CLASSES,
        threads=0,
        timing={},
    )


def measure(name: str, job: device.Job) -> dict[str, Any]:
    """One run of `job` on the device `name`: seconds by step, and what push, start and pull add to the run."""
    with Timed(transports.get(name)) as timed:
        outcome = device.run(timed, job, resume=False, on_clip=lambda done: None)
    run_s = sum(outcome.samples.network_ms) / 1e3
    steps = dict(timed.seconds)
    connect_s = steps.pop("connect")
    steps["start"] = steps.pop("start_and_run") - run_s
    overhead_s = sum(steps.values())
    return {
        "sent_mb": round(timed.sent / 1e6, 1),
        "run_s": round(run_s, 2),
        "connect_s": round(connect_s, 2),
        **{f"{step}_s": round(seconds, 2) for step, seconds in steps.items()},
        "overhead_s": round(overhead_s, 2),
        "overhead_share_of_run": round(overhead_s / run_s, 3),
    }


def measure_here(folder: Path, job: device.Job) -> dict[str, Any]:
    """The same over SSH to this machine, with the processor seconds of both ends: all that it takes, runner included.

    On a machine that does other work these hold still, while the seconds by the clock grow.
    """
    (there := folder / "device").mkdir(exist_ok=True)
    (server := Path(tempfile.mkdtemp(dir=folder))).chmod(0o700)
    before = processor_s()
    with sshd.serving(server) as config:
        os.environ["D3D_EDGE_SSH_CONFIG"] = str(config)
        result = measure(f"ssh:{sshd.HOST}:{there}", job)
    # The server and all it started have ended, and are counted now.
    used = processor_s() - before
    return {**result, "processor_s": round(used, 2), "processor_share_of_run": round(used / result["run_s"], 3)}


def processor_s() -> float:
    """Seconds that this process and those it has waited for kept processors busy."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


@click.command(help=__doc__)
@click.option("--clips", default=300, show_default=True, help="Clips of 16 frames of 112x112.")
@click.option("--clip-ms", default=30.0, show_default=True, help="What the network takes for one.")
@click.option("--device", "name", default="", help="Another device, as --device of the commands takes it.")
def main(clips: int, clip_ms: float, name: str) -> None:
    """Print the result as JSON."""
    with tempfile.TemporaryDirectory() as scratch:
        job = make_job(Path(scratch), clips, clip_ms)
        # With everything to be sent, and with everything there.
        result = {
            which: measure(name, job) if name else measure_here(Path(scratch), job) for which in ("first", "again")
        }
    click.echo(json.dumps({"clips": clips, "clip_ms": clip_ms, **result}, indent=2))


if __name__ == "__main__":
    main()
