"""Only the time in which a device has nothing to do counts as waiting."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch

from d3d_edge.distill.waiting import Waiting
from d3d_edge.video.datasets import Batch
from tests.unit.distill.jobs import CUDA

BATCH_S = 0.02


def slow() -> Iterator[Batch]:
    for _ in range(3):
        time.sleep(BATCH_S)
        yield Batch(torch.zeros(2), torch.zeros(2), torch.zeros(2))


def test_a_cpu_waits_for_each_batch_but_not_for_what_is_done_with_it() -> None:
    waiting = Waiting(torch.device("cpu"))
    began_s = time.perf_counter()
    for _ in waiting.over(slow()):
        time.sleep(BATCH_S)
    assert 3 * BATCH_S <= waiting.seconds() <= time.perf_counter() - began_s - 3 * BATCH_S
    assert waiting.clips == 6


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=CUDA)])
def test_a_gpu_that_is_busy_does_not_wait(device: str) -> None:
    busy, idle = Waiting(torch.device(device)), Waiting(torch.device(device))
    for _ in busy.over(slow()):
        torch.cuda._sleep(10**9)  # cycles: half a second
    for _ in idle.over(slow()):
        torch.cuda.synchronize()
    assert busy.seconds() == pytest.approx(BATCH_S, rel=0.5)  # for the first batch
    assert idle.seconds() == pytest.approx(3 * BATCH_S, rel=0.5)
