"""A 3D convolution: refused by layer and operator on every target, and where it is allowed, run or told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from torch import Tensor, nn
from torch.export import ExportedProgram

from d3d_edge import runtimes, target
from d3d_edge.bundle import Bundle
from d3d_edge.errors import BundleError, LoweringError
from d3d_edge.quantize import pt2e
from d3d_edge.target import Precision
from tests import networks

pytestmark = pytest.mark.slow
PACKAGES = {"android": "executorch", "ios": "coremltools", "jetson": "onnxruntime"}
KINDS: tuple[tuple[str, Precision], ...] = (("android", "float32"), ("ios", "float16"), ("jetson", "float32"))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.early = nn.Conv3d(3, networks.CLASSES, (3, 1, 1), padding=(1, 0, 0))

    def forward(self, clip: Tensor) -> Tensor:
        volume = (clip.float() / 255).permute(3, 0, 1, 2)[None]
        return self.early(volume).mean((2, 3, 4))


@pytest.fixture(scope="module")
def program() -> ExportedProgram:
    return networks.reopened(pt2e.export_float(Network().eval(), networks.clip()))


@pytest.mark.parametrize(("kind", "precision"), KINDS)
def test_a_3d_convolution(kind: str, precision: Precision, program: ExportedProgram, tmp_path: Path) -> None:
    pytest.importorskip(PACKAGES[kind])
    found = target.load(kind)
    runtime = runtimes.get(found.runtime)
    with pytest.raises(LoweringError, match=r"axes, at most 4 .*layer early, operator .*[cC]onv"):
        runtime.lower(program, tmp_path, found, precision=precision)
    lowered = runtime.lower(program, tmp_path, found, precision=precision, allow_fallback=True)
    assert "layer early" in lowered.fallbacks[0]
    bundle = Bundle.unwritten(tmp_path, networks.described(lowered, program, found, precision))
    clip = networks.clip().numpy()
    with runtime.open(bundle, threads=1) as runner:
        if kind == "android":  # its runtime has no kernel for it
            with pytest.raises(BundleError, match="ExecuTorch cannot run the file: "):
                runner.run(clip)
        else:
            expected = program.module()(networks.clip())[0].detach().numpy()
            assert runner.run(clip) == pytest.approx(expected, abs=2e-3 * float(np.ptp(expected)))
