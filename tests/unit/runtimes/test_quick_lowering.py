"""What is remembered while a graph is lowered is what would be computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from d3d_edge.runtimes import quick_lowering

pytest.importorskip("executorch")
aten = torch.ops.aten
SHAPE = (2, 4, 6, 6)


@pytest.fixture
def fake() -> Iterator[Callable[..., Tensor]]:
    """Tensors without values, by shape and what else `torch.empty` takes."""
    with FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True):
        yield torch.empty


def results(operator: Any, *given: Tensor) -> tuple[list[Any], int]:
    """What an operator gives for each of `given`, and how often it was computed."""
    known, computed = quick_lowering._Known(), 0

    def compute() -> Any:
        nonlocal computed
        computed += 1
        return operator(x)

    found = []
    for x in given:
        found.append(known.result(operator, (x,), {}, compute))
    return found, computed


def looks(x: Tensor) -> tuple[object, ...]:
    return x.shape, x.stride(), x.dtype, x.device, x.requires_grad


def test_tensors_that_look_the_same_give_others_that_do(fake: Callable[..., Tensor]) -> None:
    given = fake(*SHAPE), fake(*SHAPE)
    (one, other), computed = results(aten.relu.default, *given)
    assert (computed, one is other) == (1, False)
    assert looks(one) == looks(other) == looks(aten.relu.default(given[0]))


@pytest.mark.parametrize(
    "options",
    [{"memory_format": torch.channels_last}, {"dtype": torch.float64}, {"requires_grad": True}, {"device": "meta"}],
    ids=str,
)
def test_those_that_look_otherwise_are_computed(options: dict[str, Any], fake: Callable[..., Tensor]) -> None:
    given = fake(*SHAPE), fake(SHAPE, **options)
    found, computed = results(aten.relu.default, *given)
    assert computed == 2
    assert list(map(looks, found)) == [looks(aten.relu.default(x)) for x in given]


def test_a_view_shares_the_memory_of_its_own_tensor(fake: Callable[..., Tensor]) -> None:
    given = fake(*SHAPE), fake(*SHAPE)
    found, computed = results(aten.detach.default, *given)
    assert computed == 2
    for x, view in zip(given, found, strict=True):
        assert view.untyped_storage()._cdata == x.untyped_storage()._cdata


@pytest.mark.parametrize("operator", [aten.nonzero.default, aten._local_scalar_dense.default])
def test_what_depends_on_values_is_computed_for_each(operator: Any, fake: Callable[..., Tensor]) -> None:
    found, computed = results(operator, fake(1, dtype=torch.int64), fake(1, dtype=torch.int64))
    assert computed == 2
    one, other = (str(x.shape if isinstance(x, Tensor) else x) for x in found)
    assert one != other
