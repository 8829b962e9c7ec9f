"""What this project claims of speed, measured. Run from the checkout: python -m benchmarks.NAME."""

import os

# As where d3d-edge imports ONNX Runtime: it sends its maker nothing, and no thread of its does so while it is timed.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
