"""Every test of the networks draws the same random numbers, on one thread."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _reproducible() -> Iterator[None]:
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    # The tensors are small: on a busy machine, threads spend far longer waiting for each other than computing.
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
