"""A reference interpreter of Core ML's ML Programs: what a saved .mlpackage computes, where Core ML itself cannot run.

It reads the package on disk and nothing else, and says nothing about speed or about the sums of a device's kernels.
Whatever it does not know is refused by name when the package is loaded, never while it runs.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from d3d_edge.errors import BundleError, MissingDependency, NotKnownHere
from d3d_edge.runtimes.mil_ops import ONLY, OPERATORS, Operator
from d3d_edge.signals import held_back

READ_ERRORS = (AssertionError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)
"""What coremltools raises on a package or a graph that it cannot take; it has no error class of its own."""

_TORCH_TYPES = {
    "fp16": torch.float16,
    "fp32": torch.float32,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "int16": torch.int16,
    "uint16": torch.uint16,
    "int32": torch.int32,
    "bool": torch.bool,
}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what coremltools logs and warns about itself: untested PyTorch versions, its own loose ends."""
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            # coremltools 9, `_mil_convert`, leaves its folder for the weights to the garbage collector.
            warnings.filterwarnings("ignore", "Implicitly cleaning up", ResourceWarning)
            yield
    finally:
        logger.setLevel(level)


def coremltools() -> ModuleType:
    """The package coremltools, with its native libraries for reading and writing packages.

    Raises:
        MissingDependency: it is not installed, or has no libraries for this platform.
    """
    from d3d_edge.quantize import torchao_unlogged  # noqa: F401  coremltools imports torchao

    try:
        # coremltools 9 tries to import what it can do without, and takes an exception of a signal for its absence.
        with held_back(), quiet(), _alone():
            import coremltools as ct
            import coremltools.libmilstoragepython
            import coremltools.libmodelpackage
    except ImportError as error:
        raise MissingDependency.of("coremltools", "ios", "reading and writing Core ML packages") from error
    module: ModuleType = ct
    return module


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Without packages that coremltools 9 imports where they are installed, and that nothing here needs of it.

    ExecuTorch, whose whole compiler it imports to read its graphs, and scikit-learn, which comes with ExecuTorch and
    brings SciPy and pandas. None is given to it here. Hiding the latter alone makes 1.6 s of its import of 2.7 to 3.0.
    """
    unasked = [] if "coremltools" in sys.modules else ["sklearn"]
    if unasked and "executorch.exir" not in sys.modules:
        unasked.append("executorch")
    before = {name: sys.modules.get(name) for name in unasked}
    sys.modules.update(dict.fromkeys(unasked))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name, module in before.items():
            del sys.modules[name]
            if module:
                sys.modules[name] = module


@dataclass(frozen=True)
class _Step:
    """One operator of the program."""

    compute: Operator
    arguments: Mapping[str, str | tuple[str, ...]]
    """Names of values, by argument."""
    results: tuple[tuple[str, torch.dtype], ...]
    done: tuple[str, ...]
    """Values that no later step needs."""


@dataclass(frozen=True)
class Feature:
    """Name, type and shape of an input or output of the program."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


class MilProgram:
    """The function `main` of a .mlpackage, ready to run."""

    def __init__(self, function: Any, *, float16: bool = False) -> None:
        """`function` is coremltools' own form of it; `float16` is as in `load`.

        Raises:
            BundleError: an operator, an argument or a type is not known here; the message names it.
        """
        self.inputs = tuple(_feature(var) for var in function.inputs.values())
        self.outputs = tuple(_feature(var) for var in function.outputs)
        self._float16 = float16
        self._constants: dict[str, Any] = {}
        self._steps: list[_Step] = []
        steps = []
        for op in function.operations:
            if op.op_type == "const":
                self._constants[op.outputs[0].name] = _constant(op.outputs[0].val)
                continue
            step = _step(op, float16)
            if op.op_type.startswith("constexpr_"):
                self._run_step(step, self._constants)
            else:
                steps.append(step)
        self._steps = self._with_lifetimes(steps)

    @classmethod
    def load(cls, package: Path, *, float16: bool = False) -> MilProgram:
        """The program saved at `package`.

        Its float16 values are held in float32, which checks the program. With `float16` each is rounded after every
        operator, as a chip that stores them between operators would: this shows what such rounding may cost.

        Raises:
            MissingDependency: coremltools is missing.
            BundleError: the package is damaged, or holds something that is not known here.
        """
        ct = coremltools()
        # Derived from Exception itself. Not imported by name, as its package has no type information.
        decode_error = importlib.import_module("google.protobuf.message").DecodeError
        try:
            with quiet():
                from coremltools.converters.mil.frontend.milproto.load import load

                model = ct.models.MLModel(str(package), skip_model_load=True)
                spec = model.get_spec()
                function = load(spec, spec.specificationVersion, model.weights_dir or "").functions["main"]
        except (*READ_ERRORS, decode_error) as error:
            reason = " ".join(str(error).split())
            raise BundleError(f"{package} cannot be read: {reason}", hint="export the bundle again") from error
        return cls(function, float16=float16)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Output arrays by name. Inputs are cast to their declared types; their shapes must be the declared ones."""
        values = dict(self._constants)
        for feature in self.inputs:
            values[feature.name] = torch.from_numpy(np.require(inputs[feature.name], requirements=("C", "W"))).to(
                _held(feature.dtype, self._float16)
            )
        with torch.inference_mode():
            for step in self._steps:
                self._run_step(step, values)
                for name in step.done:
                    del values[name]
        return {feature.name: values[feature.name].numpy() for feature in self.outputs}

    @staticmethod
    def _run_step(step: _Step, values: dict[str, Any]) -> None:
        arguments = {
            name: values[source] if isinstance(source, str) else tuple(values[one] for one in source)
            for name, source in step.arguments.items()
        }
        computed = step.compute(arguments)
        tensors = (computed,) if isinstance(computed, Tensor) else computed
        for (name, dtype), tensor in zip(step.results, tensors, strict=True):
            values[name] = tensor.to(dtype)

    def _with_lifetimes(self, steps: list[_Step]) -> list[_Step]:
        """`steps`, each with the values to forget after it: a clip's activations do not all fit into memory."""
        needed = {feature.name for feature in self.outputs} | set(self._constants)
        ordered = []
        for step in reversed(steps):
            used = {name for source in step.arguments.values() for name in _names(source)}
            used |= {name for name, _ in step.results}
            ordered.append(_Step(step.compute, step.arguments, step.results, tuple(sorted(used - needed))))
            needed |= used
        return ordered[::-1]


def _names(source: str | tuple[str, ...]) -> tuple[str, ...]:
    return (source,) if isinstance(source, str) else source


def _step(op: Any, float16: bool) -> _Step:
    compute = OPERATORS.get(op.op_type)
    if compute is None:
        raise NotKnownHere(
            f"the reference interpreter does not know the operator {op.op_type} ({op.name})",
            hint="run the bundle on macOS or on a device",
        )
    arguments: dict[str, str | tuple[str, ...]] = {}
    for name, value in op.inputs.items():
        if value is None:
            continue
        allowed = ONLY.get((op.op_type, name))
        if allowed is not None and value.val not in allowed:
            raise NotKnownHere(
                f"the reference interpreter does not know {name}={value.val} of {op.op_type} ({op.name})"
            )
        arguments[name] = tuple(one.name for one in value) if isinstance(value, (list, tuple)) else value.name
    return _Step(compute, arguments, tuple((var.name, _held(_dtype(var), float16)) for var in op.outputs), ())


def _held(dtype: torch.dtype, float16: bool) -> torch.dtype:
    return torch.float32 if dtype == torch.float16 and not float16 else dtype


def _feature(var: Any) -> Feature:
    return Feature(var.name, _dtype(var), tuple(int(size) for size in var.shape))


def _dtype(var: Any) -> torch.dtype:
    from coremltools.converters.mil.mil import types

    name = types.builtin_to_string(var.dtype)
    if name not in _TORCH_TYPES:
        raise NotKnownHere(f"the reference interpreter does not know the type {name} of {var.name}")
    return _TORCH_TYPES[name]


def _constant(value: Any) -> Any:
    """A tensor of an array, the Python value of a scalar or string."""
    if isinstance(value, np.ndarray) and value.ndim:
        return torch.from_numpy(value.copy())
    return value.item() if isinstance(value, (np.ndarray, np.generic)) else value
