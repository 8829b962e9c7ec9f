"""Checkpoints under published names, made once for the tests of reading them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit.models import published
from tests.unit.models.published import CLASSES, WIDTH, torch_network, video


@pytest.fixture(scope="session")
def torchvision() -> published.Torchvision:
    return torch_network(published.Torchvision(CLASSES, WIDTH))


@pytest.fixture(scope="session")
def kylemin() -> published.Kylemin:
    return torch_network(published.Kylemin(CLASSES, WIDTH))


@pytest.fixture(scope="session")
def kylemin_file(kylemin: published.Kylemin, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kylemin") / "s3d.pt"
    torch.save(kylemin.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def slim_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slim") / "s3dg.npz"
    net = published.Slim(CLASSES, WIDTH)
    net.logits(video(8, 32))
    np.savez(path, **net.variables)
    return path
