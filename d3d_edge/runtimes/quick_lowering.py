"""Lets ExecuTorch lower in less than a third of the time: what its passes compute again and again is computed once.

Must not change a byte of the file. For executorch 1.4, whose time goes to copies of a graph that come out the same:
some twenty passes trace all operators anew and validate them, whatever they changed. (They also write Python source of
the result, which `quantize.quick_graphs` puts off.)
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module, metadata
from typing import Any
from unittest import mock

import torch
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node, Proxy
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree
from torch.utils._mode_utils import no_dispatch

from d3d_edge.quantize.passes import core_aten, with_graph

VERSIONS = "1.4."
"""Of executorch, as its version begins. Any other lowers in its own way, and takes longer."""

_aten = torch.ops.aten

_PASSES_FOR = {
    "ConvertToUpsampleBilinear2d": "upsample",
    "ConvertToLinearPass": "linear|mm|matmul",
    "ConvertToSDPAPass": "softmax|attention",
    "FuseBatchNormPass": "batch_norm",
    "DecomposeBatchNorm": "batch_norm",
    "Conv1dUnsqueezePass": "conv1d|convolution",
    "PReLUReshapePass": "prelu",
}
"""XNNPACK's passes that only look for some operators, by class name, and those operators."""

_HOOKS = ("call_operator", "call_sym", "call_getitem", "call_delegate", "placeholder", "output", "on_attr", "inputs")
"""What a pass overrides to change operators as they are traced. One that overrides none only wants them traced."""


@contextmanager
def quickly(program: ExportedProgram) -> Iterator[ExportedProgram]:
    """What to lower within in the place of `program`: the same function.

    Lower nothing else meanwhile: ExecuTorch's slow functions are replaced for the whole process.
    """
    if not metadata.version("executorch").startswith(VERSIONS):
        yield program
        return
    from executorch.backends.xnnpack import xnnpack_preprocess
    from executorch.exir.pass_base import _ExportPassBase
    from torch._export.pass_base import _ExportPassBaseDeprecatedDoNotUse as PassOfTorch

    delegates = import_module("torch._higher_order_ops.executorch_call_delegate")  # The package has the operator there.
    operators = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    known = _Known()
    with ExitStack() as stack:
        for owner, name, quick in (
            (xnnpack_preprocess, "XNNPACKPassManager", _without_idle(xnnpack_preprocess.XNNPACKPassManager, operators)),
            (ExportedProgram, "run_decompositions", _decomposed(ExportedProgram.run_decompositions)),
            # What is left outside of delegates is verified at the end, by a call of its own.
            (ExportedProgram, "_validate", lambda _: None),
            (ExportedProgram, "validate", lambda _: None),
            (_ExportPassBase, "call", _in_place(_ExportPassBase.call, known)),
            (_ExportPassBase, "_fx", _traced(_ExportPassBase._fx, known)),
            (PassOfTorch, "_fx", _computed_once(PassOfTorch._fx, known)),
            (delegates, "call_delegate_cpu", _delegated),
        ):
            stack.enter_context(mock.patch.object(owner, name, quick))
        yield _decomposed_by_hand(program)


class _Known:
    """Shapes and types of results: an operator of the same fake tensors gives the same fake tensor.

    For others that look the same it gives another that does, unless it is a view, which shares their memory.
    """

    def __init__(self) -> None:
        # The arguments are kept since identity tells them apart.
        self._results: dict[Any, tuple[Any, Any]] = {}
        self._alike: dict[Any, Any] = {}

    def result(self, target: Any, args: Any, kwargs: Any, compute: Callable[[], Any]) -> Any:
        key = (target, _key(args, id), _key(kwargs, id))
        if key not in self._results:
            self._results[key] = self._alike_or(target, args, kwargs, compute), (args, kwargs)
        return self._results[key][0]

    def _alike_or(self, target: Any, args: Any, kwargs: Any, compute: Callable[[], Any]) -> Any:
        from executorch.exir.dialects.edge._ops import EdgeOpOverload

        operator = target._op if isinstance(target, EdgeOpOverload) else target
        if not isinstance(operator, torch._ops.OpOverload) or any(one.alias_info for one in operator._schema.returns):
            return compute()
        key = (operator, _key(args, _looks), _key(kwargs, _looks))
        if key in self._alike:
            return _each(FakeTensor, self._alike[key], _another)
        result = compute()
        if all(map(_has_sizes_alone, pytree.tree_leaves(result))):
            self._alike[key] = result
        return result


def _key(value: Any, known_by: Callable[[Any], Any]) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(_key(item, known_by) for item in value)
    if isinstance(value, dict):
        return tuple((name, _key(item, known_by)) for name, item in value.items())
    if isinstance(value, (bool, int, float, str, torch.dtype, torch.memory_format, type(None))):
        return type(value), value
    return known_by(value)


def _looks(value: Any) -> Any:
    """What a result depends on of a fake tensor; of anything else, which it is."""
    if not _has_sizes_alone(value):
        return id(value)
    return value.fake_mode, value.shape, value.stride(), value.dtype, value.device, value.requires_grad


def _has_sizes_alone(value: Any) -> bool:
    """Whether it is a fake tensor of known sizes, and not one of known values."""
    return type(value) is FakeTensor and value.constant is None and not value._has_symbolic_sizes_strides


def _another(value: FakeTensor) -> FakeTensor:
    with no_dispatch():
        empty = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    return FakeTensor(value.fake_mode, empty, value.device)


def _in_place(call: Any, known: _Known) -> Any:
    """`ExportPass.call`, without a copy for a pass that has edited the graph and wants its shapes renewed."""

    def quick(self: Any, graph: GraphModule) -> Any:
        from executorch.exir.pass_base import ExportPass, PassResult

        changes = any(getattr(type(self), hook) is not getattr(ExportPass, hook) for hook in _HOOKS)
        modes = [getattr(node.meta.get("val"), "fake_mode", None) for node in graph.graph.nodes]
        mode = next((mode for mode in modes if mode is not None), None)
        if changes or mode is None or any(_has_submodule(node) for node in graph.graph.nodes):
            return call(self, graph)
        mode.allow_non_fake_inputs = True

        def value(node: Node) -> Any:
            return getattr(graph, str(node.target)) if node.op == "get_attr" else node.meta["val"]

        with mode, enable_python_dispatcher():
            for node in graph.graph.nodes:
                if node.op == "call_function":
                    args, kwargs = map_arg(node.args, value), map_arg(node.kwargs, value)
                    compute = _call(node.target, args, kwargs)
                    node.meta["val"] = known.result(node.target, args, kwargs, compute)
        return PassResult(graph, True)

    return quick


def _call(target: Any, args: Any, kwargs: Any) -> Callable[[], Any]:
    return lambda: target(*args, **kwargs)


def _has_submodule(node: Node) -> bool:
    # Of a delegate or a branch; tracing handles those by rules of its own.
    return isinstance(node.target, torch._ops.HigherOrderOperator)


def _delegated(lowered: Any, *_: Any) -> Any:
    """What a delegate gives, which was noted when it was made of its part of the graph."""
    program = lowered.original_module
    values = [node.meta["val"] for node in program.graph.output_node().args[0]]
    return pytree.tree_unflatten(values, program.call_spec.out_spec)


class _Remembering:
    """An interpreter that computes no shape twice."""

    def __init__(self, interpreter: Any, known: _Known) -> None:
        self._interpreter, self._known = interpreter, known

    def __getattr__(self, name: str) -> Any:
        return getattr(self._interpreter, name)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self._known.result(target, args, kwargs, lambda: self._interpreter.call_function(target, args, kwargs))


def _computed_once(fx: Any, known: _Known) -> Any:
    """`_fx` of torch's own passes, which traces one operator, without computing a shape twice."""

    def quick(self: Any, kind: str, target: Any, args: Any, kwargs: Any, meta: Any) -> Any:
        interpreter = self.interpreter
        if not _has_values((args, kwargs)):
            self.interpreter = _Remembering(interpreter, known)
        try:
            return fx(self, kind, target, args, kwargs, meta)
        finally:
            self.interpreter = interpreter

    return quick


def _has_values(given: Any) -> bool:
    return any(isinstance(leaf, (torch.Tensor, torch.nn.Module)) for leaf in pytree.tree_leaves(given))


def _traced(fx: Any, known: _Known) -> Any:
    """`ExportPass._fx`, which traces one operator, without computing a shape twice."""

    def quick(self: Any, kind: str, target: Any, args: Any, kwargs: Any, meta: Any) -> Any:
        from executorch.exir.pass_base import ProxyValue

        if kind != "call_function" or _has_values((args, kwargs)):
            return fx(self, kind, target, args, kwargs, meta)
        given, named = (_each(ProxyValue, part, lambda value: value.data) for part in (args, kwargs))
        interpreter = self.interpreter
        result = known.result(target, given, named, lambda: interpreter.call_function(target, given, named))
        graph = self.tracer.graph
        name = (
            graph._target_to_str(target.overloadpacket.__name__) if isinstance(target, torch._ops.OpOverload) else None
        )
        nodes = [_each(ProxyValue, part, lambda value: value.proxy.node) for part in (args, kwargs)]
        node = graph.create_node(kind, target, *nodes, name=name)
        node.meta.update(meta.data)
        # One for each output is looked for, though only the value is read.
        node.meta.update(val=result, tensor_meta=(None,) * len(result) if isinstance(result, (tuple, list)) else None)
        return ProxyValue(result, Proxy(node, self.tracer))

    return quick


def _each(kind: type, value: Any, change: Callable[[Any], Any]) -> Any:
    """`value` with `change` applied to everything of type `kind` in it."""
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, tuple):
        return tuple(_each(kind, item, change) for item in value)
    if isinstance(value, list):
        return [_each(kind, item, change) for item in value]
    if isinstance(value, dict):
        return {name: _each(kind, item, change) for name, item in value.items()}
    return value


def _without_idle(manager: Any, operators: set[str]) -> Any:
    """XNNPACK's pass manager, without the passes that look for operators which the graph does not have."""

    def needed(name: str) -> bool:
        wanted = _PASSES_FOR.get(name)
        return wanted is None or any(re.search(wanted, operator) for operator in operators)

    def quick(exported: ExportedProgram, passes: list[type] | None = None) -> Any:
        made = manager(exported, passes)
        made.passes = [kind for kind in made.passes if needed(kind.__name__)]
        return made

    return quick


def _decomposed(decompose: Any) -> Any:
    """`ExportedProgram.run_decompositions`, without tracing a graph that holds nothing to decompose."""

    def quick(self: ExportedProgram, table: Any = None, **options: Any) -> ExportedProgram:
        called = {node.target for node in self.graph.nodes if node.op == "call_function"}
        targets = {target for target in called if hasattr(target, "_schema")}  # Not operator.getitem.
        whole = {target for target in targets - {_aten.max_pool2d.default} if target._can_decompose()}
        mutable = any(target._schema.is_mutable for target in targets)
        if table is None or mutable or whole or not targets.isdisjoint(table):
            decomposed: ExportedProgram = decompose(self, table, **options)
            return decomposed
        return self

    return quick


def _convolution(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = (1, 1),
    padding: Any = (0, 0),
    dilation: Any = (1, 1),
    groups: int = 1,
) -> tuple[Any, ...]:
    return x, weight, bias, list(stride), list(padding), list(dilation), False, [0, 0], groups


def _decomposed_by_hand(program: ExportedProgram) -> ExportedProgram:
    """`program` in the operators that decomposing it would give, as far as they are known here."""
    graph = copy.deepcopy(program.graph_module)
    for node in graph.graph.nodes:
        if node.target is _aten.conv2d.default:
            node.target, node.args = _aten.convolution.default, _convolution(*node.args)
        elif written := core_aten(node):
            node.target, node.args, node.kwargs = written
    return with_graph(program, graph)
