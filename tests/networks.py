"""A network with one of each operator that S3D-G is made of, small enough to be lowered in seconds."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule

from d3d_edge import runtimes
from d3d_edge.bundle import Description
from d3d_edge.calibset import Observer
from d3d_edge.models.layers import SeparableConv, SpatialConv, StackedConv
from d3d_edge.models.pools import MaxPool
from d3d_edge.models.recogniser import OFFSET, SCALE
from d3d_edge.models.views import clip_view
from d3d_edge.quantize import graph_files, pt2e
from d3d_edge.quantize.nodes import QUANTIZE
from d3d_edge.quantize.origin import layer_of
from d3d_edge.runner import TensorSpec
from d3d_edge.runtimes import Lowered
from d3d_edge.target import QUANTIZED, Precision, Scheme, Target
from tests.unit.video.samples import spec_of

FRAMES, SIDE, CLASSES = 4, 16, 5


class Small(nn.Module):
    """uint8 [N*T, H, W, C] to float [N, classes], for N = `clips`."""

    def __init__(self, clips: int = 1, dropout: float = 0.5) -> None:
        super().__init__()
        self.clips = clips
        self.stem = SpatialConv(3, 8, 3, 2)
        self.pool = MaxPool((1, 3), (1, 2))
        self.temporal = SeparableConv(8, 16, 3, temporal=True, gating=True)
        self.branch_pool = MaxPool((3, 3))
        self.pointwise = SeparableConv(8, 16)
        self.dropout = nn.Dropout(dropout)
        self.logits = nn.Conv2d(32, CLASSES, 1)

    def forward(self, clip: Tensor) -> Tensor:
        frames = clip.float() * SCALE + OFFSET
        frames = self.pool(self.stem(frames.permute(0, 3, 1, 2)))
        left = self.temporal(frames, self.clips)
        right = self.pointwise(self.branch_pool(frames, self.clips), self.clips)
        pooled = clip_view(torch.cat([left, right], dim=1), self.clips).mean((2, 3), keepdim=True)
        return self.logits(self.dropout(pooled)).flatten(1)


class Function(nn.Module):
    """A function as a network."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


def small(clips: int = 1, dropout: float = 0.5) -> Small:
    """The network with weights and batch norm statistics that let signals of order one through, always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Small(clips, dropout)
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0.0, 0.1)
                # Small enough for the batch norm's epsilon, 1e-3, to matter.
                module.running_var.uniform_(0.005, 0.02)
                nn.init.normal_(module.bias, 0.1, 0.1)
                module.weight.data.fill_(0.1)
        return model.eval()


def clip(seed: int = 0, clips: int = 1) -> Tensor:
    """uint8 [N*T, H, W, C], brighter towards one corner, with noise: an input whose mean is not the middle grey."""
    generator = torch.Generator().manual_seed(seed)
    ramp = torch.linspace(0, 200, SIDE).reshape(1, 1, SIDE, 1).expand(clips * FRAMES, SIDE, SIDE, 3)
    noise = torch.randint(0, 56, (clips * FRAMES, SIDE, SIDE, 3), generator=generator)
    return (ramp + noise).to(torch.uint8)


def all_bytes() -> Tensor:
    """A clip that has every value of a byte."""
    return torch.from_numpy(np.resize(np.arange(256, dtype=np.uint8), (FRAMES, SIDE, SIDE, 3)))


def prepared(
    scheme: Scheme = "symmetric",
    observer: Observer = "minmax",
    *,
    qat: bool = False,
    clips: int = 1,
    keep_float: tuple[str, ...] = (),
) -> GraphModule:
    """The network, prepared and shown three clips."""
    percentile = 99.99 if observer == "percentile" else None
    graph = pt2e.prepare(
        pt2e.capture(small(clips), clip(clips=clips)),
        scheme=scheme,
        observer=observer,
        percentile=percentile,
        keep_float=keep_float,
        qat=qat,
    )
    pt2e.calibrate(graph, [clip(seed, clips) for seed in range(3)])
    return graph


def reopened(program: ExportedProgram) -> ExportedProgram:
    """`program` as it is after it was saved, which is what is lowered: a file keeps less than memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.pt2"
        graph_files.save(program, path)
        return graph_files.load(path)


@functools.cache
def quantized(scheme: Scheme = "symmetric") -> ExportedProgram:
    """The INT8 graph. Do not change it: all tests share it."""
    return reopened(pt2e.convert(prepared(scheme), clip()))


def described(lowered: Lowered, program: ExportedProgram, target: Target, precision: Precision) -> Description:
    """What the manifest of a bundle says of `program`, which takes square clips, and of its lowered file."""
    takes, (_, classes) = pt2e.shapes(program)
    clip = spec_of(frames=takes[0], short_side=takes[1], height=takes[1], width=takes[1])
    return Description(
        name="a network of the tests",
        target=target.name,
        runtime=target.runtime,
        precision=precision,
        scheme="symmetric" if precision in QUANTIZED else None,
        model=lowered.model,
        clip=clip,
        clip_hash=clip.hash(),
        labels=tuple(f"class {number}" for number in range(classes)),
        input=TensorSpec(name="clip", dtype="uint8", shape=clip.shape),
        output=TensorSpec(name="logits", dtype="float32", shape=(classes,)),
        graph_sha256="0" * 64,
        float_sha256="1" * 64,
        logit_step=pt2e.logit_step(program),
        calibration_hash=None,
        data_hash="2" * 64,
        tools=runtimes.get(target.runtime).tools(),
        lowering=lowered.facts,
    )


def with_bias(layer: str, value: float) -> ExportedProgram:
    """An INT8 graph of one's own, with that bias of the layer's channel 2."""
    program = reopened(quantized())
    conv = next(node for node in program.graph.nodes if "conv2d" in node.name and layer_of(node) == layer)
    program.state_dict[program.graph_signature.inputs_to_parameters[conv.args[2].name]].data[2] = value
    return program


def with_scale(rounded: str, factor: float) -> ExportedProgram:
    """An INT8 graph of one's own, which rounds what the node `rounded` gives by a scale that many times larger."""
    program = reopened(quantized())
    (into,) = (node for node in program.graph.nodes if node.target in QUANTIZE and node.args[0].name == rounded)
    for node in (into, *into.users):
        node.args = (node.args[0], node.args[1] * factor, *node.args[2:])
    return program


@functools.cache
def mixed() -> ExportedProgram:
    """An INT8 graph with a convolution, a gate and the classifier in float. Do not change it: all tests share it."""
    return reopened(pt2e.convert(prepared(keep_float=("temporal.spatial", "gate", "head")), clip()))


@functools.cache
def float_program() -> ExportedProgram:
    """The float graph. Do not change it: all tests share it."""
    return reopened(pt2e.export_float(small(), clip()))


class Stem(nn.Module):
    """The published first layer, which sees three frames and reads blocks of pixels, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = StackedConv(3, 8, (3, 7), 2)
        self.logits = nn.Conv2d(8, CLASSES, 1)
        self.register_buffer("scale", torch.full((1, 1, 1, 1), SCALE), persistent=False)
        self.register_buffer("offset", torch.full((1, 1, 1, 1), OFFSET), persistent=False)

    def forward(self, clip: Tensor) -> Tensor:
        frames = (clip.float() * self.scale + self.offset).permute(0, 3, 1, 2)  # type: ignore[operator]
        pooled = clip_view(self.stem(frames), 1).mean((2, 3), keepdim=True)
        return self.logits(pooled).flatten(1)


@functools.cache
def stem(scheme: Scheme = "symmetric") -> ExportedProgram:
    """Its INT8 graph. Do not change it: all tests share it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Stem().eval()
    graph = pt2e.prepare(pt2e.capture(model, clip()), scheme=scheme, observer="minmax", qat=False)
    pt2e.calibrate(graph, [all_bytes(), *(clip(seed) for seed in range(3))])
    return pt2e.convert(graph, clip())
