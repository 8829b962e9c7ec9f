"""Options that several commands share."""

from __future__ import annotations

import functools
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from d3d_edge import files, manifest
from d3d_edge.errors import RecipeError
from d3d_edge.manifest import Source
from d3d_edge.manifest.table import EXPECTED
from d3d_edge.processors import cpus

C = TypeVar("C", bound=Callable[..., Any])


class _Path(click.Path):
    """A path that every library can be given, written to a file, or shown."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path that `value` says; click.BadParameter for an empty one, and for one that is no text.

        ~/ is the user's home also where no shell has seen it: in a variable of a container, and behind --out=.
        """
        if os.fsdecode(value).startswith("~/"):
            value = os.path.expanduser(value)  # as it is for a user without a home
        path = super().convert(value, param, ctx)
        if not os.fspath(value):
            self.fail("an empty path; '.' is this folder.", param, ctx)
        if not files.is_text(Path(os.fsdecode(path))):
            self.fail(f"{value!r} is no text in this locale; rename it, or set PYTHONUTF8=1.", param, ctx)
        return path


PATH = _Path(path_type=Path)


class Number(click.FloatRange):
    """A float in a range. What is no number lies in every range for click, since no comparison with it is true."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The float that `value` says; click.BadParameter for anything else."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


DATA_HELP = f"""A folder per class, or folders train, val and test that hold such; a CSV {EXPECTED}; the folder of the
official split files of UCF101 (classInd.txt, trainlist01.txt ...) or HMDB51 (brush_hair_test_split1.txt ...); or a
Kinetics CSV label,youtube_id,time_start,time_end,split, or the folder of several. Which it is, is found out; in a
folder that holds a manifest.csv, that list alone counts."""


def data(command: C) -> C:
    """--data, --videos and --fold, given to the command as one `Source` named data."""
    option = click.option("--data", required=True, type=PATH, metavar="DIR|CSV", help=" ".join(DATA_HELP.split()))
    return option(_with_places(command))


def data_argument(command: C) -> C:
    """DATA instead of --data."""
    return click.argument("data", type=PATH)(_with_places(command))


def _with_places(command: C) -> C:
    @functools.wraps(command)
    def with_source(*args: Any, data: Path, videos: Path | None, fold: int | None, **more: Any) -> Any:
        source = Source(path=data, videos=videos, fold=fold)
        manifest.need(source)  # before the command imports what takes seconds
        return command(*args, data=source, **more)

    fold = click.option("--fold", type=click.IntRange(1), help="Which official split of UCF101 or HMDB51. Default: 1.")
    videos = click.option(
        "--videos",
        type=PATH,
        metavar="DIR",
        help="Where the videos of a CSV or of split files are, if not beside them: the folder of the class folders.",
    )
    # `wraps` keeps the command's own type.
    return videos(fold(with_source))  # type: ignore[return-value]


def refuse_in_data(data: Source, *, out: Path | None = None, cache_dir: Path | None = None) -> None:
    """A new folder among those of the clips would be taken for a class. What a run there holds stays in reach.

    Raises:
        RecipeError: `out` or `cache_dir` lies there.
    """
    for option, path in (("--out", out), ("--cache", cache_dir)):
        if path is not None and data.holds(path) and not (path / "recipe.yaml").is_file():
            raise RecipeError(f"{option} {path} lies in the data, {data}", hint="choose a folder outside of the data")


def decoding(command: C) -> C:
    """--cache, --workers and --strict, for commands that decode a whole data set."""
    command = click.option("--strict", is_flag=True, help="Stop at the first bad clip instead of skipping it.")(command)
    return workers(cache(command))


def workers(command: C) -> C:
    """--workers."""
    return click.option(
        "--workers", type=click.IntRange(0), default=cpus(), show_default=True, help="Processes that share the work."
    )(command)


def cache(command: C) -> C:
    """--cache."""
    return click.option(
        "--cache",
        "cache_dir",
        type=PATH,
        envvar="D3D_EDGE_CACHE",
        show_envvar=True,
        default=_default_cache(),
        show_default=True,
        help="Where decoded clips and flow are kept, and the times that models measures.",
    )(command)


def threads(command: C) -> C:
    """--threads."""
    return click.option(
        "--threads", type=click.IntRange(0, 256), default=0, help="Threads of the runtime; 0 leaves its own choice."
    )(command)


def devices(command: C) -> C:
    """--device and --device-runtime."""
    runtime = click.option(
        "--device-runtime",
        type=click.Choice(["auto", "tensorrt", "onnxruntime"]),
        default="auto",
        show_default=True,
        help="What runs the file of a Jetson's bundle there. auto: TensorRT where it is installed, else ONNX Runtime.",
    )
    return click.option(
        "--device",
        "device_names",
        multiple=True,
        default=["local"],
        metavar="local|ssh:USER@HOST|adb[:SERIAL]|ios[:UDID]",
        help="Where the bundles run; may be given several times. Default: local, which is this machine. "
        "docs/devices.md says how a device is set up.",
    )(runtime(command))


def as_json(command: C) -> C:
    """--json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")(command)


def _default_cache() -> str:
    try:
        return str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "d3d-edge")
    except RuntimeError:  # a user without a home
        return str(Path(tempfile.gettempdir()) / "d3d-edge")
