"""TensorRT 11 has no calibrators, precision flags or weak typing: nothing here may use what it removed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for folder in ("d3d_edge", "targets") for path in (ROOT / folder).rglob("*.py"))

REMOVED = {
    *("IInt8Calibrator", "IInt8EntropyCalibrator", "IInt8EntropyCalibrator2", "IInt8LegacyCalibrator"),
    *("IInt8MinMaxCalibrator", "CalibrationAlgoType", "int8_calibrator", "set_calibration_profile"),
    *("get_calibration_profile", "set_quantization_flag", "get_quantization_flag", "clear_quantization_flag"),
    *("quantization_flags", "QuantizationFlag", "set_dynamic_range", "dynamic_range", "reset_dynamic_range"),
    *("platform_has_fast_fp16", "platform_has_fast_int8", "IAlgorithmSelector", "algorithm_selector"),
    *("OBEY_PRECISION_CONSTRAINTS", "PREFER_PRECISION_CONSTRAINTS", "DIRECT_IO", "EXPLICIT_BATCH"),
    *("precision_is_set", "reset_precision", "set_output_type", "output_type_is_set", "reset_output_type"),
    *("device_memory_size", "create_execution_context_without_device_memory", "Calibrator"),
}
"""Names of the Python API that the migration guide from 10.x to 11.x lists, or that went with 10.0 or weak typing."""
FLAGS = {"INT8", "FP16", "BF16", "FP8", "INT4", "FP4"}
"""Of `BuilderFlag`, all removed."""
ARGUMENTS = {"int8", "fp16", "bf16", "fp8", "calibrator", "obey_precision_constraints", "algorithm_selector"}
"""Of Polygraphy's `CreateConfig` and trtexec's wrappers; they set those flags."""


def removed(source: str) -> Iterator[str]:
    """What `source` uses of it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value)
            if node.attr in REMOVED or (node.attr in FLAGS and owner.endswith("BuilderFlag")):
                yield f"{owner}.{node.attr}"
        elif isinstance(node, ast.alias) and node.name.rpartition(".")[2] in REMOVED:
            yield node.name
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in (
            "CreateConfig",
            "create_config",
        ):
            yield from (f"{keyword.arg}=" for keyword in node.keywords if keyword.arg in ARGUMENTS)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_tensorrt_11_removed_is_used(path: Path) -> None:
    assert list(removed(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("config.set_flag(trt.BuilderFlag.INT8)", ["trt.BuilderFlag.INT8"]),
        ("config.int8_calibrator = calibrator", ["config.int8_calibrator"]),
        ("class C(trt.IInt8EntropyCalibrator2): pass", ["trt.IInt8EntropyCalibrator2"]),
        ("from polygraphy.backend.trt import Calibrator", ["Calibrator"]),
        ("CreateConfig(fp16=True, int8=True)", ["fp16=", "int8="]),
        ("builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))", []),
        ("numpy.INT8", []),
    ],
)
def test_a_planted_use_is_found(source: str, found: list[str]) -> None:
    assert list(removed(source)) == found
