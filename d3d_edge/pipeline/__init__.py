"""The verbs of d3d-edge, a module each (distill, quantize, export, validate, benchmark ...), and what several share.

A verb takes plain values, reports through `Progress`, leaves its results on disk and returns them. It prints nothing.
"""
