"""One command at a time works on a run; the processes of torchrun are one command."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from d3d_edge.distill import distributed
from d3d_edge.runs import Run, held

P = ParamSpec("P")
T = TypeVar("T")


@contextmanager
def alone(run: Path) -> Iterator[None]:
    """Hold the run at a path, which need not be begun, for the time of the block.

    Two at once would each put its weights where the other has measured its own, or learns from them.

    Raises:
        DataError: another command is at work on it.
        StorageError: its folder cannot be made.
    """
    with ExitStack() as stack:
        distributed.from_main(lambda: stack.enter_context(held(run)))
        yield


def at_work_alone(function: Callable[Concatenate[Run, P], T]) -> Callable[Concatenate[Run, P], T]:
    """`function`, whose first argument is a run, with that run held."""

    @wraps(function)
    def working(run: Run, /, *args: P.args, **options: P.kwargs) -> T:
        with alone(run.path):
            return function(run, *args, **options)

    return working
