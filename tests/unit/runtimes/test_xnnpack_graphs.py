"""What is left out of a delegate changes no value, shown by XNNPACK itself."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("executorch")

from benchmarks.graphs import SCALE as SCALE_OF_GRAPHS
from benchmarks.graphs import Graph, schema
from benchmarks.xnnpack import Part
from d3d_edge.models.recogniser import OFFSET, SCALE
from d3d_edge.runtimes import xnnpack_fusion, xnnpack_graph
from d3d_edge.runtimes.xnnpack_bytes import sums_in_int8

HALF_STEP = float(torch.tensor(-OFFSET / 127).half())


def kernel(outputs: int, inputs: int, size: int = 1) -> Any:
    return np.random.default_rng(0).normal(0, 0.3, (outputs, inputs, size, size)).astype(np.float32)


def pointwise(graph: Graph, x: int) -> int:
    return graph.convolve(x, kernel(5, 3), None)


def outputs(graph: Any, constants: bytes) -> list[Any]:
    with Part(graph, constants, graph.xnodes) as part:
        for taken in part.inputs:
            part.arrays[taken][:] = np.random.default_rng(1).integers(0, 256, part.arrays[taken].shape)
        part.run()
        return [part.arrays[value].copy() for value in part.outputs]


def fused(graph: Graph) -> list[str]:
    """The kinds of nodes that fusing leaves, all outputs being the same."""
    after = copy.deepcopy(graph.written)
    xnnpack_fusion.fuse(after)
    for one, other in zip(outputs(graph.written, graph.constants), outputs(after, graph.constants), strict=True):
        np.testing.assert_array_equal(one, other)
    return [type(node.xnode_union).__name__.removeprefix("XNN") for node in after.xnodes]


def viewed(size: int = 1, back: tuple[int, int, int] = (1, 2, 12)) -> Graph:
    """A convolution of frames between two views, as a clip is what comes and goes; frames have another reader."""
    graph = Graph(int8=True)
    pads = ((size // 2, size // 2), (size // 2, size // 2))
    frames = graph.view(graph.pool(graph.input(1, 2, 12, 3), (1, 1), ((0, 0), (0, 0))), 2, 4, 3, 3)
    graph.output(graph.pool(frames, (3, 3), ((1, 1), (1, 1))))
    clip = graph.view(graph.convolve(frames, kernel(5, 3, size), None, pads=pads), *back, 5)
    graph.output(graph.both("Multiply", clip, graph.mean(clip)))
    return graph


def test_a_1x1_convolution_needs_no_view_and_no_view_back() -> None:
    assert fused(viewed()).count("StaticReshape") == 1, "that of the frames' other reader"


@pytest.mark.parametrize("graph", [viewed(3), viewed(back=(1, 8, 3))], ids=["3x3", "another view"])
def test_a_view_that_a_convolution_needs_stays(graph: Graph) -> None:
    assert fused(graph).count("StaticReshape") == 2


def padded(axis: int = 1, value: float = 0.0) -> Graph:
    """A convolution of what is padded by two of `value` along `axis`."""
    graph = Graph(int8=True)
    frames = graph.pool(graph.input(1, 4, 6, 3), (1, 1), ((0, 0), (0, 0)))
    pad = graph.pad(frames, axis, 1, 1)
    graph.written.xnodes[-1].xnode_union.padding_value = value
    graph.output(graph.convolve(pad, kernel(5, graph.dims(pad)[3], 3), None))
    return graph


@pytest.mark.parametrize("axis", [1, 2])
def test_a_convolution_pads_by_itself_where_it_pads_its_area_with_zeros(axis: int) -> None:
    assert "StaticConstantPad" not in fused(padded(axis))


@pytest.mark.parametrize("graph", [padded(value=1.0), padded(3), padded(0)], ids=["ones", "channels", "clips"])
def test_a_pad_that_a_convolution_does_not_do_stays(graph: Graph) -> None:
    assert "StaticConstantPad" in fused(graph)


def between_conversions(value: float, factor: float) -> Graph:
    """A pad of `value` in float, between an INT8 value and one of `factor` times its scale."""
    graph = Graph(int8=True)
    floats = graph.convert(graph.pool(graph.input(1, 4, 6, 3), (1, 1), ((0, 0), (0, 0))), to_float=True)
    pad = schema.XNNStaticConstantPad([0, 1, 1, 0], [0, 1, 1, 0], value, floats, 0, 0)
    result = graph.convert(graph._node((1, 6, 8, 3), pad, kind="fp32"), to_float=False)
    graph.written.xvalues[result].xvalue_union.quant_params.scale *= factor
    graph.output(result)
    return graph


def test_zeros_around_int8_values_need_no_floats() -> None:
    assert fused(between_conversions(0.0, 1.0)) == ["MaxPooling2d", "StaticConstantPad"]


@pytest.mark.parametrize(("value", "factor"), [(1.0, 1.0), (0.0, 3.0)], ids=["ones", "another scale"])
def test_a_pad_that_means_something_else_in_int8_stays_in_float(value: float, factor: float) -> None:
    assert fused(between_conversions(value, factor)).count("Convert") == 2


@pytest.mark.parametrize(("factor", "conversions"), [(1.0, 1), (2.0, 2)])
def test_bytes_become_int8_at_once_where_their_scale_is_the_same(factor: float, conversions: int) -> None:
    graph = Graph(int8=True)
    result = graph.convert(graph.convert(graph.input(1, 2, 8, 4, kind="quint8"), to_float=True), to_float=False)
    graph.written.xvalues[result].xvalue_union.quant_params.scale *= factor
    graph.output(result)
    assert fused(graph) == conversions * ["Convert"]


def test_bytes_are_summed_in_int8_with_the_offset_of_the_deployed_network() -> None:
    assert sums_in_int8(SCALE, OFFSET, HALF_STEP)


@pytest.mark.parametrize(
    ("offset", "step"),
    [(OFFSET, SCALE), (OFFSET, 2.0**-20), (OFFSET, 16.0)],
    ids=["ties", "scales too far apart", "scales too far apart the other way"],
)
def test_bytes_are_not_summed_in_int8_where_xnnpack_could_round_another_way(offset: float, step: float) -> None:
    assert not sums_in_int8(SCALE, offset, step)


def test_where_bytes_are_summed_in_int8_floats_are_rounded_the_same_way() -> None:
    """XNNPACK's sum: factors of 20 bits, and a shift that rounds half up."""
    random, taken = np.random.default_rng(0), 0
    byte = np.arange(256, dtype=np.int64)
    for _ in range(400):
        scale, step = random.uniform(0.002, 0.03), float(np.float16(random.uniform(0.004, 0.03)))
        offset = -scale * random.uniform(60, 190)
        if not sums_in_int8(scale, offset, step):
            continue
        taken += 1
        floats = np.float32(byte) * np.float32(scale) + np.float32(offset)
        expected = np.clip(np.rint(floats * (np.float32(1) / np.float32(step))), -128, 127)
        ratios = np.array([np.float32(scale) / np.float32(step), np.float32(-offset / 127) / np.float32(step)])
        shift = 20 - (int(np.frexp(ratios.max())[1]) - 1)
        factors = np.rint(ratios * 2.0**shift).astype(np.int64)
        sums = byte * factors[0] - 127 * factors[1] + (1 << (shift - 1))
        np.testing.assert_array_equal(np.clip(sums >> shift, -128, 127), expected)
    assert taken > 20


def entering(width: int, reader: str) -> Graph:
    """Frames of two rows of so many pixels of four bytes, and what reads them."""
    graph = Graph(int8=True)
    frames = graph.input(1, 2, width, 4, kind="quint8")
    read = graph.convert(frames, to_float=True) if reader == "convert" else graph.each("Sigmoid", frames)
    graph.output(graph.both("Add", read, graph.input(1, kind="fp32")))
    return graph


@pytest.mark.parametrize(
    ("width", "reader", "inside"), [(8, "convert", True), (9, "convert", False), (8, "another operator", False)]
)
def test_what_reads_whole_vectors_to_the_end_reads_nothing_beyond(width: int, reader: str, inside: bool) -> None:
    assert xnnpack_graph.stays_inside(entering(width, reader).written) is inside


def test_every_reader_of_what_enters_counts() -> None:
    graph = entering(8, "convert")
    graph.output(graph.each("Sigmoid", 0))
    assert not xnnpack_graph.stays_inside(graph.written)


def test_an_int8_pool_between_two_scales_is_one_that_xnnpack_takes() -> None:
    graph = Graph(int8=True)
    frames = graph.input(1, 4, 4, 8)
    pooled = graph.pool(frames, (3, 3), ((1, 1), (1, 1)))
    graph.written.xvalues[pooled].xvalue_union.quant_params.scale = 3 * SCALE_OF_GRAPHS
    graph.output(pooled)
    with pytest.raises(RuntimeError, match="max_pooling"):
        outputs(graph.written, graph.constants)
    xnnpack_fusion.fuse(graph.written)
    kinds = [type(node.xnode_union).__name__ for node in graph.written.xnodes]
    assert kinds == ["XNNMaxPooling2d", "XNNConvert"]
    with Part(graph.written, graph.constants, graph.written.xnodes) as part:
        values = np.random.default_rng(1).integers(-128, 128, (1, 4, 4, 8)).astype(np.int8)
        part.arrays[part.inputs[0]][: values.size] = values.view(np.uint8).ravel()
        part.run()
        found = part.arrays[part.outputs[0]][: values.size].view(np.int8).reshape(values.shape)
    around = np.pad(values, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-128)
    largest = np.lib.stride_tricks.sliding_window_view(around, (3, 3), axis=(1, 2)).max((-2, -1))
    np.testing.assert_array_equal(found, np.rint(largest / 3))  # no third lies between two integers
