"""What a runner tells its host while it works."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

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
