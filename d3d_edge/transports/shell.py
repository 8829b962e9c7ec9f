"""A device with a POSIX shell: push, start and pull by small scripts; how those get there is each transport's own."""

from __future__ import annotations

import re
import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import CompletedProcess
from typing import Self

from d3d_edge.errors import DeviceError, RecipeError
from d3d_edge.transports import Ended, File, tool

ANSWER_S = 30.0
"""For what takes the device no time; a phone that wakes up included."""
SLOWEST_BYTES_PER_S = 100e3
"""A copy may take as long as at this rate, or ANSWER_S: slower than poor wireless, and than most links to far away."""
SPARE_BYTES = 16 * 2**20
"""Left free on the device: for results, and for whatever else it does."""
_PARTIAL = ".partial"
_AT_ONCE = 100
"""Files that one script names: Linux takes 128 KiB in an argument, and a name has some 70 bytes, up to four times."""
_NO_TOOL = 9
"""Exit code of a script, where the device has no program for it."""
_HASHED = re.compile(r"^([0-9a-f]{64}) [ *](.+?)\r?$", re.MULTILINE)
"""A line of openssl or sha256sum. A login may print a greeting first."""


class ShellDevice(ABC):
    """What ssh, adb and a folder of this machine share; see `d3d_edge.transports.Transport`."""

    def __init__(self, name: str, folder: str) -> None:
        if not re.fullmatch(r"[\w./-]+", folder) or folder.startswith("-"):
            raise RecipeError(f"{name}: the folder {folder!r} has other characters than letters, digits and ._-/")
        self.name = name
        self._folder = folder

    @abstractmethod
    def command(self, script: str) -> list[str]:
        """The command of this machine that runs a POSIX shell script on the device."""

    @abstractmethod
    def copy_there(self, path: Path, place: str) -> list[str]:
        """The command of this machine that copies `path` to `place` on the device."""

    @abstractmethod
    def copy_here(self, place: str, path: Path) -> list[str]:
        """The command of this machine that copies `place` of the device to `path`."""

    @abstractmethod
    def lost(self, code: int, errors: str) -> DeviceError | None:
        """The error to raise if a tool's exit code and messages mean that the device was not reached."""

    def push(self, files: Sequence[File]) -> int:
        """See `Transport.push`. Both before and after, the device says what it has, by SHA-256.

        A file gets its name when all of it is there: what another run reads is never written to. Where one cannot be
        copied, what was copied of it and of the others is deleted, which makes room for them the next time.
        """
        there = self._hashes(files)
        missing = [file for file in files if there.get(file.name) != file.sha256]
        sizes = {file.name: file.path.stat().st_size for file in missing}
        if not missing:
            return 0
        self._make_room(missing, sum(sizes.values()))
        try:
            for file in missing:
                self._copy(file, sizes[file.name])
        except BaseException:
            with suppress(DeviceError):  # of a device that is gone, the first error says more
                for some in _groups(missing):
                    partial = " ".join(f"{shlex.quote(file.name)}{_PARTIAL}" for file in some)
                    self._call(self._there(f"rm -f {partial}"), timeout_s=ANSWER_S)
            raise
        arrived = self._hashes(missing, copied=True)
        if damaged := [file for file in missing if arrived.get(file.name) != file.sha256]:
            raise DeviceError(
                f"{self.name}: {damaged[0].name} did not arrive as it was sent",
                hint="run the same command again; if it stays so, the device's storage is failing",
            )
        return sum(sizes.values())

    def _copy(self, file: File, size_bytes: int) -> None:
        """Copy a file beside its place."""
        rate = f"{SLOWEST_BYTES_PER_S / 1e6:g} MB/s"
        done = self._call(
            self.copy_there(file.path, f"{self._folder}/{file.name}{_PARTIAL}"),
            timeout_s=max(ANSWER_S, size_bytes / SLOWEST_BYTES_PER_S),
            late=(
                f"did not take {file.path.name} ({size_bytes / 1e6:.1f} MB)",
                f"is it still connected? its link must carry {rate}",
            ),
        )
        if done.returncode:
            if self._free_bytes() < size_bytes:  # scp says "Failure" of it, and no more
                raise self._full("its disk is full")
            raise self._failed(f"cannot copy {file.path.name} there", done)

    def _hashes(self, files: Sequence[File], *, copied: bool = False) -> dict[str, str]:
        """SHA-256 by name, of those of `files` that the device has; where they were just `copied`, they take their
        names first."""
        found: dict[str, str] = {}
        for some in _groups(files):
            found |= self._hashes_of_some(some, copied)
        return found

    def _hashes_of_some(self, files: Sequence[File], copied: bool) -> dict[str, str]:
        quoted = [shlex.quote(file.name) for file in files]
        first = "".join(f"mv -f {name}{_PARTIAL} {name}; " for name in quoted) if copied else ""
        names = " ".join(quoted)
        # OpenSSL has the processor's own instructions for it, and is several times as fast; Android does not have it.
        # A file that is not there is no error, but a device without either tool is.
        script = (
            f"echo; {first}if openssl version >/dev/null 2>&1; then openssl dgst -sha256 -r {names} 2>/dev/null; true; "
            f"else command -v sha256sum >/dev/null || exit {_NO_TOOL}; sha256sum {names} 2>/dev/null; true; fi"
        )
        seconds = sum(file.path.stat().st_size for file in files) / 20e6
        done = self._call(self._there(script), timeout_s=ANSWER_S + seconds)
        if done.returncode == _NO_TOOL:
            raise DeviceError(
                f"{self.name}: cannot check files: neither openssl nor sha256sum is there", hint="install one of them"
            )
        if done.returncode:
            raise self._failed(f"cannot use its folder {self._folder}", done)
        return {name: sha256 for sha256, name in _HASHED.findall(done.stdout)}

    def _make_room(self, files: Sequence[File], needed: int) -> None:
        """Make the folders of `files`.

        Raises:
            DeviceError: there is too little room for `needed` bytes.
        """
        folders = " ".join(sorted({shlex.quote(str(Path(file.name).parent)) for file in files}))
        free_bytes = self._free_bytes(first=f"mkdir -p {folders} && ")
        if needed + SPARE_BYTES > free_bytes:
            raise self._full(
                f"{needed / 1e6:.1f} MB are to be copied and {SPARE_BYTES / 1e6:.0f} MB to stay free, "
                f"{free_bytes / 1e6:.1f} MB are free"
            )

    def _free_bytes(self, first: str = "") -> int:
        """Room in the device's folder, after the script `first`."""
        done = self._call(self._there(f"echo; {first}df -Pk ."), timeout_s=ANSWER_S)
        found = re.findall(r"\s(\d+)\s+\d+%", done.stdout)
        if done.returncode or not found:
            raise self._failed(f"cannot write to {self._folder}", done)
        return 1024 * int(found[-1])  # the last: a login may print a greeting first

    def start(
        self, program: str, words: Sequence[str], *, folder: str, on_line: Callable[[str], None], silence_s: float
    ) -> Ended:
        """See `Transport.start`. A program whose name ends in .pyz is run by the folder's venv, else by python3."""
        pid = shlex.quote(f"{folder}/pid")
        call = f"{shlex.quote(program)} {shlex.join(words)}"
        if program.endswith(".pyz"):
            run = f"p=venv/bin/python; [ -x $p ] || p=python3; exec $p {call}"
        else:
            run = f"chmod 700 {shlex.quote(program)} && exec ./{call}"
        ended: Ended | None = None
        try:
            ended = tool.stream(
                self._there(f"rm -f {pid}; {run}"), device=self.name, on_line=on_line, silence_s=silence_s
            )
        finally:
            if ended is None:
                with suppress(DeviceError):  # a device that is gone ends the program itself, as its input ends
                    stop = f"[ -f {pid} ] && kill -s KILL -- -$(cat {pid})"
                    tool.call(self._there(stop), device=self.name, timeout_s=ANSWER_S)
        if error := self.lost(ended.code, ended.errors):
            raise error
        return ended

    def pull(self, name: str, path: Path) -> None:
        """See `Transport.pull`."""
        counted = self._call(self._there(f"echo; wc -c {shlex.quote(name)}"), timeout_s=ANSWER_S)
        sizes = [0, *map(int, re.findall(r"^ *(\d+) ", counted.stdout, re.MULTILINE))]  # the last: see _free_bytes
        timeout_s = max(ANSWER_S, sizes[-1] / SLOWEST_BYTES_PER_S)
        done = self._call(self.copy_here(f"{self._folder}/{name}", path), timeout_s=timeout_s)
        if done.returncode:
            raise self._failed(f"cannot copy {name} here", done)

    def _there(self, script: str) -> list[str]:
        """The command that runs `script` in the device's folder."""
        folder = shlex.quote(self._folder)
        return self.command(f"mkdir -p {folder} && cd {folder} && {{ {script}; }}")

    def _call(
        self, command: list[str], *, timeout_s: float, late: tuple[str, str] = tool.NO_ANSWER
    ) -> CompletedProcess[str]:
        done = tool.call(command, device=self.name, timeout_s=timeout_s, late=late)
        if done.returncode and (error := self.lost(done.returncode, done.stderr)):
            raise error
        return done

    def _failed(self, what: str, done: CompletedProcess[str]) -> DeviceError:
        # adb says on standard output why it cannot copy.
        said = done.stderr.strip().splitlines()[-1:] or [line for line in done.stdout.splitlines() if "error: " in line]
        if "No space left" in done.stderr + "".join(said):
            return self._full("its disk is full")
        return DeviceError(f"{self.name}: {what}" + (f": {said[0]}" if said else ""))

    def _full(self, detail: str) -> DeviceError:
        return DeviceError(
            f"{self.name}: not enough room: {detail}",
            hint=f"{self._folder}/blobs, jobs and engines may be deleted; finished clips are lost with jobs",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        return None


def _groups(files: Sequence[File]) -> Iterator[Sequence[File]]:
    for place in range(0, len(files), _AT_ONCE):
        yield files[place : place + _AT_ONCE]
