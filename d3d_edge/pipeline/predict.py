"""d3d-edge predict: the action in one video, by any bundle."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from d3d_edge import runtimes
from d3d_edge.bundle import Bundle
from d3d_edge.runner import Where
from d3d_edge.schema import Schema
from d3d_edge.video.preprocess import load_clip


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
        clip = load_clip(video, made.clip)
        decoded = time.perf_counter()
        runner.run(clip)
        warm = time.perf_counter()
        logits = runner.run(clip).astype(np.float64)
        ended = time.perf_counter()
    powers = np.exp(logits - logits.max())
    probabilities = powers / powers.sum()
    best = np.argsort(-logits, kind="stable")[:top]
    return Prediction(
        video=str(video),
        bundle=str(bundle_path),
        where=runner.where,
        runtime=runner.runtime,
        answers=tuple(Answer(label=made.labels[i], probability=float(probabilities[i])) for i in best),
        open_ms=1e3 * (opened - began),
        decode_ms=1e3 * (decoded - opened),
        network_ms=1e3 * (ended - warm),
    )
