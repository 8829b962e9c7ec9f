"""A .pte file that runs on this machine: its clip in memory, its threads, and what cannot be loaded."""

from __future__ import annotations

import functools
import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torch.export import ExportedProgram

from d3d_edge import target
from d3d_edge.errors import DataError
from d3d_edge.runtimes import executorch, executorch_checks, xnnpack_graph
from tests import networks

pytest.importorskip("executorch")
pytestmark = pytest.mark.slow

ANDROID = target.load("android")
Make = Callable[[], ExportedProgram]
Lower = Callable[[Make], Path]


@pytest.fixture(scope="module")
def lowered(tmp_path_factory: pytest.TempPathFactory) -> Lower:
    """Lower each graph once, to a file."""

    @functools.cache
    def lower(make: Make) -> Path:
        folder = tmp_path_factory.mktemp("lowered")
        return folder / executorch.RUNTIME.lower(make(), folder, ANDROID, precision="int8").model

    return lower


def test_a_file_that_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.pte").write_bytes(b"no model")
    (fault,) = executorch._tried(tmp_path / "broken.pte")
    assert "the file does not run: " in str(fault)
    assert str(tmp_path) not in str(fault), "the file is thrown away"


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
    paths = [lowered(make) for make in (networks.quantized, networks.stem, networks.float_program)]
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
        executorch.ExecuTorchRunner(lowered(networks.quantized), 1) as in_place,
        executorch.ExecuTorchRunner(tmp_path / executorch.MODEL, 1) as copied,
    ):
        assert copied._method.method_meta().input_tensor_meta(0).is_memory_planned()
        np.testing.assert_array_equal(in_place.run(clip), copied.run(clip))


def test_models_that_are_open_together_keep_their_pool_of_threads(
    lowered: Lower, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = lowered(networks.quantized)
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
    path = lowered(networks.quantized)
    clip = networks.clip().numpy()
    with executorch.ExecuTorchRunner(path, 2) as first:
        expected = first.run(clip)
        with pytest.raises(DataError, match="open on 2 threads, and this one is to run on 1"):
            executorch.ExecuTorchRunner(path, 1)
        np.testing.assert_array_equal(first.run(clip), expected)
    with executorch.ExecuTorchRunner(path, 1) as afterwards:
        np.testing.assert_array_equal(afterwards.run(clip), expected)
