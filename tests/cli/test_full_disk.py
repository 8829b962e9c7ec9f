"""A disk that is full in the middle of a file: one line, exit code 9, and nothing half-written."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.conftest import D3DEdge, refused


@contextmanager
def file_size_limited(size_bytes: int) -> Iterator[None]:
    """Let the kernel refuse a write in the middle of a file, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if "partial" in path.name or "lowering" in path.name]


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs a limit on file size")
def test_a_full_disk_leaves_nothing_half_written(
    d3d_edge: D3DEdge, clips: Path, recipe_file: Path, cache: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    words = ("distill", recipe_file, "--data", clips, "--out", out, "--cache", cache, "--workers", 0)
    with file_size_limited(200_000):
        full = d3d_edge(*words)
    refused(full, 9, "last.pt")
    assert not leftovers(out)
    result = d3d_edge(*words)
    assert result.code == 0, result.err


@pytest.mark.parametrize(("target", "precision"), [("host", "float32"), ("jetson", "float32"), ("ios", "float16")])
def test_a_full_disk_while_exporting(
    target: str, precision: str, d3d_edge: D3DEdge, made: Path, tmp_path: Path
) -> None:
    out = tmp_path / "bundles"
    words = ("export", made / "run", "--target", target, "--precision", precision, "--out", out, "--workers", 0)
    with file_size_limited(100_000):
        full = d3d_edge(*words)
    refused(full, 9, "cannot write")
    assert not leftovers(out)
    assert not list(out.iterdir())
