"""Programs of this machine, called without a shell and with a time limit, that leave no process behind."""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import IO

from d3d_edge.errors import DeviceError
from d3d_edge.transports import Ended

_ERRORS_BYTES = 4000
"""Of what a tool writes to standard error, the end is kept."""
_PATIENCE_S = 2.0
"""For a process that was asked to end, before it is forced to."""

NO_ANSWER = ("did not answer", "is it switched on and connected?")
"""What a device failed to do in time, and what to do about it."""


def find(name: str, purpose: str) -> str:
    """Path of an installed tool.

    Raises:
        DeviceError: it is not installed.
    """
    if (path := shutil.which(name)) is None:
        raise DeviceError(f"{name} is not installed", hint=purpose)
    return path


def call(
    command: Sequence[str], *, device: str, timeout_s: float, late: tuple[str, str] = NO_ANSWER
) -> subprocess.CompletedProcess[str]:
    """What `command` printed, its exit code and its errors. Its process group is ended after `timeout_s`.

    `late` says what did not happen then, and what to do about it.

    Raises:
        DeviceError: it did not end in time.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    try:
        out, errors = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        said, hint = late
        raise DeviceError(f"{device} {said} within {timeout_s:.0f} s", hint=hint) from None
    finally:
        end(process)
    return subprocess.CompletedProcess(list(command), process.returncode, out, errors)


def stream(command: Sequence[str], *, device: str, on_line: Callable[[str], None], silence_s: float) -> Ended:
    """Run `command`, standard input held open, and give each line it prints to `on_line`.

    However this ends, the process group of `command` has ended then.

    Raises:
        DeviceError: nothing came for `silence_s`.
    """
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        )
        try:
            if process.stdout is not None:  # always; for the type checker
                _read_lines(process.stdout, device, on_line, silence_s)
            # What closes its output and does not end is as silent as what prints nothing.
            process.wait(timeout=silence_s)
        except subprocess.TimeoutExpired:
            raise _silent(device, silence_s) from None
        finally:
            end(process)
        return Ended(process.returncode, _end_of(errors))


def _read_lines(out: IO[bytes], device: str, on_line: Callable[[str], None], silence_s: float) -> None:
    buffered = b""
    with selectors.DefaultSelector() as selector:
        selector.register(out, selectors.EVENT_READ)
        while True:
            if not selector.select(silence_s):
                raise _silent(device, silence_s)
            read = os.read(out.fileno(), 65536)
            if not read:
                break
            *lines, buffered = (buffered + read).split(b"\n")
            for line in lines:
                on_line(line.decode("utf-8", errors="replace").rstrip("\r"))
    if buffered:
        on_line(buffered.decode("utf-8", errors="replace"))


def _silent(device: str, silence_s: float) -> DeviceError:
    return DeviceError(
        f"{device} said nothing for {silence_s:.0f} s",
        hint=f"is it still connected? {DeviceError.AGAIN}",
    )


def _end_of(errors: IO[bytes]) -> str:
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - _ERRORS_BYTES))
    return errors.read().decode("utf-8", errors="replace").strip()


def end(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    """End a process that was started in a session of its own, and all of its group: asked first, then forced."""
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
    for how in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, how)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_PATIENCE_S)
            if not _group_lives(process.pid):
                return


def _group_lives(group: int) -> bool:
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except (ProcessLookupError, PermissionError):
            return False
        time.sleep(0.01)
    return True
