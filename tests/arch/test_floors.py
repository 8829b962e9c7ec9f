"""Imports go down only, training needs no runtime's package, and the command line starts without torch."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import d3d_edge
from tests.conftest import GO_FIRST

ROOT = Path(__file__).resolve().parents[2]
RUNTIME_PACKAGES = ("executorch", "coremltools", "onnx", "onnxruntime", "onnxscript", "tensorrt")
HEAVY_PACKAGES = (*RUNTIME_PACKAGES, "torch", "torchao", "numpy", "cv2")
EAGER = "d3d_edge.runtimes.eager"
TRAINING = ("d3d_edge.models", "d3d_edge.video", "d3d_edge.distill", "d3d_edge.quantize", "d3d_edge.pipeline")
DATA_FLOOR = (
    "bundle",
    "calibset",
    "clip",
    "errors",
    "files",
    "manifest",
    "progress",
    "recipe",
    "report",
    "resources",
    "schema",
)

# The finder of installed packages, made blind: a blocked package is missing even where it is installed.
IMPORT_WITHOUT = """
import importlib, importlib.machinery, sys

class Blind(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {blocked!r} else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Blind
for module in {modules!r}:
    importlib.import_module(module)
"""


def import_without(blocked: tuple[str, ...], modules: list[str]) -> None:
    code = IMPORT_WITHOUT.format(blocked=blocked, modules=modules)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def all_modules() -> list[str]:
    return sorted(module.name for module in pkgutil.walk_packages(d3d_edge.__path__, "d3d_edge."))


def test_the_contracts_hold() -> None:
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", code, "--no-cache", "--config", "setup.cfg"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 kept, 0 broken" in done.stdout


def test_training_needs_no_package_of_a_runtime() -> None:
    modules = [name for name in all_modules() if name.startswith(TRAINING)]
    assert {name.split(".")[1] for name in modules} == {name.split(".")[1] for name in TRAINING}
    # Its graphs run as they are by PyTorch's own runtime.
    import_without(RUNTIME_PACKAGES, [*modules, EAGER])


def test_the_runtime_modules_need_neither_a_package_of_theirs_nor_torchao_to_be_imported() -> None:
    """`doctor` asks each of them what is missing, and `predict` should not wait for what it does not use."""
    modules = [name for name in all_modules() if name.startswith("d3d_edge.runtimes") and name != EAGER]
    import_without((*RUNTIME_PACKAGES, "torchao"), modules)


def test_filling_a_cache_needs_no_torch() -> None:
    import_without(("torch",), ["d3d_edge.pipeline.prepare", "d3d_edge.cli.prepare"])


def test_what_runs_a_bundle_does_not_import_executorchs_compiler() -> None:
    pytest.importorskip("executorch")
    pytest.importorskip("coremltools")
    code = """
import sys
from importlib.util import find_spec
from d3d_edge.runtimes import executorch_checks, mil
assert "quantized_decomposed::add.out" in executorch_checks.kernels()
assert "torchao" not in sys.modules
mil.coremltools()
assert "executorch.exir" not in sys.modules
assert find_spec("executorch.exir"), "hidden from coremltools only"
assert "sklearn" not in sys.modules, "which coremltools imports where it is"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("module", [*(f"d3d_edge.{name}" for name in DATA_FLOOR), "d3d_edge.runtimes", "d3d_edge.cli"])
def test_the_data_floor_and_the_command_line_start_light(module: str) -> None:
    import_without(HEAVY_PACKAGES, [module])


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--help"], 0, "Usage"),
        (["distill", "compact", "--data", "missing", "--out", "run"], 8, "there is no missing"),
        (["distill", "compact", "--data", ".", "--videos", "missing", "--out", "run"], 8, "there is no folder missing"),
        (["prepare", "missing", "--recipe", "compact"], 8, "there is no missing"),
        (["validate", "bundle", "--data", "missing"], 8, "there is no missing"),
        (["evaluate", "missing"], 8, "missing is not a run"),
        (["export", "missing", "--target", "all", "--out", "b"], 8, "missing is not a run"),
        (["probe", "missing"], 8, "missing is not a run"),
        (["sensitivity", "missing"], 8, "missing is not a run"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_help_and_what_is_missing_are_told_without_what_takes_seconds_to_import(
    words: list[str], code: int, said: str, tmp_path: Path
) -> None:
    script = IMPORT_WITHOUT.format(blocked=HEAVY_PACKAGES, modules=[]) + f"sys.argv[1:] = {words}\n"
    script += "import runpy\nrunpy.run_module('d3d_edge', run_name='__main__')\n"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert said in done.stdout + done.stderr


@pytest.mark.parametrize("name", GO_FIRST)
def test_the_files_of_tests_that_go_first_are_there(name: str) -> None:
    assert (ROOT / "tests" / name).is_file()
