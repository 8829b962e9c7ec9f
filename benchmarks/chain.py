"""Chains of tiny operators, as graphs of XNNPACK and as `.pte` files. It times nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.graphs import Graph
from d3d_edge import target
from d3d_edge.quantize import pt2e
from d3d_edge.runtimes.executorch import RUNTIME

CHANNELS = 16
"""Of a tiny operator's one position: the fewest that a layer of S3D-G has."""


class Stub(nn.Module):
    """Takes and gives what a chain does."""

    def forward(self, x: Tensor) -> Tensor:
        """Float [1, 1, 1, C] to the same shape."""
        return torch.sigmoid(x)


def _convolution(graph: Graph, x: int) -> int:
    return graph.convolve(x, np.eye(CHANNELS, dtype=np.float32)[..., None, None], None)


LINKS: dict[str, Callable[[Graph, int], int]] = {
    "StaticReshape": lambda graph, x: graph.view(x, 1, 1, 1, CHANNELS),
    "GlobalAvgPooling2d": lambda graph, x: graph.mean(x),
    "Multiply": lambda graph, x: graph.both("Multiply", x, x),
    "MaxPooling2d": lambda graph, x: graph.pool(x, (3, 1), ((1, 1), (0, 0))),
    "Conv2d": _convolution,
}
"""Tiny operators, by their names in XNNPACK. Not sigmoids: a chain of forty INT8 ones damages its memory."""


def chain(link: Callable[[Graph, int], int], length: int) -> Graph:
    """Floats to INT8, `length` operators, and back."""
    graph = Graph(int8=True)
    x = graph.convert(graph.input(1, 1, 1, CHANNELS, kind="fp32"), to_float=False)
    for _ in range(length):
        x = link(graph, x)
    graph.output(graph.convert(x, to_float=True))
    return graph


def file_of(graph: Graph, folder: Path) -> Path:
    """A `.pte` of a graph that was written by hand, with the input and the output of `Stub`."""
    from executorch.backends.xnnpack import xnnpack_preprocess

    serialize = xnnpack_preprocess.serialize_xnnpack_binary

    def serialize_by_hand(_: Any, __: Any) -> bytes:
        written: bytes = serialize(graph.written, graph.constants)
        return written

    program = pt2e.export_float(Stub(), torch.zeros(1, 1, 1, CHANNELS))
    folder.mkdir()
    with mock.patch.object(xnnpack_preprocess, "serialize_xnnpack_binary", serialize_by_hand):
        return folder / RUNTIME.lower(program, folder, target.load("android"), precision="float32").model
