"""Devices of every kind on this machine: a folder, an SSH server, and stand-ins for adb and devicectl."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

import pytest

from d3d_edge import resources
from tests import sshd

FAKES = Path(__file__).resolve().parent / "fakes"
KINDS = ("local", "ssh", "adb", "ios")


def reach(kind: str, request: pytest.FixtureRequest, root: Path, patch: pytest.MonkeyPatch) -> tuple[str, Path]:
    """What `--device` calls a device of that kind, and its folder, in which `venv` is the running Python's."""
    root.mkdir(exist_ok=True)
    folder = {"adb": root / "d3d-edge", "ios": root / "Documents"}.get(kind, root)
    folder.mkdir(exist_ok=True)
    (folder / "venv").symlink_to(sys.prefix)
    name = {"local": f"local:{root}", "ssh": f"ssh:{sshd.HOST}:{root}"}.get(kind, kind)
    if kind == "ssh":
        patch.setenv("D3D_EDGE_SSH_CONFIG", str(request.getfixturevalue("ssh_config")))
    if kind in ("adb", "ios"):
        # The fakes alone, under the running Python: no real tool can be meant.
        tools = root.parent / "tools"
        tools.mkdir()
        for tool in FAKES.iterdir():
            text = tool.read_text().partition("\n")[2]
            (tools / tool.name).write_text(f"#!{sys.executable} -I\n{text}")
            shutil.copymode(tool, tools / tool.name)
        patch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
        patch.setenv("FAKE_DEVICE", str(root))
    return name, folder


class Disk:
    """A small file system of its own at `folder`, which can be filled and made larger."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self) -> None:
        """Take all that is left."""
        with (self.folder / "filler").open("ab") as filler:
            free = os.statvfs(self.folder)
            os.posix_fallocate(filler.fileno(), filler.tell() or 0, free.f_bavail * free.f_frsize)

    def empty(self) -> None:
        """Give it back."""
        (self.folder / "filler").unlink()

    def grow(self, size: str) -> None:
        """Make it as large as that."""
        subprocess.run(["mount", "-o", f"remount,size={size}", self.folder], check=True)

    def files(self) -> list[str]:
        """All files but the filler."""
        found = [path for path in self.folder.rglob("*") if path.is_file() and not path.is_symlink()]
        return sorted(str(path.relative_to(self.folder)) for path in found if path.name != "filler")

    def processes(self) -> list[int]:
        """Those that work in it."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if (process / "cwd").resolve().is_relative_to(self.folder):
                    found.append(int(process.name))
        return found


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Disk]:
    """A tmpfs of that size at `folder`, which is made. Skips the test where this user may not mount one."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=False, capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def build_android_bench(folder: Path) -> None:
    """libbench.so in `folder`: the bench program of targets/android for this machine, by the executorch package.

    Skips the test where there is no C++ compiler. The package is a library for Python, so `call_android_bench` is how
    the program is called.
    """
    executorch = Path(pytest.importorskip("executorch").__path__[0])
    compiler = shutil.which("g++") or pytest.skip("no C++ compiler on this machine (Debian: apt install g++)")
    (library,) = (executorch / "extension" / "pybindings").glob("_portable_lib*.so")
    # A header that the package includes and does not have.
    declared = 'typedef struct pthreadpool* pthreadpool_t;\nextern "C" void pthreadpool_destroy(pthreadpool_t);\n'
    (folder / "pthreadpool.h").write_text(declared)
    includes = [executorch / "include", executorch / "include/executorch/runtime/core/portable_type/c10", folder]
    flags = ["-std=c++17", "-O1", "-DNDEBUG", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror"]
    flags += ["-DC10_USING_CUSTOM_GENERATED_MACROS", f'-DEXECUTORCH_VERSION="{version("executorch")}"']
    flags += ['-DD3D_EDGE_DUMPSYS="./dumpsys"']  # of the device's folder, where a test puts one
    sources = sorted((resources.root("targets") / "android" / "bench" / "src").glob("*.cpp"))
    where = [word for path in includes for word in ("-isystem", path)]
    linked = [library, f"-Wl,-rpath,{library.parent}", "-o", folder / "libbench.so"]
    subprocess.run([compiler, *flags, *where, *sources, *linked], check=True)


def call_android_bench(library: Path, program: Path) -> None:
    """Write `program`, which calls the `main` of the library that was built."""
    program.write_text(
        f"#!{sys.executable}\nimport ctypes, os, sys\nlibrary = ctypes.CDLL({str(library)!r})\n"
        "words = [os.fsencode(word) for word in sys.argv]\n"
        "sys.exit(library.main(len(words), (ctypes.c_char_p * (len(words) + 1))(*words)))\n"
    )
