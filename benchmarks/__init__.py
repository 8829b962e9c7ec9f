"""What this project claims of speed, measured. Run from the checkout: python -m benchmarks.NAME."""

import os

# As where d3d-edge imports ONNX Runtime, which else sends its maker what it sees, also while it is timed.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
