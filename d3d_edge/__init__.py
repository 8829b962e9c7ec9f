"""d3d-edge: labelled video in, a small action recogniser for phones and Jetsons out."""

__version__ = "0.1.0"
