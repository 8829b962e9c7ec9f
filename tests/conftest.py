"""Values that many tests start from. Each test gets its own copy."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from d3d_edge.distill.distributed import DEVICE_VARIABLE
from d3d_edge.workers import collect_seldom
from tests import sshd

collect_seldom()  # as every command does

# What is expected is of a CPU, also where there is a GPU; tests of a GPU choose it themselves.
os.environ[DEVICE_VARIABLE] = "cpu"
# Tests import ONNX Runtime before d3d-edge does, which would tell it so.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# A busy machine makes one example slow, and that is no failure.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

GO_FIRST = (
    # The first file makes the run that those of commands and docs share, while the other processes are at work on what
    # does without it.
    "cli/test_commands.py",
    "contract/test_runtimes.py",
    "unit/runtimes/test_executorch.py",
    "unit/runtimes/test_coreml.py",
    "unit/runtimes/test_mil_ops.py",
    "unit/runtimes/test_tensorrt_rules.py",
    "unit/distill/test_loop.py",
    "unit/distill/test_distributed.py",
    "unit/quantize/test_pt2e.py",
    "unit/models/test_s3dg.py",
    "unit/models/test_checkpoints.py",
    "cli/test_kill.py",
    "docs/test_readme.py",
    "cli/test_export.py",
    "cli/test_sensitivity.py",
    "cli/test_torchrun.py",
    "cli/test_weights.py",
    "cli/test_errors.py",
    "cli/test_prepare.py",
    "cli/test_lost_and_changed.py",
    "cli/test_probe.py",
    "cli/test_devices.py",
    "cli/test_phones.py",
    "cli/test_validate.py",
    "cli/test_benchmark.py",
    "cli/test_predict.py",
)
"""Files that take long, in their order. What is not named comes after: no process then ends long before another."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put `GO_FIRST` first. Processes take whole files, in this order."""
    places = {f"tests/{name}": place for place, name in enumerate(GO_FIRST)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(places)))


def pytest_collection_finish() -> None:
    """What was imported until now stays, and need not be looked through for garbage again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def clip_data() -> dict[str, Any]:
    """A small ClipSpec, as YAML would give it."""
    return {
        "frames": 8,
        "sampling": "uniform",
        "short_clips": "refuse",
        "short_side": 40,
        "interpolation": "area",
        "height": 32,
        "width": 32,
        "crop": "center",
        "colour": "rgb",
        "layout": "THWC",
        "dtype": "uint8",
    }


@pytest.fixture
def recipe_data(clip_data: dict[str, Any]) -> dict[str, Any]:
    """The least that a recipe must say, as YAML would give it."""
    train = {"epochs": 2, "batch_size": 4, "learning_rate": 0.01}
    return {
        "name": "least",
        "description": "as little as a recipe can say",
        "clip": clip_data,
        "flow": {"method": "farneback", "bound_px": 4.0},
        "augment": {"random_crop": True, "flip": False, "brightness": 0.1},
        "teacher": {"network": {"width": 0.25}, "train": train},
        "student": {"network": {"width": 0.25}, "train": train, "initialise": "scratch"},
        "distill": {"weight": 1.0, "reduction": "mean"},
        "quantize": {"scheme": "symmetric", "calibration": "balanced", "qat": None},
        "gates": {"top1_drop_points_max": 2.0, "agreement_min": 0.9, "size_bytes_max": 1_000_000},
    }


@pytest.fixture
def terminal() -> Iterator[None]:
    """Signals are as a terminal leaves them, here and in commands that are started, also where the tests run in the
    background."""
    handlers = {signal.SIGHUP: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def ssh_config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A configuration in which `sshd.HOST` is this machine's own server."""
    with sshd.serving(tmp_path_factory.mktemp("sshd")) as config:
        yield config
