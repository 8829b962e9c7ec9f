"""The exception tree: everything d3d-edge raises on purpose, and the exit code each one ends the command with.

D3DEdgeError              1   base class; never raised itself
|-- RecipeError           2   a recipe, target, plan or command-line value is wrong
|-- MissingDependency     3   a package or extra is not installed
|-- GateFailed            4   a bound of the recipe is not met; commands that write a report have
|-- LoweringError         5   a graph cannot be lowered to a runtime, or would not run there
|-- BundleError           6   a bundle is damaged, incomplete or of another format
|   `-- NotKnownHere      6   what runs it on this machine does not know all that the device does
|-- DeviceError           7   a device or transport failed
|-- DataError             8   a video, manifest, run folder or data set cannot be used
|   `-- TooFewFrames      8   a clip needs more frames than its video has (`video.preprocess`)
`-- StorageError          9   a file could not be written (disk full, no permission)

A message is one line that says what is wrong and where; `hint` says what to do next.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Sequence
from pathlib import Path


def first_line(error: BaseException) -> str:
    """What an error of some library says, in one line; its class where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def listed(names: Sequence[str], most: int) -> str:
    """The first names, at most so many, and how many more there are: a data set may have hundreds of classes."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


class D3DEdgeError(Exception):
    """An expected failure, shown to the user as one line and an exit code."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def __reduce__(self) -> tuple[object, tuple[type[D3DEdgeError], str, str]]:
        # Raised in worker processes too, and a keyword-only argument does not survive the default pickling.
        return _rebuild, (type(self), self.message, self.hint)


def _rebuild(cls: type[D3DEdgeError], message: str, hint: str) -> D3DEdgeError:
    error = cls.__new__(cls)  # not cls(...): a subclass may build its message from arguments of its own
    D3DEdgeError.__init__(error, message, hint=hint)
    return error


class RecipeError(D3DEdgeError):
    """A recipe, target, calibration plan or command-line value is wrong."""

    exit_code = 2


class MissingDependency(D3DEdgeError):
    """A package is not installed; the hint names the extra that brings it."""

    exit_code = 3

    @classmethod
    def of(cls, package: str, extra: str, purpose: str) -> MissingDependency:
        """`package` is needed for `purpose` and comes with the extra `extra`."""
        return cls(f"{purpose} needs the package {package}", hint=f"pip install 'd3d-edge[{extra}]'")


class GateFailed(D3DEdgeError):
    """A bound of the recipe is not met. Commands that write a report have written it then."""

    exit_code = 4


class LoweringError(D3DEdgeError):
    """A graph cannot be lowered, or the lowered file would not run on its target."""

    exit_code = 5

    def __init__(
        self, message: str, *, stage: str, layer: str = "", operator: str = "", runtime: str = "", hint: str = ""
    ) -> None:
        named = (("stage", stage), ("layer", layer), ("operator", operator), ("", runtime))
        where = ", ".join(f"{name} {value}".strip() for name, value in named if value)
        super().__init__(f"{message} [{where}]", hint=hint)


class BundleError(D3DEdgeError):
    """A bundle is damaged, incomplete or of a format this version does not read."""

    exit_code = 6


class NotKnownHere(BundleError):
    """What runs the file on this machine, in the device's place, does not know all that the device does."""


class DeviceError(D3DEdgeError):
    """A device or the transport to it failed."""

    exit_code = 7
    AGAIN = "run the same command again (validate: with --resume, which keeps the clips that are done)"
    """Hint where a run was cut short. What reaches a device does not know which command it is for."""


class DataError(D3DEdgeError):
    """A video, manifest, run folder or data set cannot be used."""

    exit_code = 8


class StorageError(D3DEdgeError):
    """A file could not be written."""

    exit_code = 9

    @classmethod
    def of(cls, path: Path, error: OSError) -> StorageError:
        """The failure `error` while `path` was written; what was there before is unchanged."""
        hints = {
            errno.ENOSPC: "free some space and run the same command again: finished work is kept",
            errno.EACCES: "choose a folder you may write to",
            errno.EROFS: "choose a folder you may write to",
            errno.ENOTDIR: "a file is in the place of a folder; choose another one",
            errno.EEXIST: "a file is in the place of a folder; choose another one",
            errno.EFBIG: "this system or shell lets no file grow so large (ulimit -f)",
        }
        number, reason = error.errno, error.strerror or str(error)
        if isinstance(error, shutil.Error):  # of a copied folder: a list of its files, each with a text
            reason = str(error.args[0][0][-1])
            number = next((one for one in hints if f"[Errno {one}]" in reason), None)
        return cls(f"cannot write {path}: {reason}", hint=hints.get(number or 0, "nothing half-written is left"))
