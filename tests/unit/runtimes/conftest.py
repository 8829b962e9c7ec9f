"""The ONNX file of the tests' INT8 network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from d3d_edge import target
from d3d_edge.runtimes import tensorrt
from tests import networks

if TYPE_CHECKING:
    import onnx


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where it lies. Not to be changed."""
    path = tmp_path_factory.mktemp("jetson")
    tensorrt.RUNTIME.lower(networks.quantized(), path, target.load("jetson"), precision="int8")
    return path


@pytest.fixture
def model(folder: Path) -> onnx.ModelProto:
    """The file, to plant something in."""
    import onnx

    return onnx.load(folder / tensorrt.MODEL)
