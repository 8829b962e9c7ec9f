"""An INT8 graph that runs quickly gives the values of the one that runs slowly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule

from d3d_edge.quantize import running
from tests import networks

_stored = torch.ops.quantized_decomposed
ROUNDED = running._rounded


def affine() -> ExportedProgram:
    return networks.quantized("affine")


@pytest.mark.parametrize("make", [networks.quantized, affine, networks.mixed, networks.stem, networks.float_program])
def test_a_network_gives_the_same_logits(make: Callable[[], ExportedProgram]) -> None:
    program = make()
    slow, quick = program.module(), running.module_of(program)
    for clip in (networks.all_bytes(), *(networks.clip(seed) for seed in range(3))):
        assert torch.equal(slow(clip), quick(clip))


def test_nothing_is_written_as_integers_and_no_weight_read_again() -> None:
    program = networks.quantized()
    calls = [node.target for node in program.graph.nodes if node.op == "call_function"]
    left = [node.target for node in running.module_of(program).graph.nodes if node.op == "call_function"]
    assert not any("quantized_decomposed" in str(target) for target in left)
    assert 0 < left.count(ROUNDED) < calls.count(_stored.quantize_per_tensor.default)


def test_the_program_stays_as_it_was() -> None:
    program = networks.quantized()
    before = str(program), {name: value.clone() for name, value in program.state_dict.items()}
    running.module_of(program)(networks.clip())
    assert str(program) == before[0]
    assert program.state_dict.keys() == before[1].keys()
    assert all(torch.equal(value, before[1][name]) for name, value in program.state_dict.items())


FLOATS = st.floats(-1e6, 1e6, width=32)
SCALES = st.floats(2.0**-20, 2.0**10, width=32)


@given(arrays.arrays(np.float32, st.integers(1, 20), elements=FLOATS), SCALES, st.integers(-128, 127))
def test_a_number_is_rounded_as_by_way_of_integers(values: Any, scale: float, zero_point: int) -> None:
    grid = (scale, zero_point, -128, 127)
    steps = torch.from_numpy(np.concatenate([values, np.arange(-140, 140, 0.5, dtype=np.float32) * scale]))
    stored = _stored.quantize_per_tensor(steps, *grid, torch.int8)
    slow = _stored.dequantize_per_tensor(stored, *grid, torch.int8)
    quick = ROUNDED(steps, *grid)
    assert torch.equal(quick, slow)
    assert torch.equal(ROUNDED(quick, *grid), quick), "once is enough"


GRID = (0.1, 3, -128, 127, torch.int8)


def through(x: Tensor, grid: tuple[Any, ...], read: tuple[Any, ...] | None = None) -> Tensor:
    result: Tensor = _stored.dequantize_per_tensor(_stored.quantize_per_tensor(x, *grid), *(read or grid))
    return result


def joined(x: Tensor, grid: tuple[Any, ...]) -> Tensor:
    return torch.cat([through(x, GRID).permute(1, 0), through(2 * x, grid).permute(1, 0)])


OTHER = (0.3, *GRID[1:])
WIDE = (1e-5, 0, -(2**31), 2**31 - 1, torch.int32)


@pytest.mark.parametrize(
    ("function", "rounded", "left"),
    [
        (lambda x: through(through(x, GRID), GRID), 1, 0),
        (lambda x: through(through(x, GRID).view(2, 6).relu(), GRID), 1, 0),
        (lambda x: through(through(x, GRID)[:, :2], GRID).view(6), 2, 0),
        (lambda x: through(through(x, GRID), OTHER), 2, 0),
        (lambda x: through(through(x, GRID) + 0.04, GRID), 2, 0),
        (lambda x: through(nn.functional.pad(through(x, GRID), (1, 1), value=0.04), GRID), 2, 0),
        (lambda x: through(joined(x, GRID), GRID), 2, 0),
        (lambda x: through(joined(x, OTHER), GRID), 3, 0),
        (lambda x: through(x, GRID, OTHER), 0, 1),
        (lambda x: through(x, WIDE), 0, 1),
        (lambda x: _stored.quantize_per_tensor(x, *GRID).float() + through(x, GRID), 1, 1),
        (lambda x: through(through(x, GRID), GRID).mul_(2) + 1, 0, 2),
    ],
    ids=[
        "again",
        "rearranged",
        "a part, which is whole then",
        "by another grid",
        "after a sum",
        "after a pad by a number",
        "joined",
        "joined of two grids",
        "read by another grid",
        "of too many integers",
        "read as integers too",
        "written into",
    ],
)
def test_what_is_on_the_grid_is_left_alone(function: Callable[[Tensor], Tensor], rounded: int, left: int) -> None:
    x = torch.linspace(-20, 20, 12).view(3, 4)
    program = torch.export.export(networks.Function(function), (x,), strict=False)
    quick: GraphModule = running.module_of(program)
    assert torch.equal(quick(x), program.module()(x))
    calls = [node.target for node in quick.graph.nodes if node.op == "call_function"]
    assert calls.count(ROUNDED) == rounded
    assert calls.count(_stored.quantize_per_tensor.default) == left
