"""d3d-edge doctor."""

from __future__ import annotations

import importlib
import logging
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from d3d_edge import resources, runtimes, target
from d3d_edge.errors import DeviceError, MissingDependency

# What --device calls on the user's machine, and where it comes from.
_DEVICE_TOOLS = {
    "adb": "Android devices: Android SDK platform-tools (Debian: apt install adb)",
    "ssh": "Jetson: an OpenSSH client (Debian: apt install openssh-client)",
    "scp": "Jetson: an OpenSSH client (Debian: apt install openssh-client)",
    "xcrun": "iOS devices: Xcode, on a Mac",
}
_PACKAGES = {"torch": "training", "torchao": "quantization", "cv2": "video and flow (package opencv-python-headless)"}


@click.command("doctor")
def command() -> None:
    """Say what is ready, and the exact package that is missing where something is not.

    Exit code 3 if a package that every command needs is missing.
    """
    with _without_logs():
        broken = not _check()
    sys.exit(MissingDependency.exit_code if broken else 0)


@contextmanager
def _without_logs() -> Iterator[None]:
    """While they are loaded, packages log which parts of theirs they could not use; what matters of it is said here."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)


def _check() -> bool:
    """Print a line for each package, target and tool; False if a package is missing that every command needs."""
    whole = True
    for package, purpose in _PACKAGES.items():
        try:
            found = importlib.import_module(package)
        except ImportError as error:
            whole = False
            _line(package, False, f"{purpose}: {error}; pip install --force-reinstall d3d-edge")
        else:
            _line(package, True, f"{found.__version__}, {purpose}")
    for tool, purpose in _DEVICE_TOOLS.items():
        path = shutil.which(tool)
        _line(tool, path is not None, path or purpose)
    if not whole:
        return False  # what comes now needs them
    for name in resources.names("targets"):
        runtime = runtimes.get(target.load(name).runtime)
        uses = (("export", runtime.check_lower, runtime.tools), ("run here", runtime.check_run, runtime.run_tools))
        for verb, check, tools in uses:
            try:
                check()
            except MissingDependency as error:
                _line(f"{name}: {verb}", False, str(error))
            else:
                _line(f"{name}: {verb}", True, ", ".join(f"{k} {v}" for k, v in tools().items()))
    from d3d_edge.pipeline.devices import android_bench

    try:
        _line("bench program", True, f"{android_bench()}, for Android devices")
    except DeviceError as error:
        _line("bench program", False, f"for Android devices: {error}")
    return whole


def _line(name: str, ready: bool, detail: str) -> None:
    click.echo(f"{'ready  ' if ready else 'missing'}  {name:<18} {detail}")
