"""The benchmarks time what they say: the Conv3d network is the rank-4 one, and the figures come out."""

from __future__ import annotations

import json
from argparse import ArgumentTypeError
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor
from torch.nn import functional as F

from benchmarks import glue, int8, network, repeats, sampling, scale, seeds, shapes, train_step, transport, x3d, xnnpack
from benchmarks.conv3d import Conv3dS3DG
from d3d_edge import recipe, target
from d3d_edge.evaluation import Evaluation, System
from d3d_edge.manifest import Clip, Manifest
from d3d_edge.models.recogniser import OFFSET, Recogniser
from d3d_edge.models.s3dg import S3DG
from d3d_edge.pipeline.data import RunData
from d3d_edge.recipe import Recipe
from d3d_edge.runs import Run
from d3d_edge.runtimes import Precision
from tests import networks
from tests.unit.harness.test_comparison import report, row, samples
from tests.unit.video.samples import textured


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


def test_train_step_measures_each_form_and_says_on_what(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "figures.json"
    train_step.main(["0.25:4x32x32:2", "--repetitions", "2", "--out", str(out)])
    written = json.loads(out.read_text())
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


def test_seeds_sums_up_each_system() -> None:
    def evaluation(*top1: float) -> Evaluation:
        systems = tuple(
            System(
                name=name,
                streams=(name,),
                inputs=("RGB",),
                parameters=1,
                gmac=1.0,
                right=round(10 * share),
                top1=share,
                top1_low=0.0,
                top1_high=1.0,
                top5=1.0,
                mean_class=share,
            )
            for name, share in zip(("spatial", "D3D"), top1, strict=True)
        )
        return Evaluation.model_construct(systems=systems)

    rows = seeds.summary([evaluation(0.2, 0.8), evaluation(0.4, 0.9), evaluation(0.6, 1.0)])
    assert [row["system"] for row in rows] == ["spatial", "D3D"]
    assert [row["mean"] for row in rows] == pytest.approx([0.4, 0.9])
    assert [row["sd"] for row in rows] == pytest.approx([0.2, 0.1])
    assert rows[1]["top1"] == [0.8, 0.9, 1.0]


@pytest.mark.parametrize(("limit", "places"), [(1, [0]), (3, [0, 3, 6]), (10, [*range(10)]), (30, [*range(10)])])
def test_a_sample_is_spread_and_has_no_clip_twice(limit: int, places: list[int]) -> None:
    clips = [Clip(path=f"{place}.mp4", label="a", split="", group="") for place in range(10)]
    assert sampling.spread(clips, limit) == [clips[place] for place in places]


def test_scale_works_a_whole_set_out_from_a_sample(tmp_path: Path) -> None:
    for place, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        video = cv2.VideoWriter(str(tmp_path / name / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25, (48, 48))
        for _ in range(12):
            video.write(textured(48, 48, place))
        video.release()
    (tmp_path / "a" / "broken.mp4").write_bytes(b"no video")
    size = ("clip.frames=4", "clip.short_side=36", "clip.height=32", "clip.width=32")
    words = [str(tmp_path), "--recipe", "demo", *(word for value in size for word in ("--set", value))]
    ran = CliRunner().invoke(scale.main, [*words, "--clips", "3600000", "--batch-size", "2", "--steps", "1"])
    made = json.loads(ran.stdout)
    clip, whole = made["mean_of_a_clip"], made["worked_out"]
    assert clip["clips"] == 2, "the broken clip is left out"
    assert clip["decoded_frames"] == 12
    # uint8 frames in three colours and two float16 components of flow, not cropped.
    assert clip["raw_bytes"] == pytest.approx(4 * 36 * 36 * (3 + 2 * 2), rel=1e-3)
    assert 0 < clip["compressed_bytes"] < clip["raw_bytes"]
    assert whole["cache_raw_gb"] == pytest.approx(3.6e-3 * clip["raw_bytes"], rel=1e-2)
    # 3.6 million clips take as many thousand hours as one takes seconds.
    assert whole["flow_cpu_h"] == pytest.approx(1000 * clip["flow_cpu_s"], rel=1e-2)
    epochs, rates = recipe.load("demo").student.train.epochs, made["training"]["student"]
    assert whole["student_device_h"] == pytest.approx(1000 * epochs / rates["clips_per_s"], rel=1e-2)


def test_scale_needs_one_clip_that_can_be_read(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "broken.mp4").write_bytes(b"no video")
    ran = CliRunner().invoke(scale.main, [str(tmp_path), "--recipe", "demo"])
    assert ran.exit_code == 1
    assert "no clip of the sample can be read" in ran.output


def test_repeats_counts_the_verdicts_of_every_pair() -> None:
    found = repeats.verdicts([report(row(taken=samples(seed, p50_ms))) for seed, p50_ms in enumerate((2.0, 2.0, 3.0))])
    assert found["android"]["verdicts"] == {"within noise": 2, "slower": 2, "faster": 2}
    assert found["android"]["marked as busy"] == 0


def test_transport_parts_what_a_device_costs_from_its_run(tmp_path: Path) -> None:
    (tmp_path / "device").mkdir()
    done = CliRunner().invoke(
        transport.main, ["--clips", "3", "--clip-ms", "5", "--device", f"local:{tmp_path / 'device'}"]
    )
    assert done.exit_code == 0, done.output
    result = json.loads(done.output)
    assert [result[which]["sent_mb"] > 0 for which in ("first", "again")] == [True, False]
    for which in ("first", "again"):
        steps = result[which]
        assert 0.015 <= steps["run_s"] < 5
        parts = sum(steps[f"{step}_s"] for step in ("push", "start", "pull"))
        assert steps["overhead_s"] == pytest.approx(parts, abs=0.03)


def seed_of(**changes: float) -> int8.Seed:
    """A run with 4 clips a split, all named rightly by the float student; a model is off by a number in one logit."""
    labels = np.array([0, 1, 2, 0])
    logits = np.eye(3, dtype=np.float32)[labels]
    seed = int8.Seed(cast(Run, None), cast(RunData, None), dict.fromkeys(int8.SPLITS, labels))
    for name, change in {"float student": 0.0, **changes}.items():
        off = logits.copy()
        off[0, 1] += change
        seed.models[name] = int8.Answered(name, "here", {"val": logits + change / 100, "test": off})
    return seed


def test_int8_compares_each_model_with_the_float_student_clip_by_clip() -> None:
    seeds_ = [seed_of(quantized=0.5), seed_of(quantized=2.0)]
    row = int8.row(seeds_, "quantized")
    assert row["test"]["top1"] == [1.0, 0.75]
    assert row["test"]["mean"] == pytest.approx(0.875)
    assert row["test"]["difference_points"] == pytest.approx(-12.5)
    assert row["test"]["difference_points_low"] < -12.5 < row["test"]["difference_points_high"] <= 0
    assert row["val_and_test"]["difference_points"] == pytest.approx(-6.25)
    assert int8.row(seeds_, "float student")["test"]["difference_points_low"] == 0.0


def test_int8_bootstraps_clips_and_not_runs() -> None:
    # One clip is lost in every run: as uncertain as one run would be.
    difference = np.zeros((5, 10))
    difference[:, 0] = -1
    assert int8.interval(difference) == int8.interval(difference[:1])


def test_int8_chooses_the_plan_that_is_nearest_on_the_val_split() -> None:
    changes = {"ptq near": 0.1, "ptq far": 5.0}
    assert int8.best_plan([seed_of(**changes)], ["far", "near"]) == "near"


def test_int8_tells_how_far_the_forms_of_a_graph_are_apart() -> None:
    forms = {f"{kind} {form}": 0.0 for kind in int8.BOUNDS for form in ("graph", *int8.TARGETS)}
    found = int8.pairs([seed_of(**forms | {"qat ios": 2.0})])
    assert len(found) == 2 * 6
    apart = [pair for pair in found if pair["logit_difference_max"] > 0]
    assert {pair["one"] for pair in apart} | {pair["other"] for pair in apart} == set(list(forms)[4:])
    assert {pair["agreement"] for pair in apart} == {7 / 8}
    assert {pair["logit_difference_max"] for pair in apart} == {2.0}


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


def test_x3d_xs_is_the_published_network() -> None:
    """3.79 million parameters with the 400 classes of Kinetics, and 0.91 GMAC at 4x182x182 less what is no kernel's."""
    net = x3d.X3D(400).eval()
    assert round(sum(parameter.numel() for parameter in net.parameters()) / 1e6, 2) == 3.79
    with torch.no_grad():
        features = net.blocks(net.stem(torch.zeros(1, 3, 4, 160, 160)))
    assert features.shape == (1, 192, 4, 5, 5)


@pytest.mark.parametrize("shape", shapes.SHAPES, ids=str)
def test_a_shape_is_what_is_trained(shape: shapes.Shape) -> None:
    loaded = recipe.load("gestures", shapes.settings(shape, 3))
    assert (loaded.seed, loaded.clip.shape) == (3, (shape.frames, shape.side, shape.side, 3))
    for part in (loaded.teacher.network, loaded.student.network):
        assert {name: getattr(part, name) for name in shape.network} == shape.network
    assert not loaded.baselines


def test_shapes_names_those_that_none_beats(tmp_path: Path) -> None:
    """A, B and C are timed and trained: B is slower than A and no better; D is not trained yet."""
    rows = [
        {"shape": name, "parameters": 1, "gmac": 1.0, "teacher": {0: 0.8}, "int8": {}, "top1": top1}
        | {"times": {f"threads_{number}": {"latency_ms_p50": ms} for number in shapes.THREADS}}
        for name, ms, top1 in (("A", 1.0, {0: 0.5, 1: 0.7}), ("B", 2.0, {0: 0.6}), ("C", 3.0, {0: 0.9}), ("D", 1.0, {}))
    ]
    assert shapes.front(rows) == {"A", "C"}
    lines = shapes.table(rows)[2:]
    assert lines[0] == "| **A** | 1.00 | 1.00 | 0.00 | 1.00 | 0.800 | 0.500 0.700 | - | 0.600 |"
    assert sum("**" in line for line in lines) == 2


def test_a_clip_that_a_shape_cannot_take_counts_as_wrong(tmp_path: Path, recipe_data: dict[str, Any]) -> None:
    """Of ten test clips, one is too short: 6 of the other 9 are right."""
    names = [(number, ("up", "down")[number % 2]) for number in range(10)]
    clips = tuple(Clip(path=f"{number}.mp4", label=label, split="test", group="A") for number, label in names)
    clips += tuple(Clip(path=f"{label}.mp4", label=label, split="train", group="B") for label in ("up", "down"))
    for seed in (0, 11):
        run = shapes.run_of(tmp_path, shapes.SHAPES[0], seed)
        Run.start(run, Recipe.model_validate(recipe_data), Manifest(clips=clips))
        Run.open(run).finish("student", "mark", top1=6 / 9, clips=9)
    shapes.run_of(tmp_path, shapes.SHAPES[0], 2).mkdir()
    assert shapes.top1(tmp_path, shapes.SHAPES[0], "student") == {0: 0.6, 11: 0.6}


def test_glue_sets_a_network_against_its_convolutions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    executorch = pytest.importorskip("d3d_edge.runtimes.executorch")

    def small(net: object, sample: Tensor, precision: Precision, folder: Path) -> Path:
        folder.mkdir()
        executorch.RUNTIME.lower(networks.quantized(), folder, target.load("android"), precision=precision)
        return folder / executorch.MODEL

    monkeypatch.setattr(glue, "pte", small)
    out = tmp_path / "figures.json"
    size = "x".join(map(str, networks.clip().shape[:3]))
    glue.main(["0.25", "--clip", size, "--threads", "1", "--repetitions", "2", "--out", str(out)])
    (result,) = json.loads(out.read_text())["results"]
    assert result["convolutions"] == result["kinds"]["convolutions"]["operators"] == 6
    assert 0 < result["convolutions_ms"] < 1e3
    assert 0 < result["xnnpack_ms"] < 1e3
    assert min(result["ratio"], result["xnnpack_ratio"]) > 0
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
