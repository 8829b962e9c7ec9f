"""What keeps an ML Program from loading on the chosen iOS, or off the Neural Engine. Part of the Core ML runtime."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from d3d_edge.errors import LoweringError
from d3d_edge.quantize import nodes, placement, values

RUNTIME = "Core ML"

_aten = torch.ops.aten
_WIDENED = (_aten.group_norm.default, _aten.native_group_norm.default)
"""What coremltools 9 writes with an axis more, and names after itself."""
_CASTS = (_aten.to.dtype, _aten.to.dtype_layout, _aten._to_copy.default)
_MOVES = placement.MOVING | {_aten.cat.default, _aten.expand.default, _aten.flip.default, _aten.select.int}


def of_graph(program: ExportedProgram) -> Iterator[LoweringError]:
    """Faults of the graph: those of every runtime, and what float16 or the Neural Engine cannot hold."""
    yield from placement.faults(program, RUNTIME)
    yield from values.weight_grids(program, RUNTIME)
    yield from values.beyond_float16(program, RUNTIME)
    yield from values.ranges_beyond_float16(program, RUNTIME)
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if node.target in _WIDENED and isinstance(value, torch.Tensor) and value.dim() == placement.MAX_RANK:
            message = f"coremltools writes {node.name} with {value.dim() + 1} axes, which leaves the Neural Engine"
            yield nodes.refusal(node, message, "use a batch norm instead", runtime=RUNTIME)
        if _computes_bytes(node):
            message = f"{node.name} computes with bytes, which are float16 in a package and do not wrap at 256"
            yield nodes.refusal(node, message, "begin the network with clip.to(torch.float32)", runtime=RUNTIME)


def _computes_bytes(node: Node) -> bool:
    """Whether `node` makes integers of uint8 by more than a move or a cast. Floats of bytes are as exact."""
    found = (node.meta.get("val"), *(source.meta.get("val") for source in node.all_input_nodes))
    given, *read = (value.dtype if isinstance(value, torch.Tensor) else None for value in found)
    if torch.uint8 not in read or node.target in _MOVES or given is None or given.is_floating_point:
        return False
    return node.target not in _CASTS or given is torch.int8


def of_program(spec: Any, deployment: Any, layers: Mapping[str, str]) -> Iterator[LoweringError]:
    """Faults of the specification of an ML Program for `deployment`, a coremltools target such as ct.target.iOS17.

    `layers` are those of the graph, by the name of the operator's output.
    """
    functions = spec.mlProgram.functions.values()
    iOS, newer = deployment.name, f"choose {deployment.name} or newer"
    opset = f"CoreML{deployment.value - 1}"  # ct.target.iOS17 is 8, and its operators are CoreML7.
    sets = {name for function in functions for name in (function.opset, *function.block_specializations)}
    sets = sets or {"none"}
    for name in sorted(sets - {opset}):
        yield _fault(f"the program is of the operator set {name}, {iOS} reads {opset}", newer)
    if spec.specificationVersion > deployment.value and sets == {opset}:
        yield _fault(f"the package is of version {spec.specificationVersion}, {iOS} reads {deployment.value}", newer)
    loose = [
        *(f"input {one.name}" for one in spec.description.input if _varies(one)),
        *(f"output {one.name}" for one in spec.description.output if _varies(one)),
        *(f"argument {one.name}" for function in functions for one in function.inputs if _is_unknown(one)),
    ]
    for what in loose:
        yield _fault(f"the {what} has no fixed shape", "export the network for one clip shape")
    for block in (block for function in functions for block in function.block_specializations.values()):
        for op in _operators(block):
            name = op.outputs[0].name if op.outputs else ""
            layer = next((layers[one] for one in _beginnings(name) if one in layers), "")
            for message, hint in _of_operator(op, name, deployment):
                yield _fault(message, hint, layer, op.type)


def _varies(feature: Any) -> bool:
    return bool(feature.type.multiArrayType.WhichOneof("ShapeFlexibility"))


def _is_unknown(value: Any) -> bool:
    return any(axis.WhichOneof("dimension") == "unknown" for axis in _axes(value))


def _of_operator(op: Any, name: str, deployment: Any) -> Iterator[tuple[str, str]]:
    since = _first_deployment(op.type)
    if since is None or since.value > deployment.value:
        needed = "no version of iOS" if since is None else since.name
        remedy = f"--set minimum_deployment_target={needed}" if since else "write the layer otherwise"
        yield f"{deployment.name} does not have the operator {name}; {needed} has", remedy
    if any(map(_is_unknown, op.outputs)):
        message = f"the tensor {name} has no static shape, which leaves the Neural Engine"
        yield message, "export the network for one clip shape"
    rank = max((len(_axes(out)) for out in op.outputs), default=0)
    if rank > placement.MAX_RANK and op.type != "const":
        message = f"coremltools makes a tensor of {rank} axes of it, {name}, which leaves the Neural Engine"
        yield message, f"write the layer with operators of at most {placement.MAX_RANK} axes"


def _operators(block: Any) -> Iterator[Any]:
    """Those of a block, and of the blocks inside it, such as the branches of a condition."""
    for op in block.operations:
        yield op
        for inner in op.blocks:
            yield from _operators(inner)


def _axes(value: Any) -> Any:
    return value.type.tensorType.dimensions


def _beginnings(name: str) -> Iterator[str]:
    """`name`, and what is left as parts behind an underscore go: coremltools adds its own to a node's name."""
    while name:
        yield name
        name = name.rpartition("_")[0]


def _first_deployment(operator: str) -> Any | None:
    """The first coremltools target whose operator set has `operator`, or None."""
    from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

    versions = SSAOpRegistry.core_ops.get(operator)
    return min(versions, key=lambda target: target.value) if versions else None


def _fault(message: str, hint: str, layer: str = "", operator: str = "") -> LoweringError:
    version = f"coremltools {metadata.version('coremltools')}"
    return LoweringError(message, stage="check", layer=layer, operator=operator, runtime=version, hint=hint)
