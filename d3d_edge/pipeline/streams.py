"""The trained networks of a run as functions of a batch: which input each sees, and what it says. Trains nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from d3d_edge.distill import distributed
from d3d_edge.distill.checkpoint import Checkpoint
from d3d_edge.distill.loss import Outputs
from d3d_edge.errors import DataError
from d3d_edge.harness import accuracy
from d3d_edge.models.build import network
from d3d_edge.models.layers import SpatialConv
from d3d_edge.models.recogniser import OFFSET, SCALE
from d3d_edge.models.s3dg import S3DG
from d3d_edge.pipeline import marks
from d3d_edge.progress import Task
from d3d_edge.recipe import NetworkSpec
from d3d_edge.runs import Run, Stage
from d3d_edge.video.datasets import Batch, ClipDataset

EVALUATION_BATCH = 16
NETWORK_PREFIX = "net."
"""Of the network's weights in a checkpoint that also holds a projection."""

Stream = Callable[[Batch], Outputs]


def load_network(run: Run, stage: Stage, spec: NetworkSpec, *, in_channels: int) -> S3DG:
    """The trained network of a finished stage, frozen and in evaluation mode.

    Raises:
        DataError: the stage has no checkpoint, one of another network, or other weights than its own; or the recipe or
            the classes were changed since.
    """
    marks.refuse_changed(run, stage)
    net = network(spec, len(run.data.labels), in_channels=in_channels)
    checkpoint = Checkpoint.kept(run.folder(stage))
    if checkpoint is None:
        raise DataError(f"{run.folder(stage)} has no checkpoint", hint="d3d-edge distill trains it again")
    weights = checkpoint.model
    if any(key.startswith(NETWORK_PREFIX) for key in weights):
        weights = {k.removeprefix(NETWORK_PREFIX): v for k, v in weights.items() if k.startswith(NETWORK_PREFIX)}
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        raise DataError(
            f"the checkpoint in {run.folder(stage)} is of another network than the recipe's",
            hint="delete the folder, and d3d-edge distill trains it again",
        ) from error
    marks.refuse_others(run, stage, checkpoint)
    return net.eval().requires_grad_(False)


def load_teacher(run: Run) -> S3DG:
    """The flow teacher of a run, ready to be asked."""
    return channels_last(load_network(run, "teacher", run.recipe.teacher.network, in_channels=2))


def load_rgb(run: Run, stage: Stage) -> S3DG:
    """A network of a run that sees RGB: the student, or a baseline."""
    return load_network(run, stage, run.recipe.student.network, in_channels=3)


def channels_last(net: S3DG) -> S3DG:
    """`net` on the device that trains, its weights in channels-last memory: faster to run, but not to be lowered."""
    device = distributed.device()
    return net.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def flow_stream(net: S3DG, *, features: bool = False) -> Stream:
    """A flow network as a function of a batch: it sees the flow of the very clips that the student sees."""
    return lambda batch: _outputs(net, frames_of_flow(beside(net, batch.flow)), len(batch.flow), features)


def rgb_stream(net: S3DG, *, features: bool = False) -> Stream:
    """An RGB network as a function of a batch."""
    return lambda batch: _outputs(net, frames_of_clip(beside(net, batch.clip)), len(batch.clip), features)


def fused(streams: Sequence[Stream]) -> Stream:
    """Several networks as one, by the mean of their logits: I3D's equal-weight sum, in the unit of one network."""
    return lambda batch: Outputs(torch.stack([stream(batch).logits for stream in streams]).mean(0))


def teacher_of(run: Run) -> Stream | None:
    """What the student of a run learns from; None where its recipe gives the teacher no weight."""
    spec = run.recipe.distill
    if not spec.uses_teacher:
        return None
    flow = flow_stream(_folded(load_teacher(run)), features=bool(spec.features_weight))
    if spec.teacher == "flow":
        return flow
    return fused([flow, rgb_stream(_folded(channels_last(load_rgb(run, "spatial"))))])


def _folded(net: S3DG) -> S3DG:
    """`net` without batch norms of its own: it is asked at every step, where they take a tenth of its time."""
    for unit in net.modules():
        if isinstance(unit, SpatialConv):
            unit.fold()
    return net


def frames_of_flow(flow: Tensor) -> Tensor:
    """Flow of any float [B, T, H, W, 2] as frames float32 [B*T, 2, H, W], in channels-last memory."""
    return flow.flatten(0, 1).permute(0, 3, 1, 2).float()


def frames_of_clip(clip: Tensor) -> Tensor:
    """Clips uint8 [B, T, H, W, 3] as frames [B*T, 3, H, W], normalised as the exported model does, channels-last."""
    return clip.flatten(0, 1).permute(0, 3, 1, 2).float().mul_(SCALE).add_(OFFSET)


def counted(stream: Stream, task: Task) -> Stream:
    """`stream`, which advances `task` by the clips that it is given."""

    def answered(batch: Batch) -> Outputs:
        outputs = stream(batch)
        task.advance(len(batch.label))
        return outputs

    return answered


@torch.no_grad()
def evaluate(stream: Stream, dataset: ClipDataset, whose: str) -> tuple[accuracy.Logits, NDArray[np.int64]]:
    """Logits float32 [N, classes] and labels [N] of a data set, in order.

    Raises:
        DataError: a logit is not finite; the message says `whose`.
    """
    pairs = [
        (stream(batch).logits.cpu().numpy(), batch.label.numpy())
        for batch in dataset.batches(EVALUATION_BATCH, workers=1)
    ]
    logits = accuracy.finite(np.concatenate([logits for logits, _ in pairs]), whose)
    return logits, np.concatenate([labels for _, labels in pairs])


def top1(stream: Stream, dataset: ClipDataset, whose: str) -> float:
    """Top-1 on a data set, 0 to 1. Raises DataError as `evaluate`."""
    return accuracy.topk(*evaluate(stream, dataset, whose), 1)


def beside(net: S3DG, data: Tensor) -> Tensor:
    """`data` on the device of `net`."""
    return data.to(next(net.parameters()).device)


def _outputs(net: S3DG, frames: Tensor, clips: int, features: bool) -> Outputs:
    return Outputs(*net.outputs(frames, clips)) if features else Outputs(net(frames, clips))
