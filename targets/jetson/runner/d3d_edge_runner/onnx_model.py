"""An ONNX file run by ONNX Runtime on the processor: the way to try a device's path where there is no TensorRT."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .errors import RunnerError

NATIVE = False
"""Whether this is what the bundle is made for; if not, its times say nothing about it."""

# Builds of ONNX Runtime send their maker what they see, unless this says otherwise when they are imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def version() -> str:
    """Name and version.

    Raises:
        RunnerError: it is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise RunnerError("missing", f"ONNX Runtime cannot be imported ({error}): pip install onnxruntime") from None
    return f"onnxruntime {onnxruntime.__version__}"


def prepare(path: Path) -> Path:
    """The file that `Model` loads: nothing is built ahead of it."""
    return path


class Model:
    """A loaded ONNX file."""

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        # As d3d_edge/runtimes/tensorrt.py opens it: what the file says, in float between the rounded values.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        try:
            self._session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its classes share no base but this
            raise RunnerError("model", f"ONNX Runtime cannot load the model: {str(error).splitlines()[0]}") from None
        self._input = self._session.get_inputs()[0].name
        self.threads = threads

    def run(self, clip: Any) -> Any:
        """Logits float32 [classes] of `clip: uint8 [T, H, W, C] RGB`."""
        return self._session.run(None, {self._input: clip})[0][0]

    def close(self) -> None:
        """Free the model."""
        self._session = None
