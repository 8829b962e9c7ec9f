"""Runs the graph of an XNNPACK delegate, whole or in parts, by XNNPACK itself, and has it timed by operator.

It calls XNNPACK's own C interface in the library that the ExecuTorch wheel ships, so the kernels, their packing and the
pool of threads are those of a `.pte` file. It builds no graph; what it takes was lowered by this project.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterator
from typing import Any, Self

import numpy as np

INVALID = 2**32 - 1
EXTRA_BYTES = 64
"""XNNPACK may read beyond an array, 16 bytes on the machines that it supports here."""
PROFILING = 8
"""`XNN_FLAG_BASIC_PROFILING`."""
_OPERATORS, _NAMES, _TIMES = 0, 1, 2
"""Of `xnn_profile_info`."""
_INPUT, _OUTPUT = 1, 2
"""Flags of a value of the interface."""
_POOL = "_ZN10executorch9extension10threadpool15get_pthreadpoolEv"
"""ExecuTorch's pool of threads, `executorch::extension::threadpool::get_pthreadpool()`."""
_BYTES = {"fp32": 4, "qint8": 1, "quint8": 1, "qcint8": 1, "qint32": 4, "qcint32": 4}
_TYPES = {"fp32": 1, "qint8": 3, "quint8": 4, "qint32": 5, "qcint8": 6, "qcint32": 7}
"""XNNPACK's own numbers of the types; ExecuTorch's differ from the ninth on."""


class Part:
    """Some nodes of an `XNNGraph`, ready to run. What they read from outside is an input, what leaves an output."""

    def __init__(self, graph: Any, constants: bytes, nodes: list[Any], *, profiled: bool = False) -> None:
        self._library = _library()
        self._kept: list[Any] = [np.frombuffer(constants + bytes(EXTRA_BYTES), np.uint8).copy()]
        self._graph = graph
        self._values = {described(value).id_out: value.xvalue_union for value in graph.xvalues}
        inputs, outputs = _border(graph, nodes, self._values)
        self._ids: dict[int, int] = {}
        self._subgraph = ctypes.c_void_p()
        externals = [*inputs, *outputs]
        self._call("xnn_create_subgraph", _u(len(externals)), _u(0), ctypes.byref(self._subgraph))
        for place, value in enumerate(externals):
            self._define(value, place, _INPUT if place < len(inputs) else _OUTPUT)
        for node in nodes:
            self._node(node)
        self._runtime = ctypes.c_void_p()
        flags = PROFILING if profiled else 0
        pool = self._library[_POOL]
        pool.restype = ctypes.c_void_p
        self._call(
            "xnn_create_runtime_v2", self._subgraph, ctypes.c_void_p(pool()), _u(flags), ctypes.byref(self._runtime)
        )
        self.arrays = {value: self._array(value) for value in externals}
        self.inputs, self.outputs = inputs, outputs
        self._given = (_External * len(externals))(
            *(_External(place, self.arrays[value].ctypes.data) for place, value in enumerate(externals))
        )
        self.prepare()
        self._invoke = self._library.xnn_invoke_runtime

    def prepare(self) -> None:
        """Find all shapes, and lay the memory out, as ExecuTorch does before each run."""
        self._call("xnn_reshape_runtime", self._runtime)
        self._call("xnn_setup_runtime_v2", self._runtime, ctypes.c_size_t(len(self._given)), self._given)

    def run(self) -> None:
        """Compute the outputs from what lies in `arrays`."""
        if self._invoke(self._runtime):
            raise RuntimeError("XNNPACK could not run the graph")

    def times_us(self) -> list[int]:
        """Of each operator in the last run, in XNNPACK's order; fractions of a microsecond are dropped by XNNPACK."""
        size = ctypes.c_size_t()
        count = ctypes.c_size_t()
        self._call(
            "xnn_get_runtime_profiling_info", self._runtime, _OPERATORS, ctypes.c_size_t(8), ctypes.byref(count),
            ctypes.byref(size),
        )  # fmt: skip
        times = (ctypes.c_uint64 * count.value)()
        self._call(
            "xnn_get_runtime_profiling_info", self._runtime, _TIMES, ctypes.c_size_t(8 * count.value), times,
            ctypes.byref(size),
        )  # fmt: skip
        return list(times)

    def operators(self) -> list[str]:
        """Names of the operators that `times_us` are of. XNNPACK leaves some nodes out, such as idle reshapes."""
        size = ctypes.c_size_t()
        names = ctypes.create_string_buffer(1 << 20)
        self._call(
            "xnn_get_runtime_profiling_info", self._runtime, _NAMES, ctypes.c_size_t(len(names)), names,
            ctypes.byref(size),
        )  # fmt: skip
        return names.raw.split(b"\0\0")[0].decode().split("\0")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._library.xnn_delete_runtime(self._runtime)
        self._library.xnn_delete_subgraph(self._subgraph)

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            raise RuntimeError(f"{name} failed with status {status}")

    def _array(self, value: int) -> Any:
        """Memory for an external value: random bytes, which are any numbers; floats between 0 and 1."""
        tensor = described_by(self._values[value])
        count, kind = math.prod(tensor.dims), tensor.datatype.name.removeprefix("xnn_datatype_")
        random = np.random.default_rng(0)
        if kind == "fp32":
            return random.random(count + EXTRA_BYTES, np.float32)
        return random.integers(0, 256, count * _BYTES[kind] + EXTRA_BYTES, np.uint8)

    def _constant(self, place: int) -> Any:
        entry = self._graph.constant_data[place]
        return ctypes.c_void_p(self._kept[0].ctypes.data + entry.offset)

    def _define(self, value: int, external: int = INVALID, flags: int = 0) -> int:
        union = self._values[value]
        tensor, params = described_by(union), getattr(union, "quant_params", None)
        kind = _TYPES[tensor.datatype.name.removeprefix("xnn_datatype_")]
        dims = (ctypes.c_size_t * len(tensor.dims))(*tensor.dims)
        data = self._constant(tensor.constant_buffer_idx) if tensor.constant_buffer_idx else ctypes.c_void_p()
        made = ctypes.c_uint32()
        end = (dims, data, _u(external), _u(flags), ctypes.byref(made))
        rank = ctypes.c_size_t(len(tensor.dims))
        if params is None:
            self._call("xnn_define_tensor_value", self._subgraph, kind, rank, *end)
        elif hasattr(params, "channel_dim"):
            scales = self._constant(params.scale_buffer_idx)
            axis = ctypes.c_size_t(params.channel_dim)
            self._call("xnn_define_channelwise_quantized_tensor_value", self._subgraph, kind, scales, rank, axis, *end)
        else:
            scale = ctypes.c_float(params.scale)
            self._call("xnn_define_quantized_tensor_value", self._subgraph, kind, params.zero_point, scale, rank, *end)
        self._ids[value] = made.value
        return made.value

    def _id(self, value: int) -> ctypes.c_uint32:
        if value not in self._values:
            return _u(INVALID)
        return _u(self._ids[value] if value in self._ids else self._define(value))

    def _node(self, node: Any) -> None:
        call, limits = node.xnode_union, node.output_min_max
        low, high = (-math.inf, math.inf) if limits is None else (limits.output_min, limits.output_max)
        bounds = (ctypes.c_float(float(low)), ctypes.c_float(float(high)))
        name = type(call).__name__.removeprefix("XNN")
        function, arguments = _CALLS[name](call, bounds, self._id)
        self._call(function, self._subgraph, *arguments, _u(call.flags))


class _External(ctypes.Structure):
    _fields_ = (("id", ctypes.c_uint32), ("data", ctypes.c_void_p))


def _library() -> Any:
    from executorch.extension.pybindings import _portable_lib

    library = ctypes.CDLL(str(_portable_lib.__file__))
    if library.xnn_initialize(None):
        raise RuntimeError("XNNPACK does not know this processor")
    return library


def use_threads(count: int) -> None:
    """How many threads ExecuTorch's pool has from now on, in the whole process."""
    from executorch.extension.pybindings import _portable_lib

    _portable_lib._unsafe_reset_threadpool(count)


def _u(value: int) -> ctypes.c_uint32:
    return ctypes.c_uint32(value)


def described_by(union: Any) -> Any:
    """The shape and type of a value, quantized or not."""
    return getattr(union, "tensor_value", union)


def described(value: Any) -> Any:
    """The same, of an `XValue`."""
    return described_by(value.xvalue_union)


def reads(call: Any) -> Iterator[int]:
    """The values that a node reads, its weights among them."""
    for field, value in vars(call).items():
        if field.endswith("_id") and field != "output_id":
            yield value


def _border(graph: Any, nodes: list[Any], values: dict[int, Any]) -> tuple[list[int], list[int]]:
    """What the nodes read that none of them makes, and what they make that is read outside of them."""
    made = [node.xnode_union.output_id for node in nodes]
    read = dict.fromkeys(value for node in nodes for value in reads(node.xnode_union))
    inputs = [
        value
        for value in read
        if value not in made and value in values and not described_by(values[value]).constant_buffer_idx
    ]
    inside = {id(node) for node in nodes}
    outside = {value for node in graph.xnodes if id(node) not in inside for value in reads(node.xnode_union)}
    return inputs, [value for value in made if value in outside or value in graph.output_ids]


def _convolution(call: Any, bounds: Any, of: Callable[[int], Any]) -> tuple[str, tuple[Any, ...]]:
    sides = [getattr(call, f"padding_{side}") for side in ("top", "right", "bottom", "left")]
    shape = [
        getattr(call, f"{what}_{axis}")
        for what in ("kernel", "subsampling", "dilation")
        for axis in ("height", "width")
    ]
    channels = (ctypes.c_size_t(call.group_input_channels), ctypes.c_size_t(call.group_output_channels))
    ids = (of(call.input1_id), of(call.filter_id), of(call.bias_id), of(call.output_id))
    return "xnn_define_convolution_2d", (*map(_u, [*sides, *shape, call.groups]), *channels, *bounds, *ids)


def _fully_connected(call: Any, bounds: Any, of: Callable[[int], Any]) -> tuple[str, tuple[Any, ...]]:
    ids = (of(call.input1_id), of(call.filter_id), of(call.bias_id), of(call.output_id))
    return "xnn_define_fully_connected", (*bounds, *ids)


def _pool(name: str, fields: tuple[str, ...]) -> Callable[..., tuple[str, tuple[Any, ...]]]:
    def arguments(call: Any, bounds: Any, of: Callable[[int], Any]) -> tuple[str, tuple[Any, ...]]:
        sides = [getattr(call, f"padding_{side}") for side in ("top", "right", "bottom", "left")]
        shape = [getattr(call, f"{what}_{axis}") for what in fields for axis in ("height", "width")]
        return name, (*map(_u, [*sides, *shape]), *bounds, of(call.input_id), of(call.output_id))

    return arguments


def _one(name: str, *, bounded: bool = False) -> Callable[..., tuple[str, tuple[Any, ...]]]:
    def arguments(call: Any, bounds: Any, of: Callable[[int], Any]) -> tuple[str, tuple[Any, ...]]:
        return name, (*(bounds if bounded else ()), of(call.input_id), of(call.output_id))

    return arguments


def _two(name: str, *, bounded: bool = True) -> Callable[..., tuple[str, tuple[Any, ...]]]:
    def arguments(call: Any, bounds: Any, of: Callable[[int], Any]) -> tuple[str, tuple[Any, ...]]:
        return name, (*(bounds if bounded else ()), of(call.input1_id), of(call.input2_id), of(call.output_id))

    return arguments


def _sizes(values: Any) -> Any:
    return (ctypes.c_size_t * len(values))(*values)


def _concatenation(count: int) -> Callable[..., tuple[str, tuple[Any, ...]]]:
    def arguments(call: Any, bounds: Any, of: Callable[[int], Any]) -> tuple[str, tuple[Any, ...]]:
        ids = [of(getattr(call, f"input{place + 1}_id")) for place in range(count)]
        return f"xnn_define_concatenate{count}", (ctypes.c_int32(call.axis), *ids, of(call.output_id))

    return arguments


def _moved(name: str, *fields: str) -> Callable[..., tuple[str, tuple[Any, ...]]]:
    def arguments(call: Any, bounds: Any, of: Callable[[int], Any]) -> tuple[str, tuple[Any, ...]]:
        lists = [_sizes(getattr(call, field)) for field in fields]
        rank = () if name.endswith("pad") else (ctypes.c_size_t(len(lists[0])),)
        value = (ctypes.c_float(call.padding_value),) if name.endswith("pad") else ()
        return name, (*rank, *lists, *value, of(call.input_id), of(call.output_id))

    return arguments


_CALLS: dict[str, Callable[..., tuple[str, tuple[Any, ...]]]] = {
    "Conv2d": _convolution,
    "FullyConnected": _fully_connected,
    "MaxPooling2d": _pool("xnn_define_max_pooling_2d", ("pooling", "stride", "dilation")),
    "AvgPooling2d": _pool("xnn_define_average_pooling_2d", ("pooling", "stride")),
    "GlobalAvgPooling2d": _one("xnn_define_global_average_pooling_2d", bounded=True),
    "Convert": _one("xnn_define_convert"),
    "Sigmoid": _one("xnn_define_sigmoid"),
    "Add": _two("xnn_define_add2"),
    "Multiply": _two("xnn_define_multiply2"),
    "Maximum": _two("xnn_define_maximum2", bounded=False),
    "Copy": _one("xnn_define_copy"),
    "Concatenate2": _concatenation(2),
    "Concatenate3": _concatenation(3),
    "Concatenate4": _concatenation(4),
    "StaticReshape": _moved("xnn_define_static_reshape", "new_shape"),
    "StaticTranspose": _moved("xnn_define_static_transpose", "perm"),
    "StaticSlice": _moved("xnn_define_static_slice", "offsets", "sizes"),
    "StaticConstantPad": _moved("xnn_define_static_constant_pad", "pre_paddings", "post_paddings"),
}
