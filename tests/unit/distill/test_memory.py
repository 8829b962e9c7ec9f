"""A step of training finds the memory of the step before."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys

import pytest

MIB = 96
# In a process of its own: one that has run other tests has free memory from which the tensor would be taken.
PROGRAM = f"""
import json, psutil, torch
from d3d_edge.distill import memory

def resident():
    return psutil.Process().memory_info().rss / 2**20

def filled_and_freed():
    torch.ones({MIB} * 2**20 // 4)

torch.ones(1)
before = resident()
with memory.kept():
    filled_and_freed()
    kept = resident() - before
after = resident() - before
filled_and_freed()
print(json.dumps([kept, after, resident() - before]))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="a C library without mallopt")
def test_freed_memory_is_kept_for_the_block_and_then_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True)
    kept, after, later = json.loads(done.stdout)
    assert kept > 0.8 * MIB
    assert after < 0.4 * MIB
    assert later < 0.4 * MIB
