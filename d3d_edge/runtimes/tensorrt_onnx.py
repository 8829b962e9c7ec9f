"""A graph written as ONNX by PyTorch's exporter, with the names of its layers. Part of the TensorRT runtime."""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import TYPE_CHECKING

import torch
from torch.export import ExportedProgram

from d3d_edge.errors import LoweringError, first_line
from d3d_edge.quantize import nodes
from d3d_edge.quantize.origin import layer_of
from d3d_edge.quantize.quiet import quiet
from d3d_edge.runtimes.quick_onnx import decomposed_by_hand, patterns_tried_where_they_begin

if TYPE_CHECKING:
    import onnx


def to_onnx(program: ExportedProgram, opset: int, *, input_name: str, output_name: str) -> onnx.ModelProto:
    """`program` as ONNX, weights inside, each node named layer/operator, and no path of this machine.

    The exporter may write another operator set than it is asked for.

    Raises:
        LoweringError: it cannot be written.
    """
    from torch.onnx import OnnxExporterError

    # The exporter notes that torchvision's operators are missing, which are not used; and its converter of operator
    # sets where it failed, which is told in one line.
    with (
        quiet("torch.onnx"),
        quiet("onnxscript", logging.CRITICAL),
        patterns_tried_where_they_begin(),
        decomposed_by_hand(),
        _layers_in_scopes(program),
    ):
        try:
            exported = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=opset,
                input_names=[input_name],
                output_names=[output_name],
                external_data=False,
                verbose=False,
            )
        except OnnxExporterError as error:
            raise _not_written(program, error) from error
    if exported is None:
        raise LoweringError("the graph cannot be written as ONNX", stage="to ONNX", runtime=version())
    model: onnx.ModelProto = exported.model_proto
    _name_nodes(model)
    # The exporter notes on each node where in the Python source it came from: machine paths, several times the weights.
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    for part in (
        *model.graph.node,
        *model.graph.input,
        *model.graph.output,
        *model.graph.value_info,
        *model.graph.initializer,
    ):
        del part.metadata_props[:]
        part.doc_string = ""
    return model


def _not_written(program: ExportedProgram, error: Exception) -> LoweringError:
    """The exporter's own first line says that it failed; its cause names the operator, and what that reads."""
    reason = first_line(error.__cause__ or error)
    layer, operator = nodes.blamed(program, reason)
    if found := re.search(r"target=torch\.ops\.([\w.]+)\]\(args = \(%(\w+)", reason):
        operator = found[1]
        readers = [user for node in program.graph.nodes if node.name == found[2] for user in node.users]
        layer = layer_of(readers[0]) if len(readers) == 1 else layer
        reason = "the exporter does not know this operator"
    return LoweringError(
        f"the graph cannot be written as ONNX: {reason}",
        stage="to ONNX",
        layer=layer,
        operator=operator,
        runtime=version(),
        hint="write the layer with operators that ONNX has",
    )


@contextmanager
def _layers_in_scopes(program: ExportedProgram) -> Iterator[None]:
    """Give the exporter the layer of each operator where it looks for scopes; its own passes then carry them along."""
    before = {}
    for node in program.graph.nodes:
        # A graph that was read from a file has an empty one.
        if not node.meta.get("nn_module_stack") and (layer := layer_of(node)):
            before[node] = dict(node.meta)
            node.meta["nn_module_stack"] = {layer: (layer, "torch.nn.Module")}
    try:
        yield
    finally:
        for node, meta in before.items():
            node.meta = meta


def _name_nodes(model: onnx.ModelProto) -> None:
    """Name each node layer/operator: TensorRT's profile shows these names, and so do refusals."""
    for node in model.graph.node:
        notes = {note.key: note.value for note in node.metadata_props}
        scopes = ast.literal_eval(notes.get("pkg.torch.onnx.name_scopes", "[]"))
        layer = scopes[-2] if len(scopes) > 1 else ""
        node.name = f"{layer}/{node.output[0]}" if layer else node.name


def version() -> str:
    """What writes and checks the file, for messages."""
    return f"onnx {metadata.version('onnx')}"
