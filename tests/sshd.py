"""An OpenSSH server of one's own on this machine: own keys, own port, own configuration, no privileges."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

HOST = "device"
"""What the client's configuration calls the server."""

_SERVER = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
UsePAM no
StrictModes no
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
Subsystem sftp internal-sftp
"""
_CLIENT = """\
Host {host}
    HostName 127.0.0.1
    Port {port}
    User {user}
    IdentityFile {folder}/user
    IdentitiesOnly yes
    UserKnownHostsFile {folder}/known
    StrictHostKeyChecking yes
    LogLevel ERROR
"""


def find() -> str:
    """Path of sshd, which wants to be called by it; skips the test where it is missing."""
    path = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if path is None or shutil.which("ssh") is None:
        pytest.skip("no OpenSSH server on this machine (Debian: apt install openssh-server)")
    return path


@contextmanager
def serving(folder: Path, more: str = "", *, sftp: bool = True) -> Iterator[Path]:
    """Path of a configuration for ssh's -F, in which HOST is a server that runs until the block ends.

    `more` is added to the server's own, which leaves SFTP out on request.
    """
    sshd = find()
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    key = " ".join((folder / "host.pub").read_text().split()[:2])
    (folder / "known").write_text(f"[127.0.0.1]:{port} {key}\n")
    settings = _SERVER if sftp else _SERVER.replace("Subsystem sftp", "#")
    (folder / "sshd_config").write_text(settings.format(port=port, folder=folder) + more)
    client = folder / "ssh_config"
    client.write_text(_CLIENT.format(host=HOST, port=port, user=getpass.getuser(), folder=folder))
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd refuses to run as root without this empty folder
    server = subprocess.Popen([sshd, "-D", "-f", folder / "sshd_config", "-E", folder / "log"])
    try:
        deadline = time.monotonic() + 20
        while True:
            assert server.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, "the SSH server does not listen"
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.02)
        yield client
    finally:
        server.terminate()
        server.wait(timeout=20)
