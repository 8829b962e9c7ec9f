"""What a runner tells its host while it works, and of a command line that it cannot read."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from d3d_edge.pipeline.devices import _python_runner
from d3d_edge.transports import Transport
from tests.unit.targets.conftest import MakeJob


class HeardEnoughError(Exception):
    pass


@pytest.mark.parametrize(
    "endless",
    [{"warmup": 10**9}, {"runs": 10**9, "min-runs": 10**9}, {"sustained-s": 10**9}],
    ids=lambda timing: next(iter(timing)),
)
def test_a_runner_says_that_it_is_alive_however_long_it_measures(
    device: Transport, make_job: MakeJob, endless: dict[str, int]
) -> None:
    """The host gives up one that says nothing, so one that is well must speak in every part of the measurement."""
    job = make_job(1)
    job = replace(job, timing={**job.timing, **endless})
    device.push([*job.program.files, *job.files, *(pack for pack, _ in job.clips)])
    events: list[str] = []

    def hear(line: str) -> None:
        events.append(json.loads(line)["event"])
        if events[-2:] == ["alive", "alive"]:
            raise HeardEnoughError

    words = [*job.words(), "--out", job.folder, "--watch-stdin"]
    with pytest.raises(HeardEnoughError):
        device.start(job.program.name, words, folder=job.folder, on_line=hear, silence_s=20)
    assert events[:2] == ["hello", "clips"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--bogus", "3"], "unrecognized arguments: --bogus 3"),
        (["--shape", "8,56,x,3"], "argument --shape: invalid shape value: '8,56,x,3'"),
        (["--runs", "x"], "argument --runs: invalid int value: 'x'"),
        (["--clips", "pack"], "argument --clips: invalid pack value: 'pack'"),
        ([], "--clips FILE=COUNT is needed"),
        (["--clips", "pack=0"], "--clips FILE=COUNT is needed"),
    ],
)
def test_a_command_line_that_cannot_be_read_ends_with_an_event(tmp_path: Path, words: list[str], message: str) -> None:
    whole = ["--protocol", "1", "--model", "none", "--shape", "1,2,2,3", "--classes", "3", "--out", "job"]
    command = [sys.executable, _python_runner(tmp_path), *whole, *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (1, "")
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"event": "error", "kind": "usage", "message": message}
    ]
