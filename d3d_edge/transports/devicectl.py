"""An iPhone or iPad reached by `xcrun devicectl`, from a Mac. The bench app has to be installed on it.

There is no shell on such a device: files go into the container of the app, which checks their hashes itself.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from d3d_edge.errors import DeviceError, RecipeError
from d3d_edge.transports import Ended, File, tool

_ANSWER_S = 60.0
"""The first command after a device was plugged in mounts a disk image."""
_COPY_S = 600.0
_INSTALL = "iOS devices are reached by xcrun devicectl of Xcode 15 or newer, on a Mac"
APP = "org.d3d-edge.bench"
"""Bundle identifier of targets/ios/bench, unless the environment variable D3D_EDGE_IOS_BENCH has another."""


class DeviceCtl:
    """`ios[:udid]`; the UDID may be left out where one device is connected."""

    def __init__(self, name: str, rest: str) -> None:
        if rest.startswith("-"):
            raise RecipeError(f"{name} has no UDID", hint="xcrun devicectl list devices")
        self.name = name
        self._udid = rest
        self._app = os.environ.get("D3D_EDGE_IOS_BENCH") or APP

    def __enter__(self) -> Self:
        """Find the device.

        Raises:
            DeviceError: this is no Mac with Xcode, or there is no such device, or several and no UDID.
        """
        tool.find("xcrun", _INSTALL)
        udids = [
            str(device.get("hardwareProperties", {}).get("udid"))
            for device in self._devices()
            if device.get("connectionProperties", {}).get("tunnelState") != "unavailable"
        ]
        if not udids:
            raise DeviceError(f"{self.name}: no iOS device is connected", hint="xcrun devicectl list devices")
        if not self._udid and len(udids) > 1:
            raise DeviceError(f"{self.name}: several iOS devices are connected", hint=f"ios:UDID of {', '.join(udids)}")
        if self._udid and self._udid not in udids:
            raise DeviceError(f"{self.name} is not connected", hint=f"connected: {', '.join(udids)}")
        self._udid = self._udid or udids[0]
        return self

    def __exit__(self, *exc_info: object) -> None:
        return None

    def push(self, files: Sequence[File]) -> int:
        """See `Transport.push`. Both before and after, the app says what it has, by SHA-256."""
        there = self._hashes(files)
        missing = [file for file in files if there.get(file.name) != file.sha256]
        for file in missing:
            self._copy("to", "--source", str(file.path.absolute()), "--destination", f"Documents/{file.name}")
        arrived = self._hashes(missing)
        if damaged := [file for file in missing if arrived.get(file.name) != file.sha256]:
            raise DeviceError(f"{self.name}: {damaged[0].name} did not arrive as it was sent", hint="run it again")
        return sum(file.path.stat().st_size for file in missing)

    def _hashes(self, files: Sequence[File]) -> dict[str, str]:
        """SHA-256 by name, of those of `files` that the app has."""
        found: dict[str, str] = {}

        def note(line: str) -> None:
            digest, _, name = line.partition("  ")  # as sha256sum prints them
            if len(digest) == 64:
                found[name] = digest

        if files:
            words = ["--hash", *(file.name for file in files)]
            ended = self.start("", words, folder="", on_line=note, silence_s=_ANSWER_S)
            if ended.code:
                raise self._failed(ended.errors)
        return found

    def start(
        self, program: str, words: Sequence[str], *, folder: str, on_line: Callable[[str], None], silence_s: float
    ) -> Ended:
        """See `Transport.start`. The program is always the bench app.

        devicectl hands the signal that ends it on to the app; an app that lives on is ended when it is started anew.
        """
        launch = [*self._command("process", "launch"), "--console", "--terminate-existing", self._app, *words]
        return tool.stream(launch, device=self.name, on_line=on_line, silence_s=silence_s)

    def pull(self, name: str, path: Path) -> None:
        """See `Transport.pull`."""
        self._copy("from", "--source", f"Documents/{name}", "--destination", str(path.absolute()))

    def _command(self, *words: str) -> list[str]:
        return ["xcrun", "devicectl", "device", *words, "--device", self._udid]

    def _container(self) -> list[str]:
        return ["--domain-type", "appDataContainer", "--domain-identifier", self._app]

    def _copy(self, way: str, *words: str) -> None:
        command = [*self._command("copy", way), *self._container(), *words]
        done = tool.call(command, device=self.name, timeout_s=_COPY_S)
        if done.returncode:
            raise self._failed(done.stderr or done.stdout)

    def _devices(self) -> list[dict[str, Any]]:
        """What devicectl lists; it gives JSON in a file only."""
        with tempfile.TemporaryDirectory() as scratch:
            answer = Path(scratch) / "answer.json"
            command = ["xcrun", "devicectl", "list", "devices", "--json-output", str(answer)]
            done = tool.call(command, device=self.name, timeout_s=_ANSWER_S)
            try:
                return list(json.loads(answer.read_text(encoding="utf-8"))["result"]["devices"])
            except (OSError, ValueError, KeyError, TypeError):
                raise self._failed(done.stderr or done.stdout) from None

    def _failed(self, said: str) -> DeviceError:
        lines = [line for line in said.splitlines() if line.strip()]
        full = any("space" in line.lower() for line in lines)
        hint = "make room on it" if full else "is it unlocked, in developer mode, and the bench app installed on it?"
        return DeviceError(f"{self.name}: {lines[0].strip() if lines else 'devicectl failed'}", hint=hint)


TRANSPORT = DeviceCtl
