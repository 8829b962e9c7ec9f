"""Students of any shape with random weights, as bundles: enough to time a network before it is trained."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn

from d3d_edge import runtimes
from d3d_edge.bundle import Bundle, Description
from d3d_edge.clip import ClipSpec
from d3d_edge.files import sha256_of_value, sweep
from d3d_edge.models.build import network, randomise
from d3d_edge.models.recogniser import Recogniser
from d3d_edge.pipeline import lowering
from d3d_edge.pipeline.environment import tools
from d3d_edge.pipeline.models import spec_of
from d3d_edge.presets import Shape
from d3d_edge.progress import Progress
from d3d_edge.quantize import pt2e
from d3d_edge.runner import TensorSpec
from d3d_edge.runtimes import Lowered
from d3d_edge.schema import build
from d3d_edge.target import Target
from d3d_edge.workers import mapper

CLASSES = 10
"""Of the classifier, whose time is none."""


def bundles(
    shapes: Sequence[Shape], target: Target, folder: Path, *, workers: int, progress: Progress
) -> dict[Shape, Bundle]:
    """An INT8 bundle of each shape below `folder`; those that the same tools made before are kept.

    Raises:
        MissingDependency: the package that lowers to `target` is not installed.
        LoweringError: a network cannot be lowered, or would not run there.
        RecipeError: a shape names a layer that does not exist.
        StorageError: a bundle cannot be written.
    """
    runtimes.get(target.runtime).check_lower()
    sweep(folder)
    made: dict[Shape, Bundle] = {}
    for shape in shapes:
        if bundle := _kept(_place(folder, shape, target), target):
            made[shape] = bundle
    missing = [shape for shape in dict.fromkeys(shapes) if shape not in made]
    if missing:
        work = partial(_make, target, folder)
        with (
            progress.task(f"lower networks to {target.name}", len(missing)) as task,
            mapper(min(workers, len(missing)), prepare=lowering.prepare, died=lowering.DIED) as mapped,
        ):
            for shape, bundle in zip(missing, mapped(work, missing), strict=True):
                made[shape] = bundle
                task.advance(1, str(shape))
    return {shape: made[shape] for shape in shapes}


def clip_of(shape: Shape) -> ClipSpec:
    """The clip of a shape.

    Raises:
        RecipeError: it is larger than a clip may be.
    """
    settings = {
        "frames": shape.frames,
        "sampling": "uniform",
        "short_clips": "refuse",
        "short_side": shape.short_side,
        "interpolation": "area",
        "height": shape.side,
        "width": shape.side,
        "crop": "center",
        "colour": "rgb",
        "layout": "THWC",
        "dtype": "uint8",
    }
    return build(ClipSpec, settings, f"clips of {shape}")


def _place(folder: Path, shape: Shape, target: Target) -> Path:
    return folder / f"{target.name}-{shape.hash()[:16]}"


def _kept(path: Path, target: Target) -> Bundle | None:
    bundle = Bundle.found(path)
    asked = (tools([target.runtime]), target.options)
    return bundle if bundle and (bundle.manifest.tools, bundle.manifest.options) == asked else None


def recogniser(shape: Shape) -> nn.Module:
    """A network of that shape, its weights random but always the same."""
    net = network(spec_of(shape), CLASSES, in_channels=3).eval()
    randomise(net)
    return Recogniser(net)


def _make(target: Target, folder: Path, shape: Shape) -> Bundle:
    clip = clip_of(shape)
    chance = torch.Generator().manual_seed(0)
    clips = torch.randint(0, 256, (1, *clip.shape), dtype=torch.uint8, generator=chance)
    sample = clips[0]
    graph = pt2e.prepare(pt2e.capture(recogniser(shape), sample), scheme="symmetric", observer="minmax", qat=False)
    pt2e.calibrate(graph, clips)
    program = pt2e.convert(graph, sample)
    # Weights that nothing trained have no recipe, data or calibration set behind them.
    nothing = sha256_of_value(None)

    def describe(lowered: Lowered) -> Description:
        return Description(
            name=str(shape),
            target=target.name,
            runtime=target.runtime,
            precision="int8",
            scheme="symmetric",
            model=lowered.model,
            clip=clip,
            clip_hash=clip.hash(),
            labels=tuple(f"class {number}" for number in range(CLASSES)),
            input=TensorSpec(name="clip", dtype="uint8", shape=clip.shape),
            output=TensorSpec(name="logits", dtype="float32", shape=(CLASSES,)),
            graph_sha256=nothing,
            float_sha256=nothing,
            logit_step=pt2e.logit_step(program),
            calibration_hash=None,
            data_hash=nothing,
            tools=tools([target.runtime]),
            options=target.options,
            lowering=lowered.facts,
        )

    path = _place(folder, shape, target)
    return lowering.write(program, target, path, clips.numpy(), precision="int8", describe=describe)
