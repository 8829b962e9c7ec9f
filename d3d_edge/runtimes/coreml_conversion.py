"""Makes a Core ML package of a graph by coremltools. Checks nothing of it and runs nothing."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch._export.verifier import SpecViolationError
from torch.export import ExportedProgram
from torch.fx import Node

from d3d_edge.errors import LoweringError, StorageError
from d3d_edge.quantize import nodes
from d3d_edge.quantize.passes import core_aten
from d3d_edge.runtimes.mil import READ_ERRORS, quiet
from d3d_edge.runtimes.quick_coreml import types_described_once, validated_at_the_end

INPUT, OUTPUT = "clip", "logits"
"""Names of the model's features, for the app."""

_PASSES = (
    *("update_output_dtypes", "cast_optimization", "noop_elimination"),
    *("int_op_canonicalization", "nullify_redundant_quantization_zero_point", "dequantize_quantize_pair_elimination"),
    *("dequantize_to_constexpr", "const_elimination", "sanitize_input_output_names", "const_deduplication"),
    *("fuse_linear_bias", "fuse_conv_batchnorm", "fuse_conv_scale", "fuse_conv_bias", "merge_consecutive_paddings"),
    *("reduce_transposes", "merge_consecutive_reshapes", "merge_consecutive_transposes", "remove_redundant_ops"),
    *("dedup_op_and_var_names", "add_fp16_cast", "update_output_dtypes", "const_elimination"),
    *("dead_code_elimination", "cast_optimization", "dead_code_elimination", "const_deduplication"),
    *("noop_elimination", "dedup_op_and_var_names", "reduce_transposes", "topological_reorder"),
    "dead_code_elimination",
)
"""Those of coremltools' 95 graph passes, in its order, that find something to do in these networks.

A test compares the result with that of all.
"""

_aten = torch.ops.aten
_SUMS: dict[Any, int] = {_aten.add.Tensor: 1, _aten.sub.Tensor: 1, _aten.rsub.Tensor: 0}
"""Operators that have a factor `alpha`, and which of their arguments is multiplied by it."""


def convert(ct: ModuleType, program: ExportedProgram, deployment: Any) -> Any:
    """coremltools' model of `program`, not loaded into Core ML."""
    # coremltools numbers its names anew when a conversion has succeeded, and so not when the one before failed.
    ct.converters.mil.Builder.name_count.clear()
    with quiet(), _no_progress_bars(), _tree_spec_warnings_ignored():
        try:
            with validated_at_the_end(ct), types_described_once(ct):
                return ct.convert(
                    _as_coremltools_takes_it(program),
                    minimum_deployment_target=deployment,
                    compute_precision=ct.precision.FLOAT16,
                    pass_pipeline=ct.PassPipeline([f"common::{name}" for name in _PASSES], "d3d-edge"),
                    skip_model_load=True,
                )
        except (*READ_ERRORS, SpecViolationError) as error:
            reason = " ".join(str(error).split())
            version = f"coremltools {ct.__version__}"
            # Without the traceback, whose frames would keep coremltools' temporary folder.
            cause = error.with_traceback(None)
            if isinstance(error, OSError) or "FileWriter" in reason:
                raise StorageError(
                    f"coremltools cannot write the weights: {reason}", hint="is the folder for temporary files full?"
                ) from cause
            layer, operator = nodes.blamed(program, reason)
            raise LoweringError(
                f"coremltools cannot convert it: {reason}",
                stage="convert",
                layer=layer,
                operator=operator,
                runtime=version,
                hint="write the layer with the operators of d3d_edge.models.layers",
            ) from cause


def with_int8_weights(ct: ModuleType, model: Any) -> Any:
    """`model` with the weights of its convolutions rounded to INT8, per output channel, by coremltools' optimiser.

    All of them, not only those of more than 2048 elements: a narrow network has few such.
    """
    optimiser = ct.optimize.coreml
    symmetric = optimiser.OpLinearQuantizerConfig(mode="linear_symmetric", dtype="int8", weight_threshold=0)
    config = optimiser.OptimizationConfig(op_type_configs={"conv": symmetric, "linear": symmetric})
    with quiet(), _no_progress_bars():
        return optimiser.linear_quantize_weights(model, config=config)


def _as_coremltools_takes_it(program: ExportedProgram) -> ExportedProgram:
    """A copy of `program` in the ATEN dialect, with its uint8 input declared float16: the same numbers.

    An operator that `core_aten` does not know is refused by coremltools.
    """
    graph = copy.deepcopy(program.graph_module)
    for node in list(graph.graph.nodes):
        if node.op == "placeholder" and node.name in program.graph_signature.user_inputs:
            node.meta["val"] = node.meta["val"].to(torch.float16)
        elif node.target is _aten._assert_tensor_metadata.default:
            graph.graph.erase_node(node)  # It says that the input is uint8.
        elif node.target is _aten.detach_.default:
            node.replace_all_uses_with(node.args[0])  # It comes with a constant that `forward` makes.
            graph.graph.erase_node(node)
        elif written := core_aten(node):
            node.target, node.args, node.kwargs = written
        elif "alpha" in node.kwargs and node.target in _SUMS:
            _multiply_by_alpha(node)
    return ExportedProgram(
        graph,
        graph.graph,
        program.graph_signature,
        program.state_dict,
        program.range_constraints,
        program.module_call_graph,
        constants=program.constants,
    )


def _multiply_by_alpha(node: Node) -> None:
    """Let a sum have its factor as a product of its own. coremltools 9 leaves it out without a word."""
    place = _SUMS[node.target]
    other: Any = node.args[place]
    alpha: Any = node.kwargs["alpha"]
    product: Any
    if isinstance(other, Node):
        with node.graph.inserting_before(node):
            product = node.graph.call_function(_aten.mul.Tensor, (other, alpha))
        product.meta = {**node.meta, "val": other.meta["val"] * alpha}
    else:
        product = other * alpha
    node.update_arg(place, product)
    node.kwargs = {}


def save(ct: ModuleType, model: Any, package: Path) -> Any:
    """Write the package, the same bytes for the same graph each time, and return its specification."""
    spec = model.get_spec()
    for feature, name in ((spec.description.input[0], INPUT), (spec.description.output[0], OUTPUT)):
        ct.utils.rename_feature(spec, feature.name, name)
    spec.description.metadata.userDefined.pop("com.github.apple.coremltools.conversion_date", None)
    with quiet():
        ct.models.utils.save_spec(spec, str(package), weights_dir=model.weights_dir)
    (model_file,) = package.rglob("*.mlmodel")
    # As it was written, what has names would be in another order in each process.
    written = type(spec).FromString(model_file.read_bytes())
    model_file.write_bytes(written.SerializeToString(deterministic=True))
    _name_items(package / "Manifest.json")
    return spec


def _name_items(manifest: Path) -> None:
    """Replace the random identifiers of a package's two items by ones made from their paths."""
    data = json.loads(manifest.read_text(encoding="utf-8"))
    items = data["itemInfoEntries"]
    names = {key: str(uuid.uuid5(uuid.NAMESPACE_URL, item["path"])) for key, item in items.items()}
    data["itemInfoEntries"] = {names[key]: items[key] for key in sorted(items, key=names.__getitem__)}
    data["rootModelIdentifier"] = names[data["rootModelIdentifier"]]
    manifest.write_text(json.dumps(data, indent=4) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _no_progress_bars() -> Iterator[None]:
    """coremltools 9 draws tqdm bars on the error stream and has no switch for them."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield


@contextlib.contextmanager
def _tree_spec_warnings_ignored() -> Iterator[None]:
    """torch 2.13 warns of its own use of LeafSpec when a program is copied."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
        yield
