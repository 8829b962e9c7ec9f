"""A folder of this machine as a device: what ssh does, without a network. For trying a runner."""

from __future__ import annotations

from pathlib import Path

from d3d_edge.errors import DeviceError, RecipeError
from d3d_edge.transports.shell import ShellDevice


class Local(ShellDevice):
    """`local:FOLDER`."""

    def __init__(self, name: str, rest: str) -> None:
        if not rest:
            raise RecipeError(f"{name} has no folder", hint="local:FOLDER")
        super().__init__(name, str(Path(rest).absolute()))

    def command(self, script: str) -> list[str]:
        return ["sh", "-c", script]

    def copy_there(self, path: Path, place: str) -> list[str]:
        return ["cp", "--", str(path), place]

    def copy_here(self, place: str, path: Path) -> list[str]:
        return ["cp", "--", place, str(path)]

    def lost(self, code: int, errors: str) -> DeviceError | None:
        return None


TRANSPORT = Local
