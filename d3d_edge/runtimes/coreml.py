"""Core ML: lowers to an ML Program for iPhone and iPad; runs it by Core ML on macOS, by an interpreter elsewhere.

The program computes in float16 between its int8 tensors, which is what the Neural Engine does; float32 would keep it
off the Neural Engine altogether. Its input is float16 too, because Core ML has no uint8 arrays: 0 to 255 are exact in
float16, no cast stands before the first operator, and a clip takes half the bytes of int32 or float32.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import platform
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from d3d_edge import __version__
from d3d_edge.bundle import Bundle
from d3d_edge.errors import BundleError, DataError, LoweringError, RecipeError, StorageError
from d3d_edge.files import size_of
from d3d_edge.quantize import placement
from d3d_edge.quantize.origin import layer_of
from d3d_edge.runner import Where
from d3d_edge.runtimes import Lowered, coreml_checks, settle
from d3d_edge.runtimes.mil import READ_ERRORS, MilProgram, coremltools, quiet
from d3d_edge.target import Precision, Target

MODEL = "model.mlpackage"
INPUT, OUTPUT = "clip", "logits"
"""Names of the model's features, for the app."""

_OPTION = "minimum_deployment_target"
_DEPLOYMENT_TARGETS = ("iOS17", "iOS18")
"""iOS 17 is the first with `quantize` and `dequantize` (coremltools, ops/defs/iOS17/quantization_ops.py)."""

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

The others take as long again: the whole program is validated after each. A test compares the result with theirs.
"""

_aten = torch.ops.aten

Predict = Callable[[NDArray[Any]], NDArray[Any]]
"""From a clip [T, H, W, C] to logits [1, classes]."""


class CoreML:
    """The runtime `coreml`; see `d3d_edge.runtimes.Runtime`."""

    def check_lower(self) -> None:
        """Raises MissingDependency if coremltools is missing."""
        coremltools()

    def check_run(self) -> None:
        """Raises MissingDependency if coremltools is missing; off macOS it reads the package for the interpreter."""
        coremltools()

    def tools(self) -> dict[str, str]:
        """Versions of the packages that lowering uses."""
        return {name: metadata.version(name) for name in ("coremltools", "torch")}

    def run_tools(self) -> dict[str, str]:
        """Versions of the packages that run a bundle on this machine."""
        return {name: metadata.version(name) for name in ("coremltools", "torch")}

    def lower(
        self,
        program: ExportedProgram,
        folder: Path,
        target: Target,
        *,
        precision: Precision,
        allow_fallback: bool = False,
    ) -> Lowered:
        """Write `model.mlpackage`, of input `clip: float16 [T, H, W, C]` and output `logits: float16 [1, classes]`.

        Raises:
            MissingDependency: coremltools is missing.
            RecipeError: the target's options are wrong.
            LoweringError: the program would leave the Neural Engine or not load (`coreml_checks`, and
                `quantize.placement`), or coremltools cannot convert it.
            StorageError: coremltools cannot write its temporary files.
        """
        ct = coremltools()
        deployment = _deployment_target(ct, target)
        allowed = settle(coreml_checks.of_graph(program), allow_fallback=allow_fallback)
        model = _convert(ct, program, deployment)
        if precision == "weights-int8":
            model = _with_int8_weights(ct, model)
        package = folder / MODEL
        spec = _save(ct, model, package)
        layers = {node.name: layer_of(node) for node in program.graph.nodes}
        allowed += settle(coreml_checks.of_program(spec, deployment, layers), allow_fallback=allow_fallback)
        (block,) = spec.mlProgram.functions["main"].block_specializations.values()
        counts = Counter(op.type for op in block.operations if op.type != "const")
        return Lowered(
            MODEL,
            {
                "specification_version": int(spec.specificationVersion),
                "operators": sum(n for name, n in counts.items() if not name.startswith("constexpr_")),
                "int8_weights": sum(n for name, n in counts.items() if name.startswith("constexpr_")),
                "quantize_operators": counts["quantize"],
                "transposes": counts["transpose"],
                "size_bytes": size_of(package),
            },
            allowed,
        )

    def open(self, bundle: Bundle, *, threads: int = 0) -> CoreMLRunner:
        """Load a bundle's package: by Core ML on macOS, which chooses its own threads, else by the interpreter.

        The interpreter's `threads` hold for the whole process: PyTorch has one thread pool.

        Raises:
            MissingDependency: coremltools is missing.
            BundleError: the package is damaged, does not take the bundle's clips, or holds an unknown operator.
        """
        ct = coremltools()
        if platform.system() == "Darwin":
            runtime = f"Core ML (macOS {platform.mac_ver()[0]})"
            return CoreMLRunner(bundle, _by_core_ml(ct, bundle), Where.HOST_RUNTIME, runtime, threads=0)
        predict = _by_interpreter(bundle)
        if threads:
            torch.set_num_threads(threads)
        runtime = f"MIL interpreter, d3d-edge {__version__} over torch {torch.__version__}"
        return CoreMLRunner(bundle, predict, Where.REFERENCE_INTERPRETER, runtime, torch.get_num_threads())


class CoreMLRunner:
    """A loaded package; see `d3d_edge.runner.Runner`."""

    def __init__(self, bundle: Bundle, predict: Predict, where: Where, runtime: str, threads: int) -> None:
        self.where, self.runtime, self.threads = where, runtime, threads
        self.inputs = (bundle.manifest.input,)
        self.outputs = (bundle.manifest.output,)
        self._predict: Predict | None = predict

    def run(self, clip: NDArray[Any]) -> NDArray[Any]:
        """Logits float32 [classes] of `clip: uint8 [T, H, W, C] RGB`.

        Raises:
            DataError: the clip has another shape or type, or the runner is closed.
        """
        wanted = self.inputs[0]
        if str(clip.dtype) != wanted.dtype or clip.shape != wanted.shape:
            raise DataError(f"the model takes {wanted.dtype} {wanted.shape}, the clip is {clip.dtype} {clip.shape}")
        if self._predict is None:
            raise DataError("the model is closed")
        return self._predict(clip).astype(np.float32).reshape(-1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._predict = None


def _deployment_target(ct: ModuleType, target: Target) -> Any:
    unknown = sorted(set(target.options) - {_OPTION})
    if unknown:
        raise RecipeError(f"target {target.name}: Core ML knows no option {unknown[0]!r}", hint=f"it knows {_OPTION}")
    name = target.options.get(_OPTION)
    if name not in _DEPLOYMENT_TARGETS:
        raise RecipeError(f"target {target.name}: {_OPTION} is {name!r}, not one of {', '.join(_DEPLOYMENT_TARGETS)}")
    return getattr(ct.target, str(name))


def _convert(ct: ModuleType, program: ExportedProgram, deployment: Any) -> Any:
    """coremltools' model of `program`, not loaded into Core ML."""
    with quiet(), _no_progress_bars(), _tree_spec_warnings_ignored():
        try:
            return ct.convert(
                _as_coremltools_takes_it(program),
                minimum_deployment_target=deployment,
                compute_precision=ct.precision.FLOAT16,
                pass_pipeline=ct.PassPipeline([f"common::{name}" for name in _PASSES], "d3d-edge"),
                skip_model_load=True,
            )
        except READ_ERRORS as error:
            reason = " ".join(str(error).split())
            version = f"coremltools {ct.__version__}"
            # Without the traceback, whose frames would keep coremltools' temporary folder.
            cause = error.with_traceback(None)
            if isinstance(error, OSError) or "FileWriter" in reason:
                raise StorageError(
                    f"coremltools cannot write the weights: {reason}", hint="is the folder for temporary files full?"
                ) from cause
            layer, operator = placement.blamed(program, reason)
            raise LoweringError(
                f"coremltools cannot convert it: {reason}",
                stage="convert",
                layer=layer,
                operator=operator,
                runtime=version,
                hint="write the layer with the operators of d3d_edge.models.layers",
            ) from cause


def _with_int8_weights(ct: ModuleType, model: Any) -> Any:
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

    `run_decompositions({})` would do the former, but traces the whole network again, which takes a third of the time
    of an export, to write these few operators in another way. One that is missing here is refused by coremltools.
    """
    graph = copy.deepcopy(program.graph_module)
    for node in list(graph.graph.nodes):
        if node.op == "placeholder" and node.name in program.graph_signature.user_inputs:
            node.meta["val"] = node.meta["val"].to(torch.float16)
        elif node.target is _aten._assert_tensor_metadata.default:
            graph.graph.erase_node(node)  # It says that the input is uint8.
        elif node.target is _aten.to.dtype:
            node.target, node.args, node.kwargs = _aten._to_copy.default, node.args[:1], {"dtype": node.args[1]}
        elif node.target is _aten.flatten.using_ints:
            node.target, node.args = _aten.view.default, (node.args[0], list(node.meta["val"].shape))
        elif node.target is _aten.narrow.default:
            x, axis, start, length = node.args
            node.target, node.args = _aten.slice.Tensor, (x, axis, start, start + length)
        elif node.target is _aten.pad.default and node.args[2:3] in ((), ("constant",)):
            node.target, node.args = _aten.constant_pad_nd.default, (*node.args[:2], *node.args[3:])
    return ExportedProgram(
        graph,
        graph.graph,
        program.graph_signature,
        program.state_dict,
        program.range_constraints,
        program.module_call_graph,
        constants=program.constants,
    )


def _save(ct: ModuleType, model: Any, package: Path) -> Any:
    """Write the package, the same bytes for the same model each time, and return its specification."""
    spec = model.get_spec()
    for feature, name in ((spec.description.input[0], INPUT), (spec.description.output[0], OUTPUT)):
        ct.utils.rename_feature(spec, feature.name, name)
    spec.description.metadata.userDefined.pop("com.github.apple.coremltools.conversion_date", None)
    with quiet():
        ct.models.utils.save_spec(spec, str(package), weights_dir=model.weights_dir)
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


def _by_interpreter(bundle: Bundle) -> Predict:
    program = MilProgram.load(bundle.model_path)
    (source,), (result,) = program.inputs, program.outputs
    if source.shape != bundle.manifest.input.shape:
        shapes = f"{list(source.shape)}, the manifest says {list(bundle.manifest.input.shape)}"
        raise BundleError(f"{bundle.model_path} takes {shapes}", hint="export the bundle again")

    def predict(clip: NDArray[Any]) -> NDArray[Any]:
        return program.run({source.name: clip})[result.name]

    return predict


def _by_core_ml(ct: ModuleType, bundle: Bundle) -> Predict:
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # coremltools only warns where Core ML refuses a package.
            model = ct.models.MLModel(str(bundle.model_path))
    except (*READ_ERRORS, RuntimeWarning) as error:
        reason = " ".join(str(error).split())
        raise BundleError(f"{bundle.model_path} cannot be loaded: {reason}", hint="export the bundle again") from error
    if model.__proxy__ is None:  # It says nothing at all where the package is newer than the system.
        raise BundleError(f"{bundle.model_path} is newer than this macOS", hint="iOS17 needs macOS 14, iOS18 macOS 15")

    def predict(clip: NDArray[Any]) -> NDArray[Any]:
        # coremltools takes float32 for a float16 feature, and lets Core ML round it.
        logits: NDArray[Any] = model.predict({INPUT: clip.astype(np.float32)})[OUTPUT]
        return logits

    return predict


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


RUNTIME = CoreML()
