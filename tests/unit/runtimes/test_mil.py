"""The reference interpreter reads a package as it lies on disk, and refuses by name what it does not know."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from d3d_edge.errors import BundleError
from d3d_edge.runtimes.mil import MilProgram
from tests.unit.runtimes.packages import Body, mb, saved

INTERRUPTED = """
import importlib.abc, os, signal, sys
from d3d_edge.runtimes import mil

class Interrupt(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "coremltools._deps.kmeans1d":
            os.kill(os.getpid(), signal.SIGINT)
            print("interrupted", flush=True)

sys.meta_path.insert(0, Interrupt())
try:
    mil.coremltools()
except KeyboardInterrupt:
    print("heard")
"""
"""Ctrl-C while coremltools imports something of which it forgives every exception."""

IMAGE, OTHER = np.random.default_rng(0).normal(size=(2, 2, 4, 7, 9)).astype(np.float32)


def test_values_are_forgotten_when_no_step_needs_them_any_more(tmp_path: Path) -> None:
    def body(x: Any) -> Any:
        y = mb.relu(x=x, name="first")
        z = mb.sigmoid(x=y, name="second")
        return mb.add(x=y, y=z, name="sum")

    program = MilProgram.load(saved(tmp_path, body, IMAGE))
    assert [step.done for step in program._steps] == [("x",), (), ("first", "second")]


def test_a_program_can_run_again(tmp_path: Path) -> None:
    program = MilProgram.load(saved(tmp_path, lambda x: mb.add(x=mb.relu(x=x), y=OTHER), IMAGE))
    (source,), (result,) = program.inputs, program.outputs
    first, second = (program.run({source.name: x})[result.name] for x in (IMAGE, IMAGE))
    np.testing.assert_array_equal(first, second)


def test_an_unknown_operator_is_named_when_the_package_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="does not know the operator erf"):
        MilProgram.load(saved(tmp_path, lambda x: mb.erf(x=x), IMAGE))


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (lambda x: mb.pad(x=x, pad=[1, 1], mode="reflect"), "mode=reflect of pad"),
        (lambda x: mb.concat(values=[x, x], axis=1, interleave=True), "interleave=True of concat"),
        (
            lambda x: mb.avg_pool(x=x, kernel_sizes=[2, 2], pad_type="valid", ceil_mode=True),
            "ceil_mode=True of avg_pool",
        ),
    ],
    ids=["pad", "concat", "avg_pool"],
)
def test_an_unknown_argument_is_named_when_the_package_is_loaded(body: Body, named: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=named):
        MilProgram.load(saved(tmp_path, body, IMAGE))


def test_a_folder_that_is_no_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot be read"):
        MilProgram.load(tmp_path)


@pytest.mark.parametrize("damage", ["specification", "weights", "manifest", "no weights"])
def test_a_damaged_package_is_refused(damage: str, tmp_path: Path) -> None:
    package = saved(tmp_path, lambda x: mb.add(x=x, y=OTHER), IMAGE)
    data = package / "Data" / "com.apple.CoreML"
    if damage == "no weights":
        shutil.rmtree(data / "weights")
    else:
        path = {
            "specification": data / "model.mlmodel",
            "weights": data / "weights" / "weight.bin",
            "manifest": package / "Manifest.json",
        }[damage]
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BundleError) as raised:
        MilProgram.load(package)
    assert "\n" not in str(raised.value)


@pytest.mark.usefixtures("terminal")
def test_ctrl_c_is_heard_after_the_imports_of_coremltools() -> None:
    command = [sys.executable, "-W", "ignore", "-c", INTERRUPTED]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["interrupted", "heard"], done.stderr
