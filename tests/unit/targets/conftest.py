"""A device that is a folder of this machine, a small ONNX file, and clips for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from d3d_edge import transports
from d3d_edge.files import sha256_of_file
from d3d_edge.harness.device import Job, Program
from d3d_edge.harness.packs import Packer
from d3d_edge.pipeline.devices import _python_runner
from d3d_edge.transports import File, Transport
from tests.devices import reach

SHAPE, CLASSES = (2, 4, 4, 3), 3


@pytest.fixture(scope="session")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of `clip: uint8 SHAPE` to logits [1, CLASSES]: sums over frames and pixels, through much needless work."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    weights = np.eye(512, dtype=np.float32)
    nodes = [
        helper.make_node("Cast", ["clip"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["colours"], keepdims=0),
        helper.make_node("Unsqueeze", ["colours", "first"], ["logits_0"]),
        helper.make_node("ReduceMax", ["colours", "first"], ["largest"], keepdims=0),
        helper.make_node("Expand", ["largest", "many"], ["w_0"]),
    ]
    # Some milliseconds a clip, so that a run can be interrupted in its middle.
    nodes += [helper.make_node("MatMul", [f"w_{i}", "w"], [f"w_{i + 1}"]) for i in range(2)]
    nodes += [
        helper.make_node("ReduceMin", ["w_2", "both"], ["smallest"], keepdims=0),
        helper.make_node("Sub", ["smallest", "largest"], ["zero"]),
        helper.make_node("Add", ["logits_0", "zero"], ["logits"]),
    ]
    constants = {"axes": [0, 1, 2], "first": [0], "many": [512, 512], "both": [0, 1]}
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("clip", TensorProto.UINT8, SHAPE)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, (1, CLASSES))],
        [numpy_helper.from_array(weights, "w")]
        + [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in constants.items()],
    )
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


@pytest.fixture
def device(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Transport]:
    pytest.importorskip("onnxruntime")
    name, _ = reach("local", request, tmp_path / "device", monkeypatch)
    with transports.get(name) as transport:
        yield transport


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The device's."""
    return tmp_path / "device"


MakeJob = Callable[..., Job]


@pytest.fixture
def make_job(onnx_file: Path, tmp_path: Path) -> MakeJob:
    def make(clips: int = 6, *, threads: int = 1, model: Path = onnx_file, words: tuple[str, ...] = ()) -> Job:
        packer = Packer(tmp_path)
        for number in range(clips):
            packer.add(np.full(SHAPE, number, np.uint8) * np.array([1, 2, 3], np.uint8))
        (pack,) = packer.finished()
        runner = _python_runner(tmp_path)
        sent = File(f"blobs/{(sha256 := sha256_of_file(runner))}.pyz", runner, sha256)
        file = File(f"blobs/{(digest := sha256_of_file(model))}.onnx", model, digest)
        return Job(
            program=Program(sent.name, (sent,), words),
            model=file.name,
            files=(file,),
            clips=((File(f"blobs/{pack.sha256}.clips", pack.path, pack.sha256), pack.clips),),
            shape=SHAPE,
            classes=CLASSES,
            threads=threads,
            timing={"warmup": 1, "runs": 2, "min-runs": 1, "budget-s": 9},
        )

    return make
