"""Transports: how bytes reach a device, and how a program there is run. The seam and the table; none is imported here.

A transport calls the tool that people use by hand (`ssh` and `scp`, `adb`, `xcrun`), with their own configuration and
without a shell in between. It knows nothing of models or clips.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from d3d_edge.errors import RecipeError

# Literal, so that a reader finds every transport here and `--help` imports none of them.
_TABLE = {
    "local": "d3d_edge.transports.local",
    "ssh": "d3d_edge.transports.ssh",
    "adb": "d3d_edge.transports.adb",
    "ios": "d3d_edge.transports.devicectl",
}
FORMS = "local:FOLDER, ssh:[USER@]HOST[:FOLDER], adb[:SERIAL] or ios[:UDID]"


@dataclass(frozen=True)
class File:
    """A file to be on the device."""

    name: str
    """Path in the device's folder; hexadecimal digits, letters, '.', '-', '_' and '/'."""
    path: Path
    sha256: str


@dataclass(frozen=True)
class Ended:
    """How a program on the device ended."""

    code: int
    errors: str
    """The end of what it, or the tool that reached it, wrote to standard error."""


class Transport(Protocol):
    """One device, whose folder the names below are relative to. A context manager: entering it reaches the device.

    Every method raises DeviceError, which names the device, when the device or the tool fails or does not answer
    in time.
    """

    name: str
    """As the user gave it, e.g. 'ssh:nano@10.0.0.5'."""

    def push(self, files: Sequence[File]) -> int:
        """Have `files` on the device, whole: what is there with the same hash is left. Returns the bytes sent."""

    def start(
        self, program: str, words: Sequence[str], *, folder: str, on_line: Callable[[str], None], silence_s: float
    ) -> Ended:
        """Run a pushed program with arguments `words` and give each line it prints to `on_line`, until it ends.

        `folder` is where it keeps its process id. If it says nothing for `silence_s`, or this process is
        interrupted or `on_line` raises, the program and all its children are ended.
        """

    def pull(self, name: str, path: Path) -> None:
        """Copy the file `name` of the device to `path`."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...


def check(device: str, *, here: str = "local") -> str:
    """`device`, if it has the form of one; no device is reached. `here`: what the command calls this machine.

    Raises:
        RecipeError: it has not.
    """
    kind, _, rest = device.partition(":")
    if kind not in _TABLE or (kind == "ssh" and not rest) or (":" in device and not rest):
        raise RecipeError(f"no device can be meant by {device!r}", hint=f"known: {here}, {FORMS}")
    return device


def get(device: str) -> Transport:
    """The transport that `device` names; the device is reached when it is entered.

    Raises:
        RecipeError: `device` has none of the known forms.
    """
    kind, _, rest = check(device).partition(":")
    transport: Transport = importlib.import_module(_TABLE[kind]).TRANSPORT(device, rest)
    return transport
