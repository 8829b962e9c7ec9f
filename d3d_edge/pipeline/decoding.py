"""Flow decoded from the features of a run's trained networks: what is compared with what, training, and the error.

Writes nothing but the checkpoints of the training loop.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from d3d_edge.clip import ClipSpec
from d3d_edge.distill import distributed, loop
from d3d_edge.distill.checkpoint import Checkpoint
from d3d_edge.distill.job import Job
from d3d_edge.distill.loss import Outputs, end_point_error, mean_end_point_error
from d3d_edge.errors import DataError
from d3d_edge.models.decoder import FlowDecoder, time_stride
from d3d_edge.models.s3dg import S3DG
from d3d_edge.pipeline import marks
from d3d_edge.pipeline.data import RunData, batch_size, epochs
from d3d_edge.pipeline.streams import beside, channels_last, frames_of_clip, frames_of_flow, load_network
from d3d_edge.progress import Progress
from d3d_edge.recipe import TrainSpec
from d3d_edge.runs import Run
from d3d_edge.video.datasets import Batch, ClipDataset

READ = ("Conv2d_2c_3x3", "Mixed_3c", "Mixed_4f")
"""End points that the decoder reads: a quarter, an eighth and a sixteenth of the frame's side, and a half, a half and a
quarter of the frames in time. The decoded flow has the size and the steps of the first."""
CLIPS_AT_ONCE = 8
"""Few, since all end points of a network are in memory together; each clip holds many fields to learn from."""

Probed = Literal["spatial", "student", "teacher"]
"""A stage of the run whose network is probed."""


def train_spec(epochs: int) -> TrainSpec:
    """How a decoder is trained."""
    return TrainSpec(epochs=epochs, batch_size=CLIPS_AT_ONCE, learning_rate=0.003, weight_decay=0.01)


@dataclass(frozen=True)
class Network:
    """A trained network of the run, frozen."""

    source: Probed
    mark: str
    """Of its stage, see `marks.trained`."""
    net: S3DG

    @classmethod
    def of(cls, run: Run, source: Probed) -> Network | None:
        """The network of a stage, or None where the stage is not finished, or sees single frames.

        Raises:
            DataError: its checkpoint is damaged.
        """
        done = run.results(source)
        baseline = run.recipe.baselines.get(source)
        if done is None or (baseline and baseline.frames == "one"):
            return None
        spec = run.recipe.teacher.network if source == "teacher" else run.recipe.student.network
        net = load_network(run, source, spec, in_channels=2 if source == "teacher" else 3)
        return cls(source, marks.trained(run, source), channels_last(net))

    def frames(self, batch: Batch) -> Tensor:
        """What the network sees of a batch, float [B*T, 3 or 2, H, W]."""
        if self.source == "teacher":
            return frames_of_flow(beside(self.net, batch.flow))
        return frames_of_clip(beside(self.net, batch.clip))

    @torch.no_grad()
    def outputs(self, batch: Batch) -> Outputs:
        """What the network says of a batch."""
        return Outputs(self.net(self.frames(batch), len(batch.label)))

    @torch.no_grad()
    def features(self, batch: Batch) -> list[Tensor]:
        """The end points `READ`, float [B*T_i, C_i, H_i, W_i] each."""
        points = self.net.end_points(self.frames(batch), len(batch.label))
        return [points[name] for name in READ]

    def shapes(self, clip: ClipSpec) -> list[torch.Size]:
        """The shapes of the end points `READ` of one clip; nothing is computed."""
        frames = torch.empty(clip.frames, self.net.in_channels, clip.height, clip.width, device="meta")
        points = deepcopy(self.net).to("meta").end_points(frames)
        return [points[name].shape for name in READ]


@dataclass(frozen=True)
class Fields:
    """Which flow decoded flow is compared with.

    Step s of the features stands at frame `stride` * s, and is compared with the flow from that frame to the next one.
    For a step at the last frame of a clip that is the field before it, as everywhere (`video.flow`).
    """

    stride: int
    size: tuple[int, int]
    """Rows and columns; the flow of the clip is averaged down to them."""
    bound_px: float

    @classmethod
    def of(cls, run: Run, network: Network) -> Fields:
        """The fields at the steps and the size of the first of `READ`."""
        steps, _, height, width = network.shapes(run.recipe.clip)[0]
        return cls(time_stride(run.recipe.clip.frames, steps), (height, width), run.recipe.flow.bound_px)

    def reference(self, batch: Batch) -> Tensor:
        """Float [B*steps, 2, *size] in pixels of the resized frame (not of this smaller field)."""
        chosen = frames_of_flow(batch.flow[:, :: self.stride]).to(distributed.device())
        return F.interpolate(chosen, self.size, mode="area") * self.bound_px


def trained(
    run: Run,
    data: RunData,
    network: Network,
    fields: Fields,
    folder: Path,
    mark: str,
    spec: TrainSpec,
    progress: Progress,
) -> FlowDecoder:
    """A decoder for `network`, trained on the train split from the checkpoint in `folder`, where there is one.

    Raises:
        DataError: the loss is not finite, or the checkpoint is damaged.
        StorageError: a checkpoint cannot be written.
    """
    decoder = _untrained(run, network)
    training = data.dataset("train", training=True)
    size = batch_size(training, spec)
    job = Job(
        title=f"flow from {network.source}",
        model=decoder,
        forward=decoded(network, decoder),
        teacher=fields.reference,
        loss=mean_end_point_error,
        batches=epochs(training, size),
        batches_per_epoch=len(training) // size,
        spec=spec,
        seed=run.recipe.seed,
        set_training=decoder.train,
    )
    loop.run(job, folder, mark, progress)
    return decoder


def load(run: Run, network: Network, folder: Path) -> FlowDecoder:
    """The trained decoder in `folder`, in evaluation mode.

    Raises:
        DataError: there is none, or it is damaged.
    """
    decoder = _untrained(run, network)
    checkpoint = Checkpoint.read(folder)
    if checkpoint is None:
        raise DataError(f"{folder} has no checkpoint", hint=f"delete {folder} to train its decoder again")
    decoder.load_state_dict(checkpoint.model)
    return decoder.eval().requires_grad_(False).to(distributed.device())


def _untrained(run: Run, network: Network) -> FlowDecoder:
    torch.manual_seed(run.recipe.seed)
    return FlowDecoder([shape[1] for shape in network.shapes(run.recipe.clip)])


def decoded(network: Network, decoder: FlowDecoder) -> Callable[[Batch], Tensor]:
    """Network and decoder as a function of a batch: float [B*steps, 2, h, w] in pixels."""
    return lambda batch: decoder(network.features(batch), len(batch.label))


@torch.no_grad()
def epe_px(guess: Callable[[Batch], Tensor], fields: Fields, dataset: ClipDataset) -> float:
    """Mean end-point error of `guess` over all clips, steps and places of a data set, in pixels.

    A guess gives flow that broadcasts to float [B*steps, 2, h, w], in pixels.
    """
    total = 0.0
    for batch in dataset.batches(CLIPS_AT_ONCE, workers=1):
        reference = fields.reference(batch)
        error = end_point_error(guess(batch).to(reference.device), reference)
        total += error.mean().item() * len(batch.label)
    return total / len(dataset)


@torch.no_grad()
def mean_vector(fields: Fields, dataset: ClipDataset) -> Tensor:
    """The mean of the reference over all clips, steps and places: float [1, 2, 1, 1] in pixels."""
    total = torch.zeros(1, 2, 1, 1, device=distributed.device())
    for batch in dataset.batches(CLIPS_AT_ONCE, workers=1):
        total += fields.reference(batch).mean((0, 2, 3), keepdim=True) * len(batch.label)
    return total / len(dataset)
