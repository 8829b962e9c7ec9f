"""What a .pte file of the network holds, and that the shortcuts of lowering change nothing."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import ExportedProgram

from d3d_edge import target
from d3d_edge.errors import MissingDependency
from d3d_edge.quantize import pt2e
from d3d_edge.runtimes import (
    executorch,
    quick_lowering,
    xnnpack_bytes,
    xnnpack_delegate,
    xnnpack_fusion,
    xnnpack_graph,
)
from tests import networks

pytest.importorskip("executorch")
pytestmark = pytest.mark.slow

ANDROID = target.load("android")
Make = Callable[[], ExportedProgram]


class Written(NamedTuple):
    """What lowering a graph as usual left."""

    path: Path
    facts: dict[str, int | float | str | bool]
    kinds: Counter[str]
    """Nodes of the delegates, by kind."""
    weights: Counter[str]
    """Those of products with a matrix, by type."""
    graph_unchanged: bool


Lower = Callable[[Make], Written]


@pytest.fixture(scope="module")
def lowered(tmp_path_factory: pytest.TempPathFactory) -> Lower:
    """Lower each graph once."""
    fuse = xnnpack_fusion.fuse

    @functools.cache
    def lower(make: Make) -> Written:
        folder = tmp_path_factory.mktemp("lowered")
        kinds, weights = Counter[str](), Counter[str]()

        def counted(graph: Any) -> None:
            fuse(graph)
            kinds.update(type(node.xnode_union).__name__ for node in graph.xnodes)
            values, calls = xnnpack_graph.values_of(graph), [node.xnode_union for node in graph.xnodes]
            products = [call for call in calls if type(call).__name__ == "XNNFullyConnected"]
            weights.update(xnnpack_graph.tensor_of(values[call.filter_id]).datatype.name for call in products)

        before = str(make().graph)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(xnnpack_fusion, "fuse", counted)
            written = executorch.RUNTIME.lower(make(), folder, ANDROID, precision="int8")
        return Written(folder / written.model, written.facts, kinds, weights, str(make().graph) == before)

    return lower


class Parted(nn.Module):
    """Two operators that XNNPACK does not take, and between them the same ones as before and behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.logits = nn.Conv2d(3, networks.CLASSES, 1)

    def forward(self, clip: Tensor) -> Tensor:
        frames = clip.float().permute(0, 3, 1, 2)
        for conv in self.convs[:2]:
            frames = torch.relu(conv(frames)).cumsum(1)
        pooled = self.convs[2](frames).mean((0, 2, 3), keepdim=True)
        logits: Tensor = self.logits(pooled).flatten(1)
        return logits


def affine() -> ExportedProgram:
    return networks.quantized("affine")


def affine_stem() -> ExportedProgram:
    return networks.stem("affine")


@pytest.mark.parametrize("make", [networks.quantized, affine, networks.float_program])
def test_the_whole_network_is_one_delegate(make: Make, lowered: Lower) -> None:
    facts = lowered(make).facts
    assert facts["delegates"] == 1
    assert facts["undelegated_operators"] == 0


@pytest.mark.parametrize("make", [networks.quantized, networks.float_program])
def test_lowering_quickly_changes_no_byte(
    make: Make, lowered: Lower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lowered(make).graph_unchanged
    monkeypatch.setattr(quick_lowering, "VERSIONS", "none")
    executorch.RUNTIME.lower(make(), tmp_path, ANDROID, precision="int8")
    assert (tmp_path / executorch.MODEL).read_bytes() == lowered(make).path.read_bytes()


def test_lowering_quickly_changes_no_byte_between_delegates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = pt2e.export_float(Parted(), networks.clip())
    files = []
    for _ in range(2):
        written = executorch.RUNTIME.lower(program, tmp_path, ANDROID, precision="float32", allow_fallback=True)
        assert written.facts["delegates"] > 2
        files.append((tmp_path / written.model).read_bytes())
        monkeypatch.setattr(quick_lowering, "VERSIONS", "none")
    assert files[0] == files[1]


@pytest.mark.parametrize("make", [networks.float_program, networks.quantized, affine_stem, networks.stem])
def test_bytes_are_normalised_inside_the_delegate(
    make: Make, lowered: Lower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    delegated = lowered(make)
    monkeypatch.setattr(xnnpack_bytes, "with_bytes_quantized", lambda program: program)
    outside = executorch.RUNTIME.lower(make(), tmp_path, ANDROID, precision="float32").facts
    assert "_to_dim_order_copy" in str(outside["undelegated_names"])
    with (
        executorch.ExecuTorchRunner(delegated.path, 1) as inside,
        executorch.ExecuTorchRunner(tmp_path / executorch.MODEL, 0) as converted,
    ):
        for clip in (networks.all_bytes(), networks.clip()):
            np.testing.assert_array_equal(inside.run(clip.numpy()), converted.run(clip.numpy()))


@pytest.mark.parametrize("make", [affine_stem, networks.stem])
def test_int8_frames_are_never_floats(make: Make, lowered: Lower) -> None:
    kinds = lowered(make).kinds
    assert (kinds["XNNMultiply"], kinds["XNNAdd"]) == (0, 1)
    assert kinds["XNNConvert"] == 3, "bytes and the offset to INT8, and the logits to floats"


def test_frames_are_floats_where_int8_could_round_another_way(
    lowered: Lower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_int8 = lowered(networks.stem)
    monkeypatch.setattr(xnnpack_bytes, "sums_in_int8", lambda *_: False)
    executorch.RUNTIME.lower(networks.stem(), tmp_path, ANDROID, precision="int8")
    assert (tmp_path / executorch.MODEL).read_bytes() != in_int8.path.read_bytes()
    with (
        executorch.ExecuTorchRunner(in_int8.path, 1) as bytes_,
        executorch.ExecuTorchRunner(tmp_path / executorch.MODEL, 0) as floats,
    ):
        np.testing.assert_array_equal(
            bytes_.run(networks.all_bytes().numpy()), floats.run(networks.all_bytes().numpy())
        )


def test_what_was_replaced_for_lowering_is_put_back() -> None:
    before = ExportedProgram.run_decompositions, ExportedProgram.validate
    with pytest.raises(KeyError), quick_lowering.quickly(networks.float_program()):
        raise KeyError
    assert (ExportedProgram.run_decompositions, ExportedProgram.validate) == before


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executorch, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"d3d-edge\[android\]"):
        executorch.RUNTIME.check_lower()


def test_changes_of_view_are_not_moves_of_memory(lowered: Lower) -> None:
    kinds = lowered(networks.quantized).kinds
    assert (kinds["XNNConv2d"], kinds["XNNFullyConnected"]) == (5, 1)
    assert kinds["XNNStaticReshape"]
    # Of the logits, which have one position only.
    assert kinds["XNNStaticTranspose"] == 1


def test_int8_tensors_are_padded_and_gated_as_they_are(lowered: Lower) -> None:
    kinds = lowered(networks.quantized).kinds
    assert kinds["XNNStaticConstantPad"] == 0, "the convolution pads"
    assert kinds["XNNSigmoid"] == 1
    # Bytes to float, normalised frames to INT8, and the classifier's input to float.
    assert kinds["XNNConvert"] == 3


def test_a_stem_copies_its_frames_once_a_step(lowered: Lower) -> None:
    kinds = lowered(affine_stem).kinds
    assert kinds["XNNStaticConstantPad"] == 1, "of frames in time"
    assert kinds["XNNStaticSlice"] == kinds["XNNConcatenate3"] * 3 == 3
    # Of pairs of pixels, and of the logits.
    assert kinds["XNNStaticTranspose"] == 2
    assert kinds["XNNConvert"] == 3


@functools.cache
def unbiased() -> ExportedProgram:
    model = networks.small()
    model.logits.bias = None
    graph = pt2e.prepare(pt2e.capture(model, networks.clip()), scheme="symmetric", observer="minmax", qat=False)
    pt2e.calibrate(graph, [networks.clip(seed) for seed in range(3)])
    return pt2e.convert(graph, networks.clip())


@pytest.mark.parametrize("make", [networks.quantized, affine, unbiased])
def test_logits_are_not_rounded_and_their_weights_are_int8(make: Make, lowered: Lower) -> None:
    found = lowered(make)
    assert found.weights == {"xnn_datatype_qcint8": 1}
    module, clips = make().module(), [networks.clip(seed) for seed in range(5)]
    with executorch.ExecuTorchRunner(found.path, 1) as runner:
        apart = [np.abs(runner.run(clip.numpy()) - module(clip)[0].numpy()).max() for clip in clips]
    # XNNPACK may round a feature the other way, but not those of every clip.
    assert max(apart) <= (pt2e.logit_step(make()) or 0.0)
    assert np.median(apart) < 2e-6


@pytest.mark.parametrize("make", [networks.quantized, affine, affine_stem, networks.stem, networks.float_program])
def test_a_small_delegate_gives_the_same_logits(
    make: Make, lowered: Lower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def logits(path: Path) -> NDArray[Any]:
        with executorch.ExecuTorchRunner(path, 1) as runner:
            return np.stack([runner.run(networks.clip(seed).numpy()) for seed in range(5)])

    small = lowered(make)
    monkeypatch.setattr(xnnpack_delegate, "made_small", lambda *_: nullcontext())
    whole = executorch.RUNTIME.lower(make(), tmp_path, ANDROID, precision="int8").facts
    # The classifier's weights are floats there, and sums of floats are rounded in their order.
    np.testing.assert_allclose(logits(small.path), logits(tmp_path / executorch.MODEL), rtol=0, atol=1e-6)
    assert int(small.facts["size_bytes"]) < int(whole["size_bytes"])
