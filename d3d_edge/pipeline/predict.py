"""d3d-edge predict: the action in one video, by any bundle."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from d3d_edge import runtimes
from d3d_edge.bundle import Bundle, Description
from d3d_edge.errors import LoweringError
from d3d_edge.harness import accuracy
from d3d_edge.runner import Where
from d3d_edge.schema import Schema
from d3d_edge.video.container import frame_rate_hz
from d3d_edge.video.preprocess import centre_crop, read_clip

RATES_APART = 1.25
"""Rates whose ratio is more are worth a line; 24, 25 and 30 frames a second pass for alike."""


class Answer(Schema):
    """A class and its probability (softmax of the logits), 0 to 1."""

    label: str
    probability: float


class Prediction(Schema):
    """The likeliest classes of a video, and what each step took."""

    video: str
    bundle: str
    where: Where
    runtime: str
    answers: tuple[Answer, ...]
    open_ms: float
    """Verifying the bundle and loading the model."""
    decode_ms: float
    """Reading the video's frames and resizing them."""
    network_ms: float
    """The network, on its second run: the first also prepares memory."""
    frames: int
    """Frames that were decoded."""
    end_to_end_fps: float
    """Frames a second through decoding, resizing and one run of the network."""
    notes: tuple[str, ...] = ()
    """What the answers suffer from."""


def predict(bundle_path: Path, video: Path, *, top: int, threads: int) -> Prediction:
    """The `top` likeliest classes of `video`.

    Raises:
        BundleError: the bundle is damaged.
        MissingDependency: its runtime's package is not installed.
        DataError: the video cannot be read, or is too short.
    """
    began = time.perf_counter()
    bundle = Bundle.open(bundle_path)
    made = bundle.manifest
    runtime = runtimes.get(made.runtime)
    runtime.check_run()
    with runtime.open(bundle, threads=threads) as runner:
        opened = time.perf_counter()
        read, frames = read_clip(video, made.clip)
        clip = np.ascontiguousarray(centre_crop(read, made.clip))
        decoded = time.perf_counter()
        runner.run(clip)
        warm = time.perf_counter()
        logits = runner.run(clip)
        ended = time.perf_counter()
    return Prediction(
        video=str(video),
        bundle=str(bundle_path),
        where=runner.where,
        runtime=runner.runtime,
        answers=best(probabilities(logits), made.labels, top),
        open_ms=1e3 * (opened - began),
        decode_ms=1e3 * (decoded - opened),
        network_ms=1e3 * (ended - warm),
        frames=frames,
        end_to_end_fps=frames / (decoded - opened + ended - warm),
        notes=notes_on_rate(made, frame_rate_hz(video)),
    )


def notes_on_rate(made: Description, rate_hz: float) -> tuple[str, ...]:
    """What to know of a source of another rate than the videos of training: dense sampling counts frames."""
    trained_hz = made.video_rate_hz if made.clip.stride else None
    if not trained_hz or not rate_hz or 1 / RATES_APART <= rate_hz / trained_hz <= RATES_APART:
        return ()
    return (
        f"{rate_hz:g} frames a second here, and {trained_hz:g} in the videos of training: to the network, motion is "
        f"{trained_hz / rate_hz:.2g} times as fast",
    )


def probabilities(logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Softmax of logits [classes].

    Raises:
        LoweringError: one is NaN or infinite.
    """
    if not np.isfinite(logits).all():
        raise LoweringError("the model gives logits that are not finite", stage="run", hint="d3d-edge validate it")
    shares: npt.NDArray[np.float64] = accuracy.softmax(logits[None])[0]
    return shares


def best(scores: npt.NDArray[np.float64], labels: Sequence[str], top: int) -> tuple[Answer, ...]:
    """The `top` likeliest of `labels`, by their `scores` [classes]."""
    order = np.argsort(-scores, kind="stable")[:top]
    return tuple(Answer(label=labels[index], probability=float(scores[index])) for index in order)
