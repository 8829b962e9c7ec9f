"""The command line: a click group whose commands are imported when they are called. Maps errors to exit codes, once."""

from __future__ import annotations

import errno
import importlib
import io
import os
import signal
import sys
import traceback
from typing import Any, NoReturn

import click

from d3d_edge import __version__, signals
from d3d_edge.errors import D3DEdgeError, DataError, MissingDependency, StorageError
from d3d_edge.processors import cpus, visible
from d3d_edge.workers import collect_seldom

# Literal, with the one-line help, so that `--help` imports no command and no torch.
_COMMANDS = {
    "demo": "The whole pipeline on a rendered data set: three verified bundles and a table.",
    "recipes": "List, show, copy and check recipes.",
    "models": "List presets, show what networks cost, and find one that fits a budget of time.",
    "targets": "List and show targets.",
    "doctor": "Say what each runtime and device tool still needs.",
    "prepare": "Decode a data set into the clip cache ahead of training.",
    "distill": "Train the flow teacher and distil the RGB student from it.",
    "evaluate": "Measure the networks of a run as the paper's systems: one stream, two streams, D3D.",
    "quantize": "Make the student of a run INT8: calibration and quantization-aware training.",
    "sensitivity": "Find out what making each part of the student INT8 costs, alone.",
    "export": "Lower the student of a run to bundles for devices.",
    "validate": "Measure accuracy, agreement, size and latency of bundles.",
    "benchmark": "Time bundles, on this machine or on devices.",
    "report": "Compare and show what was measured before.",
    "probe": "Find out what the networks of a run know of motion.",
    "predict": "Name the action in a video, a camera or a stream, with any bundle.",
}

_ON = "run the same command again to go on"
_ON_AGAIN = {
    "validate": "run the same command again; with --resume it keeps the clips that a device has done",
    "evaluate": "run the same command again",
    "benchmark": "run the same command again",
    "models": "run the same command again",
    "predict": "run the same command again",
}
"""What to do where a command was interrupted and begins anew by itself."""
_FULL = (errno.ENOSPC, errno.EFBIG, errno.EIO, errno.EDQUOT)


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"d3d_edge.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            from d3d_edge.resources import near_miss

            raise click.UsageError(f"no command {args[0]!r}; {near_miss(args[0], list(_COMMANDS))}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="d3d-edge")
def group() -> None:
    """Labelled video in, a verified INT8 action recogniser for Android, iOS and Jetson out.

    \b
    d3d-edge demo                                         see it work, in minutes, without data
    d3d-edge distill compact --data clips/ --out run      train on a folder per class
    d3d-edge quantize run
    d3d-edge export run --target all --out bundles
    d3d-edge validate bundles/*/ --data clips/

    Exit codes: 0 done, 1 internal error, 2 recipe or command line, 3 missing package, 4 gate missed, 5 not lowered,
    6 bad bundle, 7 device, 8 data, 9 cannot write, 130 interrupted, 143 ended by SIGTERM, 129 by SIGHUP.
    """


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit. Every expected error ends in one line on standard error and its exit code."""
    if argv is None and sys.getfilesystemencoding() != "utf-8" and "utf8" not in sys._xoptions:
        # Manifests, bundles and the libraries that open videos name files in UTF-8, whatever the locale says.
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    _prepare_process()
    words = sys.argv[1:] if argv is None else argv
    again = _ON_AGAIN.get(words[0] if words else "", _ON)

    def importing(number: int, file: str) -> None:
        # What a command imports takes seconds, in which it holds nothing that would have to be put away.
        if os.path.dirname(file) == os.path.dirname(__file__):
            click.echo(f"error: {_ended(number, again)}", err=True)
            os._exit(128 + number)

    try:
        with signals.raised(importing):
            result: Any = group.main(args=argv, prog_name="d3d-edge", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _fail(_ended(signal.SIGINT, again), 128 + signal.SIGINT)
    except signals.Ended as error:
        _fail(_ended(error.number, again), 128 + error.number)
    except D3DEdgeError as error:
        _trace()
        _fail(str(error), error.exit_code)
    except BrokenPipeError:
        # The reader of our output (head, less) has gone; there is nobody left to tell.
        _drop_output()
        sys.exit(1)
    except Exception as error:
        _trace()
        _tell_unexpected(error)
    sys.exit(result if isinstance(result, int) else 0)


def _prepare_process() -> None:
    """Threads, streams and settings as all that follows takes them for granted."""
    collect_seldom()
    if cpus() < visible():
        # In a container with a limit on time. PyTorch, which reads this when it is imported, would start a thread for
        # each processor that it sees, most of which stand still while the others wait for them.
        os.environ.setdefault("OMP_NUM_THREADS", str(cpus()))
    if os.environ.get("COLUMNS") == "0":
        del os.environ["COLUMNS"]  # no width at all, as some that start this say of no terminal: tables would be empty
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed, and the next file that is opened would be taken for it
            os.open(os.devnull, os.O_RDWR)
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:  # closed by whoever started this
            setattr(sys, stream, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8"))
        elif isinstance(written := getattr(sys, stream), io.TextIOWrapper):
            written.reconfigure(errors="backslashreplace")  # of what the terminal cannot show
    try:
        os.getcwd()
    except FileNotFoundError:
        # PyTorch ends the process where its libraries ask for it.
        _fail("the current folder is gone (cd to one that is there)", DataError.exit_code)


def _tell_unexpected(error: Exception) -> NoReturn:
    """End with a line about what no function of ours foresaw: the machine's fault, as far as it is known, or ours."""
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("d3d_edge"):
        # One that every installation has, or a part of it.
        hint = "pip install --force-reinstall d3d-edge"
        _fail(f"the package {error.name} is not installed ({hint})", MissingDependency.exit_code)
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        _fail("too many files are open (fewer --workers, or ulimit -n)", DataError.exit_code)
    if isinstance(error, FileNotFoundError) and "usable temporary directory" in str(error):
        said = "no folder for temporary files can be written: not TMPDIR, /tmp, /var/tmp or the current one"
        _fail(f"{said} (free some space, or set TMPDIR)", StorageError.exit_code)
    if isinstance(error, OSError) and error.errno in _FULL and error.filename is None:
        # Files are written by functions that raise a StorageError, so this is what standard output goes to.
        _drop_output()
        _fail(f"cannot write the output: {error.strerror}", StorageError.exit_code)
    if isinstance(error, OSError) and error.filename is not None:
        # What cannot be written is a StorageError, so this is a folder or file that may not be looked into.
        _fail(f"cannot use {os.fsdecode(error.filename)}: {error.strerror}", DataError.exit_code)
    text = " ".join(str(error).split())[:300]
    _fail(f"internal error, {type(error).__name__}: {text} (D3D_EDGE_DEBUG=1 shows where; please report it)", 1)


def _ended(number: int, again: str) -> str:
    """What is told when a signal ended the command."""
    by = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
    return f"{by}; {again}"


def _drop_output() -> None:
    """Let nothing more be written to standard output: what is left of it would fail once more at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _trace() -> None:
    """Show where the error that is being handled came from, if that is asked for."""
    if os.environ.get("D3D_EDGE_DEBUG"):
        traceback.print_exc()


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"error: {message}", err=True)
    sys.exit(code)
