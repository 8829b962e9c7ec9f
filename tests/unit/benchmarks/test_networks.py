"""Benchmarks of networks as files: what is timed computes what it should, and the figures come out."""

from __future__ import annotations

import itertools
import json
import subprocess
from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks import export, glue, network, presets, xnnpack
from d3d_edge import target
from d3d_edge.bundle import Bundle
from d3d_edge.models.layers import SeparableConv
from d3d_edge.models.recogniser import OFFSET, Recogniser
from d3d_edge.pipeline.export import export as export_run
from d3d_edge.presets import PRESETS
from d3d_edge.progress import Silent
from d3d_edge.quantize import pt2e
from d3d_edge.runs import Run
from d3d_edge.runtimes import Precision
from tests import networks


@torch.no_grad()
def test_the_networks_timed_are_one_from_bytes_to_logits() -> None:
    rank4, conv3d = network.networks(0.25)
    clip = torch.randint(0, 256, (8, 33, 40, 3), dtype=torch.uint8)
    logits = Recogniser(rank4)(clip)
    assert logits.std() > 0
    for layout in (torch.contiguous_format, torch.channels_last_3d):
        torch.testing.assert_close(network.FromBytes(conv3d, layout)(clip), logits, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("text", ["16x112", "0x112x112", "16:112:112", "1x2x3x4"])
def test_a_clip_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError):
        network.clip_from_text(text)


def test_glue_sets_a_network_against_its_convolutions(
    small_pte: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(glue, "pte", small_pte)
    out = tmp_path / "figures.json"
    size = "x".join(map(str, networks.clip().shape[:3]))
    glue.main(["0.25", "--clip", size, "--threads", "1", "--repetitions", "2", "--out", str(out)])
    (result,) = json.loads(out.read_text())["results"]
    assert result["convolutions"] == result["kinds"]["convolutions"]["operators"] == 6
    for sums in (result["after_others"], result["after_itself"]):
        assert 0 < sums["convolutions_ms"] < 1e3
        assert 0 < sums["xnnpack_ms"] < 1e3
        assert min(sums["ratio"], sums["xnnpack_ratio"]) > 0
    assert "changes of view" in capsys.readouterr().out


def test_a_graph_computes_the_same_in_xnnpack_alone(tmp_path: Path) -> None:
    executorch = pytest.importorskip("d3d_edge.runtimes.executorch")
    with glue.graphs_kept() as kept:
        executorch.RUNTIME.lower(networks.quantized(), tmp_path, target.load("android"), precision="int8")
    ((graph, constants),) = kept
    clip = networks.clip(1).numpy()
    with (
        executorch.ExecuTorchRunner(tmp_path / executorch.MODEL, 1) as runner,
        xnnpack.Part(graph, constants, graph.xnodes) as whole,
    ):
        # ExecuTorch passes numbers of the graph to the delegate, in the order in which they are used.
        for taken, given in zip(whole.inputs, (clip, np.float32(OFFSET)), strict=True):
            whole.arrays[taken][: given.size] = given.ravel()
        whole.run()
        (logits,) = whole.outputs
        np.testing.assert_array_equal(whole.arrays[logits][: networks.CLASSES], runner.run(clip))


def test_glue_says_what_each_operator_is_for() -> None:
    names = ["Convert", "StaticConstantPad", "Conv2d", "GlobalAvgPooling2d", "Conv2d", "Sigmoid", "Multiply"]
    names += ["Convert", "AvgPooling2d", "GlobalAvgPooling2d", "Conv2d", "Convert"]
    found = glue.kinds(names, [1000.0] * len(names))
    assert {purpose: kind.operators for purpose, kind in found.items()} == {
        "head": 4,
        "convolutions": 3,
        "gates, without their convolutions": 3,
        "bytes to INT8": 1,
        "stacking frames and pairing pixels": 1,
    }
    assert found["head"].ms == 4
    with pytest.raises(SystemExit, match="cannot be said which is which"):
        glue.kinds(names, [1.0])


def test_presets_measures_both_files_of_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    executorch = pytest.importorskip("d3d_edge.runtimes.executorch")
    sizes: dict[str, int] = {}
    logits: dict[str, np.ndarray] = {}
    expected: dict[str, np.ndarray] = {}

    def small(net: object, sample: Tensor, precision: Precision, folder: Path) -> Path:
        folder.mkdir()
        program = networks.quantized() if precision == "int8" else networks.float_program()
        executorch.RUNTIME.lower(program, folder, target.load("android"), precision=precision)
        with torch.no_grad():
            expected[precision] = program.module()(sample)[0].numpy()
        sizes[precision] = (folder / executorch.MODEL).stat().st_size
        return folder / executorch.MODEL

    def turns(runs: dict[str, Callable[[], np.ndarray]], repetitions: int) -> dict[str, list[float]]:
        logits.update({name: run() for name, run in runs.items()})
        return {name: [ms, 9 * ms, 2 * ms] for name, ms in zip(runs, (1.0, 10.0), strict=True)}

    tiny = PRESETS["nano"].model_copy(update={"frames": networks.FRAMES, "side": networks.SIDE})
    monkeypatch.setattr(presets, "PRESETS", {"tiny": tiny})
    monkeypatch.setattr(presets, "pte", small)
    monkeypatch.setattr(presets, "take_turns", turns)
    monkeypatch.setattr(presets, "_memory_bytes", lambda path, threads, clip: 1000 * path.stat().st_size)
    out = tmp_path / "figures.json"
    presets.main(["tiny", "--threads", "1", "--repetitions", "3", "--out", str(out)])
    (result,) = json.loads(out.read_text())["results"]
    assert (result["preset"], result["clip"], result["threads"]) == ("tiny", "4x16x16", 1)
    assert {kind: form["size_bytes"] for kind, form in result["forms"].items()} == sizes
    assert {kind: form["memory_bytes"] for kind, form in result["forms"].items()} == {
        kind: 1000 * size for kind, size in sizes.items()
    }
    assert {kind: form["ms_p50"] for kind, form in result["forms"].items()} == {"int8": 2.0, "float32": 20.0}
    assert result["size_ratio"] == sizes["int8"] / sizes["float32"] < 1
    # Each is timed by its own file.
    np.testing.assert_allclose(logits["float32"], expected["float32"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(logits["int8"], expected["int8"], atol=1.01 * pt2e.logit_step(networks.quantized()))
    printed = capsys.readouterr().out
    for kind, share, ms in (("int8", f"{result['size_ratio']:.3f}", "2.00"), ("float32", "-", "20.00")):
        (line,) = (line.split() for line in printed.splitlines() if f" tiny    4x16x16  {kind} " in line)
        assert line == ["tiny", "4x16x16", kind, f"{sizes[kind] / 1e6:.3f}", share, f"{sizes[kind] / 1e3:.1f}", ms]


def test_what_is_no_preset_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        presets.main(["huge"])
    assert ended.value.code == 2
    assert "invalid choice: 'huge'" in capsys.readouterr().err


class Little(nn.Module):
    """Frames to logits, as a network of this project."""

    in_channels = 3

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = SeparableConv(3, 8, 3, 2, temporal=True)
        self.logits = nn.Conv2d(8, classes, 1)

    def forward(self, frames: Tensor, clips: int = 1) -> Tensor:
        logits: Tensor = self.logits(self.stem.as_clip(frames, clips).mean((2, 3), keepdim=True))
        return logits.flatten(1)


@pytest.fixture
def untrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The run whose export is timed, of a smaller network."""
    monkeypatch.setattr(export, "network", lambda spec, classes, in_channels: Little(classes))
    return export.untrained(tmp_path / "made", 0.25, network.Clip(4, 32, 32))


def test_the_run_that_is_made_for_the_time_of_an_export_can_be_exported(untrained: Run, tmp_path: Path) -> None:
    assert untrained.recipe.clip.shape == (4, 32, 32, 3)
    assert untrained.recipe.student.network.width == untrained.recipe.teacher.network.width == 0.25
    made = export_run(
        untrained, [target.load("host")], tmp_path / "out", precision="int8", workers=0, progress=Silent()
    )
    assert [bundle.path.name for bundle in made] == ["host", "reference-float32", "reference-int8"]
    assert [Bundle.open(bundle.path).manifest.precision for bundle in made] == ["int8", "float32", "int8"]


def test_export_times_all_targets_and_each_alone(
    untrained: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("executorch", "coremltools", "onnxruntime"):
        pytest.importorskip(package)
    commands: list[list[str]] = []

    def called(command: list[str], **how: object) -> subprocess.CompletedProcess[str]:
        commands.append(command[command.index("export") :])
        return subprocess.CompletedProcess(command, 0, "", "")

    # Before and after each command: they take 60, 3, 30, 20 and 10 s.
    clock = itertools.accumulate((0, 60, 1, 3, 1, 30, 1, 20, 1, 10))
    monkeypatch.setattr(export, "subprocess", SimpleNamespace(run=called))
    monkeypatch.setattr(export, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    out = tmp_path / "figures.json"
    words = ["0.25", "--clip", "4x32x32", "--workers", "4", "--at", str(untrained.path.parent), "--out", str(out)]
    export.main(words)
    figures = json.loads(out.read_text())
    assert (figures["multiplier"], figures["clip"], figures["workers"]) == (0.25, "4x32x32", 4)
    assert figures["seconds"] == {"all": 60, "nothing left to do": 3, "android": 30, "ios": 20, "jetson": 10}
    assert {command[1] for command in commands} == {str(untrained.path)}
    assert commands[0] == commands[1], "the second one finds all of the first one's"
    assert [(command[3], command[-1]) for command in commands[1:]] == [
        ("all", "4"),
        *((name, "1") for name in export.TARGETS),
    ]
    assert len({command[command.index("--out") + 1] for command in commands}) == 4
    printed = capsys.readouterr().out
    for words in ("all 60.0", "nothing left to do 3.0", "--target android, 1 worker 30.0"):
        assert words in " ".join(printed.split())


def test_an_export_that_fails_ends_the_benchmark_with_what_it_said(
    untrained: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = subprocess.CompletedProcess([], 5, "", "error: it cannot be lowered\n")
    monkeypatch.setattr(export, "subprocess", SimpleNamespace(run=lambda command, **how: failed))
    with pytest.raises(SystemExit, match=r"^error: it cannot be lowered$"):
        export.main(["--at", str(untrained.path.parent), "--only-all"])


def test_only_the_run_is_made_where_no_time_is_wanted(untrained: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "subprocess", None)
    export.main(["--at", str(untrained.path.parent), "--make-only"])
