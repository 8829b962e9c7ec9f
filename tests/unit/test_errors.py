"""Every expected failure is one line, a hint, and an exit code of its own."""

from __future__ import annotations

import errno
import pickle
import shutil
from pathlib import Path

import pytest

from d3d_edge import errors
from d3d_edge.errors import D3DEdgeError, LoweringError, MissingDependency, RecipeError, StorageError

EXIT_CODES = {
    "D3DEdgeError": 1,
    "RecipeError": 2,
    "MissingDependency": 3,
    "GateFailed": 4,
    "LoweringError": 5,
    "BundleError": 6,
    "NotKnownHere": 6,
    "DeviceError": 7,
    "DataError": 8,
    "StorageError": 9,
}


def classes() -> list[type[D3DEdgeError]]:
    return [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, D3DEdgeError)]


def test_exit_codes_are_the_documented_ones() -> None:
    assert {cls.__name__: cls.exit_code for cls in classes()} == EXIT_CODES


@pytest.mark.parametrize(("name", "code"), EXIT_CODES.items())
def test_the_drawn_tree_names_each_class_with_its_code(name: str, code: int) -> None:
    line = next(line for line in (errors.__doc__ or "").splitlines() if name in line.split()[:3])
    assert str(code) in line.split()


def test_the_hint_follows_the_message() -> None:
    assert str(RecipeError("it is wrong", hint="mend it")) == "it is wrong (mend it)"
    assert str(RecipeError("it is wrong")) == "it is wrong"


@pytest.mark.parametrize("cls", [cls for cls in classes() if cls is not LoweringError])
def test_an_error_survives_the_way_back_from_a_worker_process(cls: type[D3DEdgeError]) -> None:
    back = pickle.loads(pickle.dumps(cls("it is wrong", hint="mend it")))
    assert (type(back), back.message, back.hint) == (cls, "it is wrong", "mend it")
    assert str(back) == "it is wrong (mend it)"


def test_a_lowering_error_says_where_and_survives_too() -> None:
    error = LoweringError("no kernel", stage="to_edge", operator="aten.conv3d", runtime="executorch 1.4.1", hint="x")
    assert str(error) == "no kernel [stage to_edge, operator aten.conv3d, executorch 1.4.1] (x)"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(LoweringError("no kernel", stage="to_edge")) == "no kernel [stage to_edge]"


def test_a_missing_dependency_names_package_and_extra() -> None:
    error = MissingDependency.of("coremltools", "ios", "lowering to Core ML")
    assert str(error) == "lowering to Core ML needs the package coremltools (pip install 'd3d-edge[ios]')"


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EACCES, "a folder you may write to"),
        (errno.EROFS, "a folder you may write to"),
        (errno.EIO, "nothing half-written is left"),
    ],
)
def test_a_storage_error_names_the_path_the_cause_and_the_remedy(number: int, hint: str) -> None:
    error = StorageError.of(Path("run/report.json"), OSError(number, "the cause"))
    assert error.message == "cannot write run/report.json: the cause"
    assert hint in error.hint


def test_of_a_folder_that_could_not_be_copied_one_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    for name in ("a", "b"):
        (tmp_path / "from" / name).symlink_to("nowhere")
    with pytest.raises(shutil.Error) as caught:
        shutil.copytree(tmp_path / "from", tmp_path / "to")
    error = StorageError.of(Path("run/teacher"), caught.value)
    assert error.message.startswith("cannot write run/teacher: [Errno 2] No such file or directory: ")
    full = shutil.Error([("a", "b", "[Errno 28] No space left on device: 'b'")])
    assert "free some space" in (StorageError.of(Path("run"), full).hint or "")
