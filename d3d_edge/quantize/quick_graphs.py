"""Graphs whose Python code is written when it is asked for, not whenever a pass has changed them: the same code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.fx import GraphModule

_recompile = GraphModule.recompile
_NOTES = ("_code", "_lineno_map", "_prologue_start")
"""What it leaves in a module, beside the `forward` of the module's class, which no other module has."""


class _Later:
    """One of these, until somebody asks for it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, module: GraphModule | None, kind: type[GraphModule]) -> Any:
        if module is None:
            return self
        _write(module)
        return getattr(module, self._name)

    def __call__(self, module: GraphModule, *args: Any, **kwargs: Any) -> Any:
        """The `forward` of a class, when it is called as such."""
        _write(module)
        return type(module).forward(module, *args, **kwargs)


def _write(module: GraphModule) -> None:
    for name in ("forward", *_NOTES):
        delattr(type(module), name)
    _recompile(module)


def _postpone(module: GraphModule) -> None:
    codegen = module.graph._codegen
    if hasattr(codegen, "pytree_info"):  # How arguments are nested is asked for more often than the code.
        module._in_spec, module._out_spec = codegen.pytree_info.in_spec, codegen.pytree_info.out_spec
    for name in _NOTES:
        vars(module).pop(name, None)
    for name in ("forward", *_NOTES):
        setattr(type(module), name, _Later(name))


@contextmanager
def written_when_asked_for() -> Iterator[None]:
    """Postpone the writing of code.

    torch.export, and what lowers its graphs, write and compile the code of a whole graph after each of their passes
    (`GraphModule.recompile`), most of which nobody runs: a tenth of the time to quantize and to lower a student.
    """
    before = GraphModule.recompile
    GraphModule.recompile = _postpone  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        GraphModule.recompile = before  # type: ignore[method-assign]
