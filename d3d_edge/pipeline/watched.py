"""What watching a source found: its windows, and what the steps took. Values alone; `watch` takes them."""

from __future__ import annotations

from typing import Literal

from d3d_edge.pipeline.predict import Answer
from d3d_edge.runner import Where
from d3d_edge.schema import Schema

Ended = Literal["end of source", "seconds", "interrupted", "failed"]


class Moment(Schema):
    """What a window shows."""

    start_s: float
    end_s: float
    answers: tuple[Answer, ...]
    """The likeliest classes, best first."""
    network_ms: float


class Watched(Schema):
    """Every window of a source, and what the steps took."""

    source: str
    bundle: str
    where: Where
    runtime: str
    sampling: Literal["uniform", "dense"]
    window_s: float
    """Length of a window; with dense sampling, of the first one."""
    stride_s: float
    windows: int
    """Windows that were answered."""
    moments: tuple[Moment, ...]
    """The last 100000 of them, seven hours at four a second."""
    left_out: int
    """Windows not answered: a live source was ahead of the network, or there were too few frames."""
    ended: Ended
    frames: int
    source_s: float
    """Time of the last frame."""
    decode_ms: float
    """Mean of a frame; for a live source it has the waiting in it."""
    preprocess_ms: float
    """Mean of a frame."""
    network_ms: float
    """Median of a window."""
    end_to_end_fps: float
    """Frames a second through decoding, preprocessing and the network, with windows at this stride. Drawing and
    writing are not in it."""
    notes: tuple[str, ...] = ()
    """What the answers suffer from."""
