"""Zip archives, as PyTorch writes them, are known to be whole or damaged before they are read."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch

from d3d_edge import files


def test_an_archive_whose_part_says_that_it_is_a_folder_is_damaged(tmp_path: Path) -> None:
    """PyTorch would read none of its bytes, without a word; it is one bit, which no checksum covers."""
    torch.save({"weights": torch.ones(9)}, tmp_path / "w.pt")
    assert files.is_whole_archive(tmp_path / "w.pt")
    raw = bytearray((tmp_path / "w.pt").read_bytes())
    with zipfile.ZipFile(tmp_path / "w.pt") as archive:
        place = raw.index(b"w/data/0", archive.start_dir)
    raw[place - 8] |= 0x10  # the external attributes, in front of the place of the part and its name
    (tmp_path / "w.pt").write_bytes(raw)
    assert files.damaged_part(tmp_path / "w.pt") == "w/data/0"
    assert not files.is_whole_archive(tmp_path / "w.pt")


def test_no_flipped_bit_at_the_end_of_an_archive_is_more_than_damage(tmp_path: Path) -> None:
    """There stands where its list of parts begins: it may say before the file, or on another disk."""
    path = tmp_path / "w.pt"
    torch.save({"weights": torch.ones(9)}, path)
    whole = path.read_bytes()
    damaged = []
    for place in range(len(whole) - 100, len(whole)):
        for bit in range(8):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            files.damaged_part(path)
            damaged.append(not files.is_whole_archive(path))
    assert any(damaged)
