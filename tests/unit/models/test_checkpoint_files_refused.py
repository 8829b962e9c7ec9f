"""A file that is damaged, of something else, or not there is no published checkpoint, and is refused by name."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from d3d_edge.errors import DataError
from d3d_edge.models import checkpoint_files, checkpoints
from tests.unit.models import published


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:10])


def text(path: Path) -> None:
    path.write_text("404: not found\n")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def change_a_weight(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "kind"),
    [(damage, kind) for damage in (truncate, cut_short, text, empty) for kind in ("new", "old", "npz")]
    + [(change_a_weight, "new"), (change_a_weight, "npz")],  # files of the old kind have no checksums
)
def test_a_damaged_file(
    damage: Callable[[Path], None], kind: str, kylemin_file: Path, slim_file: Path, tmp_path: Path
) -> None:
    path = tmp_path / ("weights.npz" if kind == "npz" else "weights.pt")
    path.write_bytes((slim_file if kind == "npz" else kylemin_file).read_bytes())
    if kind == "old":
        torch.save(torch.load(kylemin_file), path, _use_new_zipfile_serialization=False)
    damage(path)
    with pytest.raises(DataError, match=r"weights\.\w+ is damaged"):
        checkpoints.load(path)


def test_a_file_of_the_old_kind_is_refused_wherever_it_is_cut_and_changed(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"conv.weight": torch.zeros(3)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place])
        with pytest.raises(DataError):
            checkpoint_files.read(path)
        path.write_bytes(whole[:place] + b"?" + whole[place + 1 :])
        with suppress(DataError):  # a changed number is read: such files have no checksums
            checkpoint_files.read(path)


@pytest.mark.parametrize("change", [b"?", b"(", b"'", b"\n"])
def test_an_npz_is_refused_wherever_a_header_is_changed(change: bytes, tmp_path: Path) -> None:
    made = io.BytesIO()
    np.save(made, np.zeros(3, np.float32))
    for place in range(128):
        array = made.getvalue()[:place] + change + made.getvalue()[place + 1 :]
        with zipfile.ZipFile(tmp_path / "weights.npz", "w") as archive:
            archive.writestr("InceptionV1_Conv2d_1a_7x7_weights.npy", array)
        with suppress(DataError):  # a changed blank is read
            checkpoint_files.read(tmp_path / "weights.npz")


@pytest.mark.parametrize("numbers", [10**15, 10**20])
def test_a_file_whose_header_tells_of_more_numbers_than_fit_into_memory(numbers: int, tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (numbers,)})
    with zipfile.ZipFile(tmp_path / "weights.npz", "w") as archive:
        archive.writestr("InceptionV1_Conv2d_1a_7x7_weights.npy", header.getvalue())
    with pytest.raises(DataError, match=r"weights\.npz is damaged"):
        checkpoints.load(tmp_path / "weights.npz")


class Code:
    def __init__(self, call: Callable[[str], object] = pytest.fail) -> None:
        self._call = call

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return self._call, ("false: code in a checkpoint was run",)


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({"weights": Code()}, r"holds a \S+ beside its tensors, which is code.*torch.save its tensors alone"),
        ({"weights": Code(os.system)}, r"holds a posix\.system beside its tensors, which is code"),
        ([torch.zeros(1)], "holds no state dict"),
        ({"epoch": 3}, "holds no state dict"),
        ({"net": {"a": torch.zeros(1)}, "ema": {"a": torch.zeros(1)}}, "more than one network: ema, net"),
        ({"state_dict": {"a": torch.zeros(1)}, "state_dict_ema": {"a": torch.zeros(1)}}, "more than one network"),
        ({"layer1.weight": torch.zeros(1)}, r"no known format; it holds layer1\.weight"),
        ({}, "holds no state dict"),
    ],
    ids=[
        "code",
        "code that PyTorch blocks",
        "a list",
        "no tensors",
        "two networks",
        "with its average",
        "other tensors",
        "nothing",
    ],
)
def test_a_file_of_something_else(held: object, message: str, tmp_path: Path) -> None:
    torch.save(held, tmp_path / "weights.pt")
    with pytest.raises(DataError, match=message):
        checkpoints.load(tmp_path / "weights.pt")


@pytest.mark.parametrize("protocol", [4, 5])
def test_another_pickle_protocol_is_no_damage(protocol: int, kylemin: published.Kylemin, tmp_path: Path) -> None:
    torch.save(kylemin.state_dict(), tmp_path / "s3d.pt", pickle_protocol=protocol)
    with pytest.raises(DataError, match=r"s3d\.pt is saved with pickle protocol 4 or 5, .*torch.save them"):
        checkpoints.load(tmp_path / "s3d.pt")


def test_safetensors_are_no_damage(tmp_path: Path) -> None:
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    (tmp_path / "s3d.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(DataError, match="is a file of safetensors, which is not read"):
        checkpoints.load(tmp_path / "s3d.safetensors")


@pytest.mark.parametrize("name", ["none.pt", "x" * 300, "."], ids=["none", "a long name", "a folder"])
def test_a_file_that_is_not_there(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no checkpoint "):
        checkpoints.load(tmp_path / name)
    with pytest.raises(DataError, match="there is no checkpoint "):
        checkpoints.load(Path(name))
