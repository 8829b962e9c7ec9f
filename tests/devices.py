"""Devices of every kind on this machine: a folder, an SSH server, and the recorded answers of adb and devicectl."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

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
