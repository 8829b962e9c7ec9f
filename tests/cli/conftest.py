"""A small set of rendered clips, and what the commands make of it, once for all tests here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from filelock import FileLock

from d3d_edge.bundle import Bundle, Description
from d3d_edge.cli import main
from d3d_edge.files import atomic_folder
from d3d_edge.pipeline import golden
from d3d_edge.progress import Silent
from d3d_edge.report import Report
from d3d_edge.video import rendered
from tests import published

# Small enough for seconds, whole enough for every stage: narrow, four frames of 32x32, two epochs each, and few layers
# of each kind: lowering and rounding a network take as long as it has operators.
TINY = """
extends: compact
name: tiny
description: for tests
clip: {frames: 4, short_side: 36, height: 32, width: 32}
flow: {preset: ultrafast}
teacher: {network: &few {temporal_from: Mixed_5b, gating_from: Mixed_5c}, train: {epochs: 2, batch_size: 8}}
student: {network: *few, train: {epochs: 2, batch_size: 8}}
baselines: {spatial: {}}
quantize: {qat: {train: {epochs: 2, batch_size: 8}}}
export: {golden_clips: 2}
gates: {top1_drop_points_max: 100, agreement_min: 0, size_bytes_max: 4000000}
"""

TARGETS = ("android", "ios", "jetson")
"""For which `made` has bundles."""


class Result(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str


D3DEdge = Callable[..., Result]


def ended(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Output and errors of a process that must end by itself within a minute."""
    try:
        return process.communicate(timeout=60)
    finally:
        process.kill()


@pytest.fixture
def d3d_edge(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> D3DEdge:
    """Run a command in this process; everything it or a library prints is captured.

    Every report that it writes or prints has to keep to the published schema.
    """
    write = Report.write

    def write_checked(report: Report, path: Path) -> None:
        write(report, path)
        published.check(json.loads(path.read_text(encoding="utf-8")))

    monkeypatch.setattr(Report, "write", write_checked)

    def run(*words: object) -> Result:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        out, err = capfd.readouterr()
        if '"format": "d3d-edge report"' in out:
            published.check(json.loads(out))
        code = ended.value.code
        return Result(code if isinstance(code, int) else 0 if code is None else 1, out, err)

    return run


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this test run, the same for all processes that share it."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


def once(folder: Path, make: Callable[[Path], None]) -> Path:
    """`folder`, filled by the first process that asks for it; the others wait."""
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            with atomic_folder(folder) as partial:
                make(partial)
    return folder


@pytest.fixture(scope="session")
def clips(shared: Path) -> Path:
    """A folder per class, five clips of twelve frames each. Not to be changed."""

    def render(folder: Path) -> None:
        rendered.render_set(folder, clips_per_class=5, seed=1, size_px=64, frames=12, workers=0, progress=Silent())

    return once(shared / "clips", render)


def write_recipe(folder: Path) -> None:
    (folder / "tiny.yaml").write_text(TINY)


@pytest.fixture(scope="session")
def recipe_file(shared: Path) -> Path:
    """The tiny recipe."""
    return once(shared / "recipe", write_recipe) / "tiny.yaml"


@pytest.fixture(scope="session")
def cache(shared: Path) -> Path:
    """A clip cache that all tests share."""
    return shared / "cache"


def cli(*words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    command = [sys.executable, "-m", "d3d_edge", *(str(word) for word in words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert not check or done.returncode == 0, done.stderr
    return done


def finished(*words: object) -> None:
    """Run a command in this process, which has PyTorch already; it must end well."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert not ended.value.code


@pytest.fixture(scope="session")
def made(shared: Path, clips: Path, recipe_file: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run and its bundles: run/ and bundles/. Not to be changed: copy what you damage."""

    def make(folder: Path) -> None:
        # Other tests have the other processors, and workers would each import PyTorch once more.
        finished("distill", recipe_file, "--data", clips, "--out", folder / "run", "--cache", cache, "--workers", 0)
        finished("quantize", folder / "run", "--cache", cache, "--workers", 0)
        finished("export", folder / "run", "--target", "all", "--out", folder / "bundles", "--workers", 0)

    # A copy for each process, since commands write reports beside what they measure.
    return Path(shutil.copytree(once(shared / "made", make), tmp_path_factory.mktemp("made") / "made"))


@pytest.fixture
def bundle_copy(made: Path, tmp_path: Path) -> Path:
    """The jetson bundle, to be damaged; or to be measured without the references, which take most of the time."""
    return alone(made / "bundles" / "jetson", tmp_path)


def alone(bundle: Path, folder: Path) -> Path:
    """A copy of the bundle in `folder`, away from the references."""
    return Path(shutil.copytree(bundle, folder / bundle.name))


def changed(path: Path, change: Callable[[Path], None], **fields: object) -> None:
    """Make a bundle anew after a change to its files, and to `fields` of its manifest."""
    bundle = Bundle.open(path)
    before = path.rename(path.with_name("before"))

    def fill(folder: Path) -> None:
        shutil.copytree(before, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json"))
        change(folder)

    description = {key: value for key, value in dict(bundle.manifest).items() if key != "files"}
    Bundle.write(path, Description(**{**description, **fields}), fill)


def moved_by_noise(bundle: Path) -> float:
    """What noise of one step of a byte moves the logits of a bundle's graph by: as much as rounding here and there."""
    return float(Bundle.open(bundle).manifest.lowering[golden.MOVED])


def with_references(made: Path, out: Path) -> Path:
    """`out` with the references that export has written for the same run; it keeps them, as long as they still fit."""
    for bundle in (made / "bundles").glob("reference-*"):
        alone(bundle, out)
    return out


def refused(result: Result, code: int, *words: str) -> None:
    """One line of error that holds all of `words`, and the exit code."""
    assert result.code == code, result.err
    assert "Traceback" not in result.err
    errors = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, result.err
    for word in words:
        assert word in errors[0]


@pytest.fixture
def own_clips(clips: Path, tmp_path: Path) -> Path:
    """The clips, to be damaged."""
    return Path(shutil.copytree(clips, tmp_path / "own"))


def copied_run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "run", tmp_path / "run"))


def run_on(own_clips: Path, clips: Path, made: Path, tmp_path: Path) -> Path:
    """A copy of the run whose clips, those in `own_clips`, may be damaged."""
    run = copied_run(made, tmp_path)
    listed = run / "data.csv"
    listed.write_text(listed.read_text().replace(str(clips), str(own_clips)))
    return run
