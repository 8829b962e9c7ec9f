"""Devices of every kind on this machine: a folder, an SSH server, and stand-ins for adb and devicectl."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from d3d_edge import resources
from tests import sshd

FAKES = Path(__file__).resolve().parent / "fakes"
KINDS = ("local", "ssh", "adb", "ios")


def reach(kind: str, request: pytest.FixtureRequest, root: Path, patch: pytest.MonkeyPatch) -> tuple[str, Path]:
    """What `--device` calls a device of that kind, and its folder, in which `venv` is the running Python's."""
    root.mkdir()
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
