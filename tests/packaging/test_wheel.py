"""The wheel and the source distribution hold the data folders, and the wheel works away from a checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path, PurePosixPath

import pytest
from setuptools import find_packages

import d3d_edge
from d3d_edge import resources
from d3d_edge.resources import Kind

ROOT = Path(__file__).resolve().parents[2]
KINDS: tuple[Kind, ...] = ("recipes", "targets", "calibration")
NOT_SOURCE = shutil.ignore_patterns(
    ".git", ".venv", ".*_cache", ".hypothesis", ".gradle", "build", "dist", "*.egg-info", "__pycache__"
)
SHOW_NAMES = "from d3d_edge import resources as r; print(r.__file__); [print(*r.names(k)) for k in {kinds!r}]"

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    # Neither the checkout nor a caller's PYTHONPATH may help.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution, built from a copy: a stale build/ would show in both."""
    source = tmp_path_factory.mktemp("source") / "checkout"
    shutil.copytree(ROOT, source, ignore=NOT_SOURCE)
    left_by_a_build = source / "targets" / "android" / "app" / "build" / "outputs" / "app.apk"
    left_by_a_build.parent.mkdir(parents=True)
    left_by_a_build.write_bytes(b"large")
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source, cwd=source)
    return out


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    return next(dist.glob("*.whl"))


@pytest.fixture(scope="module")
def wheel_names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment with the wheel; its dependencies are those of the running one."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", site, wheel, cwd=folder)
    # Not a .pth line that `import site` would follow into an editable install of this checkout.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def data_files(kind: Kind) -> set[str]:
    folder = resources.root(kind)
    left_out = {"build", ".gradle", ".cxx", ".idea", ".build", "DerivedData", "xcuserdata", "__pycache__"}
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {
        path.as_posix()
        for path in files
        if not left_out & set(path.parts) and path.name not in ("local.properties", ".DS_Store")
    }


def test_every_package_is_listed_in_setup_cfg(wheel_names: set[str]) -> None:
    on_disk = {name.replace(".", "/") for name in find_packages(str(ROOT), include=["d3d_edge*"])}
    modules = (name for name in wheel_names if "/_data/" not in name)  # a runner for a device is data here
    in_wheel = {str(PurePosixPath(name).parent) for name in modules if name.endswith("/__init__.py")}
    assert in_wheel == on_disk


def test_every_module_is_in_the_wheel(wheel_names: set[str]) -> None:
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "d3d_edge").rglob("*.py")}
    assert modules <= wheel_names
    assert {"d3d_edge/py.typed", "d3d_edge/page/report.html", "d3d_edge/page/style.css"} <= wheel_names


def test_only_d3d_edge_becomes_importable(wheel_names: set[str]) -> None:
    top = {name.partition("/")[0] for name in wheel_names}
    assert top == {"d3d_edge", f"d3d_edge-{d3d_edge.__version__}.dist-info"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_data_folders_are_in_the_wheel_whole(wheel_names: set[str], kind: Kind) -> None:
    prefix = f"d3d_edge/_data/{kind}/"
    assert {name.removeprefix(prefix) for name in wheel_names if name.startswith(prefix)} == data_files(kind)


def test_the_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        info = f"d3d_edge-{d3d_edge.__version__}.dist-info"
        metadata = archive.read(f"{info}/METADATA").decode()
        entry_points = archive.read(f"{info}/entry_points.txt").decode()
        assert archive.read(f"{info}/licenses/LICENSE").decode() == (ROOT / "LICENSE").read_text()
    for line in ("Name: d3d-edge", f"Version: {d3d_edge.__version__}", "License-Expression: Apache-2.0"):
        assert line in metadata.splitlines()
    for extra in ("android", "ios", "jetson", "all", "dev"):
        assert f"Provides-Extra: {extra}" in metadata.splitlines()
    assert "d3d-edge = d3d_edge.cli:main" in entry_points


def test_the_source_distribution_holds_tests_and_data(dist: Path) -> None:
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {f"{kind}/{name}" for kind in KINDS for name in data_files(kind)}
    wanted |= {"setup.cfg", "Makefile", "constraints.txt", "LICENSE", "tests/packaging/test_wheel.py"}
    assert wanted <= names
    assert not [name for name in names if name.endswith(".apk")]


def test_an_installation_finds_its_own_data_from_anywhere(installed: Path, tmp_path: Path) -> None:
    shown = run(installed, "-c", SHOW_NAMES.format(kinds=KINDS), cwd=tmp_path).splitlines()
    assert Path(shown[0]).is_relative_to(installed.parents[1])
    assert shown[1:] == [" ".join(resources.names(kind)) for kind in KINDS]


def test_the_installed_command_lists_the_recipes(installed: Path, tmp_path: Path) -> None:
    shown = run(installed, "-m", "d3d_edge", "recipes", "ls", cwd=tmp_path)
    for name in resources.names("recipes"):
        assert name in shown
