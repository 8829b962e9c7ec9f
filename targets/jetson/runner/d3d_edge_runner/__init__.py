"""Runs a model on a device for d3d-edge: clips in, logits and times out. Knows nothing of labels or statistics.

Sent to the device as one zip file, so it needs no installation: Python 3.8, numpy, and what runs the model, which is
TensorRT with Polygraphy, or ONNX Runtime. It imports nothing of d3d_edge.
"""

PROTOCOL = 1
"""The command line, the events and the files of a run; see docs/devices.md. Changes when one of them does."""
