"""An Android device reached by `adb`, on a cable or by wireless debugging."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from d3d_edge.errors import DeviceError, RecipeError
from d3d_edge.transports import tool
from d3d_edge.transports.shell import ANSWER_S, ShellDevice

FOLDER = "/data/local/tmp/d3d-edge"
"""Where adb's user may write, and run what it wrote."""
_INSTALL = "Android SDK platform-tools; Debian and Ubuntu: apt install adb"
_STATES = {
    "unauthorized": "unlock it and allow USB debugging for this computer",
    "offline": "unplug it and plug it in again, or: adb reconnect",
    "no permissions": "Linux needs a udev rule for it: apt install android-sdk-platform-tools-common",
}


class Adb(ShellDevice):
    """`adb[:serial]`; the serial may be left out where one device is connected."""

    def __init__(self, name: str, rest: str) -> None:
        if rest.startswith("-"):
            raise RecipeError(f"{name} has no serial", hint="adb devices lists them")
        super().__init__(name, FOLDER)
        self._serial = rest

    def __enter__(self) -> Self:
        """Find the device.

        Raises:
            DeviceError: adb is not installed, or there is no such device, or several and no serial.
        """
        tool.find("adb", _INSTALL)
        done = tool.call(["adb", "devices"], device=self.name, timeout_s=ANSWER_S)
        if done.returncode:
            raise self._failed("adb does not work", done)
        lines = (line.partition("\t") for line in done.stdout.splitlines() if "\t" in line)
        states = {serial: state.strip() for serial, _, state in lines}
        if not states:
            raise DeviceError(f"{self.name}: no Android device is connected", hint="adb devices")
        if not self._serial and len(states) > 1:
            raise DeviceError(
                f"{self.name}: several Android devices are connected",
                hint=f"--device adb:SERIAL of {', '.join(states)}",
            )
        serial = self._serial or next(iter(states))
        if (state := states.get(serial)) is None:
            raise DeviceError(f"{self.name} is not connected", hint=f"adb devices lists {', '.join(states)}")
        if state != "device":
            hint = next((hint for word, hint in _STATES.items() if word in state), "adb devices")
            raise DeviceError(f"{self.name} cannot be used: {state}", hint=hint)
        self._serial = serial
        return self

    def command(self, script: str) -> list[str]:
        return ["adb", "-s", self._serial, "shell", script]

    def copy_there(self, path: Path, place: str) -> list[str]:
        return ["adb", "-s", self._serial, "push", str(path.absolute()), place]

    def copy_here(self, place: str, path: Path) -> list[str]:
        return ["adb", "-s", self._serial, "pull", place, str(path.absolute())]

    def lost(self, code: int, errors: str) -> DeviceError | None:
        """What adb says of a device that it does not reach, whatever its exit code."""
        words = ("not found", "offline", "unauthorized", "no devices", "closed", "protocol fault", "cannot connect")
        said = next((line for line in errors.splitlines() if line.startswith(("error:", "adb: "))), "")
        if not code or not any(word in said for word in words) or "remote" in said:
            return None
        return DeviceError(f"{self.name} went away: {said}", hint=f"is it still connected? {DeviceError.AGAIN}")


TRANSPORT = Adb
