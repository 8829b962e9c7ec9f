"""What a runner tells its host when it cannot go on."""

from __future__ import annotations

import errno
import os


class RunnerError(Exception):
    """One line for the user. `kind` is one of the protocol's, and decides what the host advises."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def of_os_error(error: OSError) -> RunnerError:
    """A failed read or write, as the protocol names it; by the folder where Python names no file, as of a write."""
    kind = "disk_full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "storage"
    return RunnerError(kind, f"{error.filename or os.getcwd()}: {error.strerror or error}")
