"""What a .pte file of the network holds, and that the shortcuts of lowering change nothing."""

from __future__ import annotations

import functools
import importlib
import json
import subprocess
import sys
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
from d3d_edge.errors import DataError, MissingDependency
from d3d_edge.models.layers import StackedConv
from d3d_edge.models.views import clip_view
from d3d_edge.quantize import pt2e
from d3d_edge.runtimes import (
    executorch,
    executorch_checks,
    quick_lowering,
    xnnpack_bytes,
    xnnpack_delegate,
    xnnpack_fusion,
    xnnpack_graph,
)
from d3d_edge.target import Scheme
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


def affine() -> ExportedProgram:
    return networks.quantized("affine")


class Stem(nn.Module):
    """The published first layer, which sees three frames and reads blocks of pixels, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = StackedConv(3, 8, (3, 7), 2)
        self.logits = nn.Conv2d(8, networks.CLASSES, 1)
        self.register_buffer("scale", torch.full((1, 1, 1, 1), networks.SCALE), persistent=False)
        self.register_buffer("offset", torch.full((1, 1, 1, 1), networks.OFFSET), persistent=False)

    def forward(self, clip: Tensor) -> Tensor:
        frames = (clip.float() * self.scale + self.offset).permute(0, 3, 1, 2)  # type: ignore[operator]
        pooled = clip_view(self.stem(frames), 1).mean((2, 3), keepdim=True)
        return self.logits(pooled).flatten(1)


def _stem(scheme: Scheme) -> ExportedProgram:
    torch.manual_seed(0)
    graph = pt2e.prepare(Stem().eval(), networks.clip(), scheme=scheme, observer="minmax", qat=False)
    pt2e.calibrate(graph, [all_bytes(), *(networks.clip(seed) for seed in range(3))])
    return pt2e.convert(graph, networks.clip())


@functools.cache
def stem() -> ExportedProgram:
    return _stem("affine")


@functools.cache
def symmetric_stem() -> ExportedProgram:
    return _stem("symmetric")


def all_bytes() -> Tensor:
    return torch.from_numpy(np.resize(np.arange(256, dtype=np.uint8), networks.clip().shape))


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


@pytest.mark.parametrize("make", [networks.float_program, networks.quantized, stem, symmetric_stem])
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
        for clip in (all_bytes(), networks.clip()):
            np.testing.assert_array_equal(inside.run(clip.numpy()), converted.run(clip.numpy()))


@pytest.mark.parametrize("make", [stem, symmetric_stem])
def test_int8_frames_are_never_floats(make: Make, lowered: Lower) -> None:
    kinds = lowered(make).kinds
    assert (kinds["XNNMultiply"], kinds["XNNAdd"]) == (0, 1)
    assert kinds["XNNConvert"] == 3, "bytes and the offset to INT8, and the logits to floats"


def test_frames_are_floats_where_int8_could_round_another_way(
    lowered: Lower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_int8 = lowered(symmetric_stem)
    monkeypatch.setattr(xnnpack_bytes, "sums_in_int8", lambda *_: False)
    executorch.RUNTIME.lower(symmetric_stem(), tmp_path, ANDROID, precision="int8")
    assert (tmp_path / executorch.MODEL).read_bytes() != in_int8.path.read_bytes()
    with (
        executorch.ExecuTorchRunner(in_int8.path, 1) as bytes_,
        executorch.ExecuTorchRunner(tmp_path / executorch.MODEL, 0) as floats,
    ):
        np.testing.assert_array_equal(bytes_.run(all_bytes().numpy()), floats.run(all_bytes().numpy()))


def test_what_was_replaced_for_lowering_is_put_back() -> None:
    from torch.fx import GraphModule

    before = ExportedProgram.run_decompositions, ExportedProgram.validate, GraphModule.recompile
    with pytest.raises(KeyError), quick_lowering.quickly(networks.float_program()):
        raise KeyError
    assert (ExportedProgram.run_decompositions, ExportedProgram.validate, GraphModule.recompile) == before


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
    kinds = lowered(stem).kinds
    assert kinds["XNNStaticConstantPad"] == 1, "of frames in time"
    assert kinds["XNNStaticSlice"] == kinds["XNNConcatenate3"] * 3 == 3
    # Of pairs of pixels, and of the logits.
    assert kinds["XNNStaticTranspose"] == 2
    assert kinds["XNNConvert"] == 3


@functools.cache
def unbiased() -> ExportedProgram:
    model = networks.small()
    model.logits.bias = None
    graph = pt2e.prepare(model, networks.clip(), scheme="symmetric", observer="minmax", qat=False)
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


@pytest.mark.parametrize("make", [networks.quantized, affine, stem, symmetric_stem, networks.float_program])
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


def test_a_file_that_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.pte").write_bytes(b"no model")
    (fault,) = executorch._tried(tmp_path / "broken.pte")
    assert "the file does not run" in str(fault)


AT_THE_END_OF_MEMORY = """
import ctypes, json, mmap, sys
from pathlib import Path
import numpy as np
from d3d_edge.runtimes.executorch import ExecuTorchRunner

size, given = 3 * mmap.PAGESIZE, np.load(sys.argv[1])
pages = mmap.mmap(-1, size + mmap.PAGESIZE)
forbidden = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(pages)) + size)
assert ctypes.CDLL(None).mprotect(forbidden, ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
clip = np.frombuffer(pages, np.uint8, given.size, size - given.size).reshape(given.shape)
clip[:] = given
for path in sys.argv[2:]:
    with ExecuTorchRunner(Path(path), 1) as runner:
        print(json.dumps(runner.run(clip).tolist()))
"""
"""Runs files on a clip behind which no byte may be read: the process is killed if one is."""


def test_a_clip_is_read_where_the_app_has_it_and_not_beyond(lowered: Lower, tmp_path: Path) -> None:
    paths = [lowered(make).path for make in (networks.quantized, symmetric_stem, networks.float_program)]
    clip = networks.clip().numpy()
    np.save(tmp_path / "clip.npy", clip)
    expected = []
    for path in paths:
        with executorch.ExecuTorchRunner(path, 1) as runner:
            assert not runner._method.method_meta().input_tensor_meta(0).is_memory_planned()
            expected.append(runner.run(clip).tolist())
    command = [sys.executable, "-W", "ignore", "-c", AT_THE_END_OF_MEMORY, str(tmp_path / "clip.npy"), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == expected


def test_a_clip_is_copied_where_something_could_be_read_beyond_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lowered: Lower
) -> None:
    monkeypatch.setattr(xnnpack_graph, "VECTOR", 7)
    executorch.RUNTIME.lower(networks.quantized(), tmp_path, ANDROID, precision="int8")
    clip = networks.clip().numpy()
    with (
        executorch.ExecuTorchRunner(lowered(networks.quantized).path, 1) as in_place,
        executorch.ExecuTorchRunner(tmp_path / executorch.MODEL, 1) as copied,
    ):
        assert copied._method.method_meta().input_tensor_meta(0).is_memory_planned()
        np.testing.assert_array_equal(in_place.run(clip), copied.run(clip))


def test_models_that_are_open_together_keep_their_pool_of_threads(
    lowered: Lower, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = lowered(networks.quantized).path
    clip = networks.clip().numpy()
    with executorch.ExecuTorchRunner(path, 2) as first:
        expected = first.run(clip)
        library = importlib.import_module(executorch_checks.LIBRARY)
        monkeypatch.setattr(library, "_unsafe_reset_threadpool", lambda threads: pytest.fail("the pool was replaced"))
        with executorch.ExecuTorchRunner(path, 2) as second:
            assert (first.threads, second.threads) == (2, 2)
            np.testing.assert_array_equal(second.run(clip), expected)
        np.testing.assert_array_equal(first.run(clip), expected)


def test_a_model_that_would_take_the_threads_of_an_open_one_is_refused(lowered: Lower) -> None:
    path = lowered(networks.quantized).path
    clip = networks.clip().numpy()
    with executorch.ExecuTorchRunner(path, 2) as first:
        expected = first.run(clip)
        with pytest.raises(DataError, match="open on 2 threads, and this one is to run on 1"):
            executorch.ExecuTorchRunner(path, 1)
        np.testing.assert_array_equal(first.run(clip), expected)
    with executorch.ExecuTorchRunner(path, 1) as afterwards:
        np.testing.assert_array_equal(afterwards.run(clip), expected)
