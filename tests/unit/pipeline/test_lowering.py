"""A bundle's file answers as its graph does on a clip, or there is no bundle."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn import functional as F

from d3d_edge import runtimes, target
from d3d_edge.bundle import Bundle
from d3d_edge.errors import LoweringError, MissingDependency
from d3d_edge.pipeline import golden, lowering
from d3d_edge.quantize import pt2e
from d3d_edge.target import Precision
from tests import networks

pytestmark = pytest.mark.slow
PACKAGES = {"android": "executorch", "ios": "coremltools", "jetson": "onnxruntime"}
LOWERED: list[tuple[str, Precision]] = [
    ("android", "int8"),
    ("android", "float32"),
    ("ios", "int8"),
    ("ios", "weights-int8"),
    ("jetson", "int8"),
    ("jetson", "int8+float16"),
]


class DividesBySomethingElse(nn.Module):
    """A sum over nine values that is divided by two: PyTorch writes the ONNX operator that divides by nine."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)

    def forward(self, clip: Tensor) -> Tensor:
        pooled = F.avg_pool2d(
            self.stem(clip.float().permute(0, 3, 1, 2)), 3, 1, count_include_pad=False, divisor_override=2
        )
        return pooled.mean((0, 2, 3))[None]


class Overflows(nn.Module):
    """What lies between its two factors is no float16, and its logits are those of any network."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)

    def forward(self, clip: Tensor) -> Tensor:
        large = self.stem(clip.float().permute(0, 3, 1, 2)) * 1e4
        return (large.relu() * 1e-5).mean((0, 2, 3))[None]


class Shuffles(nn.Module):
    """A network that ExecuTorch lowers, and does not run."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)

    def forward(self, clip: Tensor) -> Tensor:
        x = F.pixel_shuffle(self.stem(clip.float().permute(0, 3, 1, 2)), 2)
        return x.mean((0, 1, 3))[None]


def written(
    program: ExportedProgram, name: str, precision: Precision, path: Path, clips: Tensor, **options: Any
) -> Bundle:
    found = target.load(name)

    def describe(lowered: runtimes.Lowered) -> Any:
        noted = {"fallbacks": lowered.fallbacks}
        return networks.described(lowered, program, found, precision).model_copy(update=noted)

    return lowering.write(program, found, path, clips.numpy()[None], precision=precision, describe=describe, **options)


@pytest.fixture(scope="module")
def wrong() -> Any:
    """Lowers a network to an ONNX file that loads, runs, and answers something else."""
    pytest.importorskip("onnxruntime")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        program = pt2e.export_float(DividesBySomethingElse(), networks.clip())
    return partial(written, program, "jetson", "float32", clips=networks.clip())


@pytest.mark.parametrize(("name", "precision"), LOWERED, ids=lambda value: str(value))
def test_a_bundle_says_how_near_its_file_is_and_by_what_it_was_run(
    name: str, precision: Precision, tmp_path: Path
) -> None:
    pytest.importorskip(PACKAGES[name])
    program = networks.quantized() if precision in target.QUANTIZED else networks.float_program()
    bundle = written(program, name, precision, tmp_path / "bundle", networks.clip())
    facts = Bundle.open(bundle.path).manifest.lowering
    logits = np.load(bundle.path / "golden" / "logits.npy")
    assert 0 <= float(facts["answers_difference"]) < 0.25 * np.ptp(logits)
    assert (golden.MOVED in facts) is (precision in target.QUANTIZED)
    assert float(facts["answers_difference"]) <= 4 * float(facts.get(golden.MOVED, np.inf))
    assert (golden.ROUNDED in facts) is (precision == "weights-int8")
    assert float(facts["answers_difference"]) == pytest.approx(
        facts.get(golden.ROUNDED, facts["answers_difference"]), rel=0.1
    )
    assert (golden.HALVED in facts) is (precision == "float16")
    assert float(facts["answers_difference"]) <= 2 * float(facts.get(golden.HALVED, np.inf))
    with runtimes.get(bundle.manifest.runtime).open(bundle) as runner:
        assert facts["answers_checked_by"] == runner.runtime


@pytest.mark.parametrize(("name", "precision"), [("ios", "float16"), ("ios", "weights-int8"), ("jetson", "float16")])
def test_a_network_that_float16_makes_infinite_is_refused(name: str, precision: Precision, tmp_path: Path) -> None:
    """This machine computes such files in float32, and a device would not."""
    pytest.importorskip(PACKAGES[name])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        program = pt2e.export_float(Overflows(), networks.clip())
    with pytest.raises(LoweringError, match=r"mul is up to .* on the bundle's clips, and \w+ computes to 65504"):
        written(program, name, precision, tmp_path / "bundle", networks.clip())
    assert list(tmp_path.iterdir()) == []
    bundle = written(program, name, precision, tmp_path / "bundle", networks.clip(), allow_fallback=True)
    assert "computes to 65504" in bundle.manifest.fallbacks[0]


def test_a_file_that_answers_something_else_is_refused(wrong: Any, tmp_path: Path) -> None:
    with pytest.raises(LoweringError, match=r"answers something else than the graph.*stage answers, onnxruntime"):
        wrong(path=tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_an_int8_file_that_answers_something_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    runtime = type(runtimes.get("tensorrt"))
    lower = runtime.lower

    def negated(self: Any, program: ExportedProgram, folder: Path, *words: Any, **options: Any) -> runtimes.Lowered:
        lowered = lower(self, program, folder, *words, **options)
        model = onnx.load(folder / lowered.model)
        (last,) = model.graph.output
        (maker,) = (node for node in model.graph.node if last.name in node.output)
        maker.output[0] = "before"
        model.graph.node.append(onnx.helper.make_node("Neg", ["before"], [last.name]))
        onnx.save(model, folder / lowered.model)
        return lowered

    monkeypatch.setattr(runtime, "lower", negated)
    with pytest.raises(LoweringError, match="answers something else than the graph"):
        written(networks.quantized(), "jetson", "int8", tmp_path / "bundle", networks.clip())


def test_with_a_fallback_allowed_it_is_written_and_noted(wrong: Any, tmp_path: Path) -> None:
    bundle = wrong(path=tmp_path / "bundle", allow_fallback=True)
    (note,) = Bundle.open(bundle.path).manifest.fallbacks
    assert "answers something else" in note


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: torch.log(0 * x - 1), "logits of the clips that are not finite"),
        (lambda x: x + torch.rand_like(x), "other logits each time that it is asked .*network.eval()"),
        (lambda x: 1e3 + torch.rand_like(x), "other logits each time that it is asked .*network.eval()"),
    ],
    ids=["no numbers", "chance", "chance far from zero"],
)
def test_a_graph_that_nothing_can_be_compared_with_is_refused(
    change: Callable[[Tensor], Tensor], said: str, tmp_path: Path
) -> None:
    program = pt2e.export_float(
        networks.Function(lambda clip: change(clip.float().mean((0, 1, 2))[None])), networks.clip()
    )
    with pytest.raises(LoweringError, match=said):
        written(program, "host", "float32", tmp_path / "bundle", networks.clip(), allow_fallback=True)
    assert not (tmp_path / "bundle").exists()


def test_a_file_that_does_not_run_is_written_where_that_is_allowed(tmp_path: Path) -> None:
    """XNNPACK's kernels take the file, and refuse what they are given."""
    pytest.importorskip("executorch")
    program = pt2e.export_float(Shuffles(), networks.clip())
    bundle = written(program, "android", "float32", tmp_path / "bundle", networks.clip(), allow_fallback=True)
    assert "does not run" in bundle.manifest.fallbacks[-1]
    assert bundle.manifest.lowering["answers_not_checked"]


def test_answers_that_are_no_numbers_are_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lowering, "largest_difference", lambda *_: float("nan"))
    pytest.importorskip("onnxruntime")
    program = networks.float_program()
    bundle = written(program, "jetson", "float32", tmp_path / "bundle", networks.clip(), allow_fallback=True)
    (note,) = Bundle.open(bundle.path).manifest.fallbacks
    assert "differ by nan" in note


@pytest.mark.parametrize(
    "plant",
    [
        lambda path: path.write_bytes(path.read_bytes()[:1000]),
        lambda path: path.write_bytes(b"no model"),
        lambda path: onnx.save(of_other_classes(onnx.load(path)), path),
    ],
    ids=["truncated", "no model", "of other classes"],
)
def test_a_file_that_does_not_load_is_refused(
    plant: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the cause: the file that was written is opened as an app will open it."""
    tensorrt = runtimes.get("tensorrt")
    lower = tensorrt.lower

    def planted(program: ExportedProgram, folder: Path, *words: Any, **more: Any) -> runtimes.Lowered:
        lowered = lower(program, folder, *words, **more)
        plant(folder / lowered.model)
        return lowered

    monkeypatch.setattr(tensorrt, "lower", planted)
    arguments = (networks.float_program(), "jetson", "float32", tmp_path / "bundle", networks.clip())
    with pytest.raises(LoweringError, match=r"the file does not run: .*model\.onnx.*\[stage answers\]") as caught:
        written(*arguments)
    assert str(tmp_path) not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    allowed = written(*arguments, allow_fallback=True)
    assert "does not run" in allowed.manifest.fallbacks[0]


def of_other_classes(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model`, which gives its logits twice, side by side."""
    (logits,) = model.graph.output
    last = next(node for node in model.graph.node if logits.name in node.output)
    last.output[:] = ["once"]
    model.graph.node.append(onnx.helper.make_node("Concat", ["once", "once"], [logits.name], axis=1))
    logits.type.tensor_type.shape.dim[1].dim_value *= 2
    return model


def test_where_nothing_can_run_the_file_the_bundle_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise MissingDependency.of("onnxruntime", "jetson", "running it")

    monkeypatch.setattr(runtimes.get("tensorrt"), "check_run", missing)
    bundle = written(networks.float_program(), "jetson", "float32", tmp_path / "bundle", networks.clip())
    assert "onnxruntime" in str(bundle.manifest.lowering["answers_not_checked"])
    assert "answers_checked_by" not in bundle.manifest.lowering


def test_a_process_that_lowers_holds_no_semaphore() -> None:
    """Python prints of each that is left behind where the process is ended."""
    script = """
import multiprocessing
from multiprocessing import resource_tracker
from d3d_edge.pipeline import lowering
resource_tracker.register = lambda name, kind: print(kind)
multiprocessing.set_start_method("spawn")  # as in the processes that share the work
lowering.prepare()
import torch
torch.fx.Interpreter(torch.fx.symbolic_trace(torch.nn.ReLU())).run(torch.ones(1))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == ""
