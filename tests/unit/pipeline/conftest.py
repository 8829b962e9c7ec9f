"""A run on real clips, rendered here, whose networks are saved as they begin: who is asked what needs no training."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from d3d_edge import manifest, recipe
from d3d_edge.distill.checkpoint import Checkpoint
from d3d_edge.manifest import Manifest
from d3d_edge.models.build import network
from d3d_edge.models.s3dg import S3DG
from d3d_edge.pipeline import data as run_data
from d3d_edge.pipeline.data import RunData
from d3d_edge.pipeline.streams import frames_of_clip, frames_of_flow
from d3d_edge.progress import Silent
from d3d_edge.runs import Run
from d3d_edge.video import rendered
from d3d_edge.video.datasets import Batch

CLASSES = 3
SETTINGS = (
    "clip={frames: 4, short_side: 36, height: 32, width: 32}",
    "flow={preset: ultrafast}",
    "baselines={spatial: {}}",
    "teacher.train.batch_size=4",
    "student.train.batch_size=4",
)


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Three classes of seven clips of twelve frames, split."""
    folder = tmp_path_factory.mktemp("clips")
    rendered.render_set(folder, clips_per_class=7, seed=1, size_px=40, frames=12, workers=0, progress=Silent())
    for unwanted in sorted(path for path in folder.iterdir() if path.is_dir())[CLASSES:]:
        shutil.rmtree(unwanted)
    return manifest.with_split(manifest.load(folder), val_share=0.2, test_share=0.3, seed=0)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip cache that all tests of a process share."""
    return tmp_path_factory.mktemp("cache")


class Made:
    """A run, its data, and its networks by stage."""

    def __init__(self, run: Run, data: RunData) -> None:
        self.run = run
        self.data = data
        self.networks = {stage: self._save(stage, seed) for seed, stage in enumerate(("teacher", "spatial", "student"))}

    def _save(self, stage: str, seed: int) -> S3DG:
        spec = (self.run.recipe.teacher if stage == "teacher" else self.run.recipe.student).network
        torch.manual_seed(seed)
        net = network(spec, len(self.data.labels), in_channels=2 if stage == "teacher" else 3).eval()
        # Louder than a network begins, so that clips differ in their answers.
        net.get_parameter("Logits.Conv2d_0c_1x1.weight").data.mul_(1e6)
        Checkpoint(stage, 1, net.state_dict(), {}, {}, []).write(self.run.folder(stage))
        self.run.finish(stage, stage, top1=0.0)
        return net

    @torch.no_grad()
    def logits(self, stage: str, batch: Batch) -> Tensor:
        """What the network of a stage says of a batch, float [B, classes]."""
        frames = frames_of_flow(batch.flow) if stage == "teacher" else frames_of_clip(batch.clip)
        said: Tensor = self.networks[stage](frames, len(batch.label))
        return said


Make = Callable[..., Made]


@pytest.fixture
def make(clips: Manifest, cache: Path, tmp_path: Path) -> Make:
    """Makes a run of the recipe `compact` with further settings."""

    def made(*settings: str) -> Made:
        run = Run.start(tmp_path / "run", recipe.load("compact", [*SETTINGS, *settings]), clips)
        return Made(run, run_data.prepare(run, cache, workers=0, strict=True, progress=Silent()))

    return made
