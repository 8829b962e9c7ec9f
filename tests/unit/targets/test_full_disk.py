"""A device whose disk fills up while its runner works there, for real and over SSH."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from d3d_edge import transports
from d3d_edge.errors import DeviceError
from d3d_edge.harness import device as harness
from d3d_edge.harness.device import Job, Outcome
from d3d_edge.transports import Transport
from tests.devices import Disk, reach, small_disk
from tests.unit.targets.conftest import MakeJob
from tests.unit.targets.test_runner import expected

CLIPS = 250
"""Whose results need more than the page that a file has been given once it holds anything."""


@pytest.fixture
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    with small_disk(tmp_path_factory.mktemp("small") / "disk", "32m") as mounted:
        yield mounted


@pytest.fixture
def device(disk: Disk, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Transport]:
    pytest.importorskip("onnxruntime")
    name, _ = reach("ssh", request, disk.folder, monkeypatch)
    with transports.get(name) as transport:
        yield transport


def run(
    device: Transport, job: Job, *, resume: bool = False, on_clip: Callable[[int], None] = lambda done: None
) -> Outcome:
    return harness.run(device, job, resume=resume, on_clip=on_clip)


def fails(device: Transport, disk: Disk, job: Job, on_clip: Callable[[int], None] = lambda done: None) -> None:
    """The run ends in one line that names the device, and nothing is left running there."""
    said = re.escape(f"{device.name}: {disk.folder}: No space left on device (make room there; ")
    with pytest.raises(DeviceError, match=f"^{said}.*--resume") as raised:
        run(device, job, on_clip=on_clip)
    assert raised.value.exit_code == 7
    assert len(str(raised.value).splitlines()) == 1
    assert disk.processes() == []


def test_a_disk_that_fills_up_between_two_clips(device: Transport, disk: Disk, make_job: MakeJob) -> None:
    job = make_job(CLIPS)

    def fill(done: int) -> None:
        if done and not (disk.folder / "filler").exists():
            disk.fill()

    fails(device, disk, job, fill)
    # What is whole in the results counts, and no more: the line that met the end of the disk may be torn.
    whole = (disk.folder / job.folder / harness.RESULTS).read_bytes().count(b"\n") - 1
    assert 0 < whole < CLIPS
    disk.empty()
    came = run(device, job, resume=True)
    assert came.ran == CLIPS - whole
    assert np.array_equal(came.logits, expected(CLIPS) % 256)


def test_a_disk_that_is_full_before_the_runner_starts(device: Transport, disk: Disk, make_job: MakeJob) -> None:
    job = make_job()
    run(device, job)
    before = (disk.folder / job.folder / harness.RESULTS).read_bytes()
    disk.fill()
    for _ in range(2):
        fails(device, disk, job)
    disk.empty()
    assert np.array_equal(run(device, job).logits, expected(6))
    assert (disk.folder / job.folder / harness.RESULTS).read_bytes() == before
