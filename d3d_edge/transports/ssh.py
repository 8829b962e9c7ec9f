"""A device reached by OpenSSH: the user's own `ssh` and `scp`, keys and configuration, over one connection."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

from d3d_edge.errors import DeviceError, RecipeError
from d3d_edge.transports import tool
from d3d_edge.transports.shell import ShellDevice

FOLDER = ".cache/d3d-edge"
"""On the device, below the user's home, unless the user names another."""
CONFIG = "D3D_EDGE_SSH_CONFIG"
"""Environment variable: a configuration file for ssh's -F, in place of the user's."""
_CONNECT_S = 10
_ALIVE_S = 5
"""Between questions to a silent device; after three without an answer the connection is given up."""
_LOST = 255
"""Exit code of ssh and scp where they failed, and not what they were to do."""
_INSTALL = "Debian and Ubuntu: apt install openssh-client"
_SILENT_LOGIN = (
    "does its login print something where nobody is logged in? scp needs a .bashrc that is silent then; and an SFTP "
    "server there, which beside dropbear is the package openssh-sftp-server"
)
_CLOSED = "Connection closed"
"""What scp says of a connection that is lost, too."""
_GONE = "the connection was lost"
_HINTS = {
    _GONE: DeviceError.AGAIN,
    "Permission denied": "a key without a passphrase prompt is needed: ssh-copy-id, ssh-agent",
    "Host key verification failed": "connect once by hand with ssh, to look at its key and accept it",
    "Could not resolve hostname": "is the name right? a Host of ~/.ssh/config will do too",
    "Connection refused": "does it run an SSH server?",
    "timed out": "is it switched on and in this network?",
    "Received message too long": _SILENT_LOGIN,
    "produces no output": _SILENT_LOGIN,
    _CLOSED: _SILENT_LOGIN,
}


class Ssh(ShellDevice):
    """`ssh:[user@]host[:folder]`."""

    def __init__(self, name: str, rest: str) -> None:
        host, _, folder = rest.partition(":")
        if "[" in host:
            raise RecipeError(f"{name} has an address in brackets", hint="give it a Host in ~/.ssh/config")
        if host.startswith(("-", "@")) or not host.rpartition("@")[2]:
            raise RecipeError(f"{name} names no host", hint="ssh:[USER@]HOST[:FOLDER]")
        if folder.isdecimal():
            raise RecipeError(
                f"{name}: {folder} stands where a folder does",
                hint=f"a port goes into ~/.ssh/config; if it is a folder: ./{folder}",
            )
        super().__init__(name, folder or FOLDER)
        self._host = host
        self._master: subprocess.Popen[bytes] | None = None
        self._scratch = ""

    def __enter__(self) -> Self:
        """Connect once; all that follows goes through this connection, which ends with this process.

        Raises:
            DeviceError: there is no ssh here, or no connection within seconds.
        """
        for name in ("ssh", "scp"):
            tool.find(name, _INSTALL)
        # Not in the user's folder for temporary files: the name of a socket may have about 100 characters.
        self._scratch = tempfile.mkdtemp(prefix="d3d-", dir="/tmp" if os.path.isdir("/tmp") else None)
        try:
            self._connect(Path(self._scratch) / "errors")
        except BaseException:
            self.__exit__()
            raise
        return self

    def _connect(self, errors: Path) -> None:
        with errors.open("wb") as written:
            self._master = subprocess.Popen(
                ["ssh", "-M", *self._options(), "-T", "--", self._host, "echo ready; exec cat"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=written,
                start_new_session=True,
            )
        if not self._is_ready(2 * _CONNECT_S):
            tool.end(self._master)
            error = self.lost(_LOST, errors.read_text(encoding="utf-8", errors="replace"))
            raise error or DeviceError(f"{self.name} did not answer")

    def _is_ready(self, timeout_s: float) -> bool:
        """Whether the device answered. Its login may print a greeting first, be it one without an end."""
        if self._master is None or self._master.stdout is None:
            return False
        answer, said = b"ready\n", b""
        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            if not select.select([self._master.stdout], [], [], left_s)[0]:
                break
            read = os.read(self._master.stdout.fileno(), 4096)
            said = said[-len(answer) :] + read
            if answer in said or not read:
                return answer in said
        return False

    def _answers(self) -> bool:
        """Whether the connection carries a word there and back. A process that is about to end does not."""
        if self._master is None or self._master.stdin is None:
            return False
        try:
            os.write(self._master.stdin.fileno(), b"ready\n")
        except (OSError, ValueError):  # the pipe has no other end any more, or has been closed
            return False
        return self._is_ready(_CONNECT_S)

    def __exit__(self, *exc_info: object) -> None:
        if self._master is not None:
            tool.end(self._master)
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _options(self) -> list[str]:
        # BatchMode: a question that nobody sees would hang. The socket is ours alone, whatever the user's file says,
        # and its connection must not outlive this process. -M, where it is given, stands before these and wins.
        given = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={_CONNECT_S}", "-o", f"ServerAliveInterval={_ALIVE_S}"]
        given += ["-o", f"ControlPath={self._scratch}/s", "-o", "ControlMaster=no", "-o", "ControlPersist=no"]
        given += ["-o", "RemoteCommand=none"]  # what is there for a person, such as tmux
        if config := os.environ.get(CONFIG):
            given += ["-F", config]
        return given

    def command(self, script: str) -> list[str]:
        return ["ssh", *self._options(), "-T", "--", self._host, f"exec sh -c {_quoted(script)}"]

    def copy_there(self, path: Path, place: str) -> list[str]:
        return ["scp", "-q", *self._options(), "--", str(path.absolute()), f"{self._host}:{place}"]

    def copy_here(self, place: str, path: Path) -> list[str]:
        return ["scp", "-q", *self._options(), "--", f"{self._host}:{place}", str(path.absolute())]

    def lost(self, code: int, errors: str) -> DeviceError | None:
        """ssh itself ends with 255 and says why; also when a signal ended the program there, and then it says nothing.

        What the errors say may be the program's words then, so the connection itself is asked; not where scp cannot
        talk over it, since it answers there too.
        """
        if code != _LOST:
            return None
        said = (errors.strip().splitlines() or [_GONE])[-1]
        hint = next((hint for words, hint in _HINTS.items() if words in said), "ssh by hand says more: ssh -v")
        if hint != _SILENT_LOGIN:
            if self._answers():
                return None
        elif said.endswith(_CLOSED) and not self._answers():
            said, hint = _GONE, DeviceError.AGAIN
        return DeviceError(f"{self.name} cannot be reached: {said}", hint=hint)


def _quoted(script: str) -> str:
    """For any login shell of the device, fish and csh included: single quotes, and none inside."""
    return "'" + script.replace("'", "'\"'\"'") + "'"


TRANSPORT = Ssh
