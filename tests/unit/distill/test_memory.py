"""A step of training finds the memory of the step before."""

from __future__ import annotations

import ctypes

import psutil
import pytest
import torch

from d3d_edge.distill import memory

MIB = 2**20


def resident_mib() -> float:
    return float(psutil.Process().memory_info().rss) / MIB


def filled_and_freed(mib: int) -> None:
    torch.ones(mib * MIB // 4)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="a C library without mallopt")
def test_freed_memory_is_kept_for_the_block_and_then_given_back() -> None:
    before = resident_mib()
    with memory.kept():
        filled_and_freed(96)
        assert resident_mib() > before + 80
    assert resident_mib() < before + 40
    filled_and_freed(96)
    assert resident_mib() < before + 40
