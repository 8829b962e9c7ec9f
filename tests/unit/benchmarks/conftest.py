"""What several tests of benchmarks use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor

from d3d_edge import target
from d3d_edge.target import Precision
from tests import networks


@pytest.fixture
def small_pte() -> Callable[..., Path]:
    """In place of `benchmarks.network.pte`: a file of the tests' little network, whichever is asked for."""
    executorch = pytest.importorskip("d3d_edge.runtimes.executorch")

    def small(net: object, sample: Tensor, precision: Precision, folder: Path) -> Path:
        folder.mkdir()
        executorch.RUNTIME.lower(networks.quantized(), folder, target.load("android"), precision=precision)
        return folder / executorch.MODEL

    return small
