"""Benchmarks beside other forms and networks: what is timed is the same network, or the published one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import train_step, x3d, x3d_network
from benchmarks.conv3d import Conv3dS3DG
from d3d_edge.models.recogniser import OFFSET, SCALE
from d3d_edge.models.s3dg import S3DG


@pytest.mark.parametrize(("clips", "frames", "size"), [(2, 8, (32, 32)), (2, 9, (33, 46)), (3, 7, (56, 40))], ids=str)
def test_the_conv3d_network_has_the_logits_and_gradients_of_rank_4(
    clips: int, frames: int, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    rank4 = S3DG(5, width=0.25, dropout=0.0, bn_scale=True, bn_momentum=0.1).double()
    conv3d = Conv3dS3DG(5, width=0.25).double()
    conv3d.load_rank4(rank4.state_dict())
    volume = torch.randn(clips, 3, frames, *size, dtype=torch.float64)
    labels = torch.arange(clips)
    logits = rank4(volume.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last), clips)
    expected = conv3d(volume)
    assert torch.allclose(logits, expected, rtol=1e-9, atol=1e-9)
    for answer in (logits, expected):
        F.cross_entropy(answer, labels).backward()  # type: ignore[no-untyped-call]
    trained = dict(conv3d.named_parameters())
    assert set(trained) == {name for name, _ in rank4.named_parameters()}
    # The gradient of rank 4, loaded like a weight, is that of the other form.
    theirs = {name: gradient(value) for name, value in trained.items()}
    conv3d.load_rank4(rank4.state_dict() | {name: gradient(value) for name, value in rank4.named_parameters()})
    for name, value in conv3d.named_parameters():
        assert torch.allclose(value, theirs[name], rtol=1e-6, atol=1e-10), name


def gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_train_step_measures_each_form_and_says_on_what(
    precision: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures.json"
    train_step.main(["0.25:4x32x32:2", "--repetitions", "2", "--precision", precision, "--out", str(out)])
    written = json.loads(out.read_text())
    assert written["precision"] == precision
    (result,) = written["results"]
    assert result["case"] == "0.25:4x32x32:2"
    assert result["relative_difference"] < 1e-3
    assert 0 < result["gradient_difference"] < 1e-9
    assert list(result["forms"]) == ["rank 4", "Conv3d", "Conv3d, channels last"]
    for times in result["forms"].values():
        assert 0 < times["ms_min"] <= times["ms_p50"] <= times["ms_p90"]
    assert min(result["speed_up"].values()) > 0
    assert written["environment"]["processor"]
    shown = capsys.readouterr().out
    assert "speed-up" in shown
    assert f"in {precision}" in shown
    assert written["environment"]["processor"] in shown


def test_forms_that_are_not_one_network_are_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Conv3dS3DG, "load_rank4", lambda net, weights: None)
    out = tmp_path / "figures.json"
    with pytest.raises(SystemExit, match="not one network"):
        train_step.main(["0.25:4x32x32:2", "--out", str(out)])
    assert not out.exists()


@pytest.mark.parametrize("words", [["0.25:8x32:2"], ["0:8x32x32:2"], ["--repetitions", "0"]], ids=" ".join)
def test_what_cannot_be_measured_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        train_step.main(words)
    assert ended.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_x3d_xs_is_the_published_network() -> None:
    """3.79 million parameters with the 400 classes of Kinetics, and 0.91 GMAC at 4x182x182 less what is no kernel's."""
    net = x3d_network.X3D(400).eval()
    assert round(sum(parameter.numel() for parameter in net.parameters()) / 1e6, 2) == 3.79
    with torch.no_grad():
        features = net.blocks(net.stem(torch.zeros(1, 3, 4, 160, 160)))
    assert features.shape == (1, 192, 4, 5, 5)


def test_x3d_xs_sees_the_middles_of_equal_parts_of_a_longer_clip() -> None:
    clip = torch.arange(16, dtype=torch.uint8).reshape(1, 16, 1, 1, 1).expand(2, 16, 112, 112, 3)
    seen = x3d.seen(clip)
    assert seen.shape == (2, 3, 4, 160, 160)
    assert torch.equal(((seen - OFFSET) / SCALE).round().unique(), torch.tensor([2.0, 6.0, 10.0, 14.0]))


def test_x3d_xs_sees_a_clip_of_its_own_size_as_it_is() -> None:
    clip = torch.randint(0, 256, (1, 4, 160, 160, 3), dtype=torch.uint8)
    assert torch.equal(x3d.seen(clip), (clip.float() * SCALE + OFFSET).permute(0, 4, 1, 2, 3))
