"""The verbs of d3d-edge, one module each, in the order they are used: distill, quantize, export, validate, benchmark.

A verb takes plain values, reports through `Progress`, leaves its results on disk and returns them. It prints nothing.
"""
