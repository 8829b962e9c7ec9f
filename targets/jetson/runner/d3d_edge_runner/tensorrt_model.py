"""An ONNX file run by TensorRT 10 or 11: the engine is built on first use and kept for as long as nothing changes.

The network is strongly typed: the types, and so INT8 and FP16, are those that the file's Q/DQ pairs and casts say.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
from pathlib import Path
from typing import Any, Callable

from . import board
from .errors import RunnerError

NATIVE = True
ENGINES = Path("engines")
"""Beside the runs, below the folder that the runner works in."""
_POLYGRAPHY = "pip install polygraphy, where tensorrt can be imported too (a venv with --system-site-packages)"


def installed() -> bool:
    """Whether TensorRT itself is there: a package of type stubs can be imported too, and is empty."""
    try:
        import tensorrt
    except ImportError:
        return False
    return hasattr(tensorrt, "__version__")


def version() -> str:
    """Name and version.

    Raises:
        RunnerError: TensorRT or Polygraphy is not installed.
    """
    if not installed():
        raise RunnerError("missing", "python3 cannot import tensorrt, which comes with JetPack")
    import tensorrt

    number: str = tensorrt.__version__
    if int(number.split(".")[0]) < 10:
        raise RunnerError("missing", f"TensorRT {number} is too old, 10 or newer is needed: JetPack 6.1 has it")
    try:
        import polygraphy
    except ImportError:
        raise RunnerError("missing", f"Polygraphy is missing: {_POLYGRAPHY}") from None
    return f"tensorrt {number}, polygraphy {polygraphy.__version__}"


class Model:
    """A loaded engine, of which `prepare` says where it is."""

    threads = 0
    """TensorRT has none to set, whatever is asked for."""

    def __init__(self, engine: Path, threads: int) -> None:
        from polygraphy.backend.trt import TrtRunner, engine_from_bytes
        from polygraphy.exception import PolygraphyException

        try:
            self._runner: Any = TrtRunner(engine_from_bytes(engine.read_bytes()))
            self._runner.activate()
        except PolygraphyException as error:
            engine.unlink()  # cut short by a loss of power, say: the next run builds it anew
            raise RunnerError("model", f"TensorRT cannot load the engine: {str(error).splitlines()[0]}") from None
        self._input = next(iter(self._runner.get_input_metadata()))

    def run(self, clip: Any) -> Any:
        """Logits float32 [classes] of `clip: uint8 [T, H, W, C] RGB`, the copies to and from the GPU included."""
        (logits,) = self._runner.infer({self._input: clip}, check_inputs=False).values()
        return logits.reshape(-1).copy()  # Polygraphy's buffer is written again by the next run

    def close(self) -> None:
        """Free the engine."""
        self._runner.deactivate()


def prepare(path: Path) -> Path:
    """The engine of the ONNX file at `path`, built unless it is there, which takes minutes on a Jetson.

    The runtime's libraries are loaded then: they are no part of loading a model.

    Raises:
        RunnerError: TensorRT refuses the file.
    """
    import polygraphy.backend.trt  # noqa: F401
    from polygraphy.exception import PolygraphyException

    engine = engine_path(path)
    if engine.is_file():
        return engine
    try:
        built = _build(path)
    except PolygraphyException as error:
        raise RunnerError("model", f"TensorRT cannot build the engine: {str(error).splitlines()[0]}") from None
    engine.parent.mkdir(parents=True, exist_ok=True)
    partial = engine.with_name(f".{os.getpid()}.partial")
    try:
        partial.write_bytes(built)
        os.replace(str(partial), str(engine))
    finally:
        if partial.exists():
            partial.unlink()
    return engine


def _build(path: Path) -> bytes:
    import tensorrt as trt
    from polygraphy.backend.trt import CreateConfig, NetworkFromOnnxPath, engine_bytes_from_network

    # Always on from TensorRT 11, where a later version may drop the flag.
    typed = hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
    network = NetworkFromOnnxPath(str(path), strongly_typed=typed)
    return bytes(engine_bytes_from_network(network, config=CreateConfig()))


def engine_path(path: Path) -> Path:
    """Where the engine of the ONNX file at `path` is kept for the TensorRT, GPU and power mode of now."""
    return ENGINES / f"{cache_key(path, built_for())}.engine"


def built_for() -> dict[str, str]:
    """What an engine is tied to: one built under other conditions does not load, or is slow."""
    import tensorrt

    return {"tensorrt": tensorrt.__version__, "gpu": gpu(), "power_mode": board.power_mode() or ""}


def cache_key(path: Path, conditions: dict[str, str]) -> str:
    """Name of the engine of the file at `path` under `conditions`."""
    model = hashlib.sha256(path.read_bytes()).hexdigest()
    return hashlib.sha256(json.dumps([model, conditions], sort_keys=True).encode()).hexdigest()[:32]


def gpu() -> str:
    """Name and compute capability of the first GPU, as CUDA's driver gives them.

    Raises:
        RunnerError: there is none.
    """
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise RunnerError("missing", f"no CUDA driver: {error}") from None
    name = ctypes.create_string_buffer(128)
    major, minor, device = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of cuda.h
    calls: tuple[Callable[[], int], ...] = (
        lambda: cuda.cuInit(0),
        lambda: cuda.cuDeviceGet(ctypes.byref(device), 0),
        lambda: cuda.cuDeviceGetName(name, len(name), device),
        lambda: cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, device),
        lambda: cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, device),
    )
    for call in calls:
        if code := call():
            raise RunnerError("missing", f"no GPU that CUDA can use: error {code} of its driver")
    return f"{name.value.decode(errors='replace')} (compute {major.value}.{minor.value})"
