"""Lowering to Core ML: what is in the package, and that it computes what the graph does."""

from __future__ import annotations

import shutil
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from d3d_edge import target
from d3d_edge.bundle import Bundle, BundleManifest
from d3d_edge.clip import ClipSpec
from d3d_edge.errors import BundleError, DataError, LoweringError
from d3d_edge.files import sha256_of_file
from d3d_edge.models.layers import SeparableConv, StackedConv
from d3d_edge.models.pools import MaxPool
from d3d_edge.models.recogniser import OFFSET, SCALE
from d3d_edge.models.views import clip_view
from d3d_edge.quantize import pt2e
from d3d_edge.runner import TensorSpec, Where
from d3d_edge.runtimes import Lowered, coreml_conversion
from d3d_edge.runtimes.coreml import RUNTIME
from d3d_edge.runtimes.mil import quiet

pytest.importorskip("coremltools")
with quiet():
    import coremltools as ct

CLASSES = 5
IOS = target.load("ios")


class Small(nn.Module):
    """Every kind of layer of the network, once."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = StackedConv(3, 16, (3, 7), 2)
        self.pool = MaxPool((1, 3), (1, 2))
        self.left = SeparableConv(16, 48, 1, gating=True)
        self.right = SeparableConv(16, 64, 3, temporal=True, gating=True)
        self.shrink = MaxPool((3, 3), (2, 2))
        self.head = nn.Conv2d(112, CLASSES, 1)

    def forward(self, clip: Tensor) -> Tensor:
        x = (clip.to(torch.float32) * SCALE + OFFSET).permute(0, 3, 1, 2)
        x = self.pool(self.stem(x, 1))
        x = self.shrink(torch.cat([self.left(x, 1), self.right(x, 1)], 1), 1)
        return self.head(clip_view(x, 1).mean((2, 3), keepdim=True)).flatten(1)


@pytest.fixture(scope="module")
def clips() -> Tensor:
    """Six clips, uint8 [6, T, H, W, C]."""
    torch.manual_seed(1)
    return torch.randint(0, 256, (6, 8, 32, 32, 3), dtype=torch.uint8)


@pytest.fixture(scope="module")
def network(clips: Tensor) -> nn.Module:
    torch.manual_seed(0)
    net = Small()
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        for clip in clips:
            net(clip)
    return net.eval()


@pytest.fixture(scope="module")
def quantized(network: nn.Module, clips: Tensor) -> ExportedProgram:
    prepared = pt2e.prepare(pt2e.capture(network, clips[0]), scheme="affine", observer="minmax", qat=False)
    pt2e.calibrate(prepared, clips)
    return pt2e.convert(prepared, clips[0])


@pytest.fixture(scope="module")
def floating(network: nn.Module, clips: Tensor) -> ExportedProgram:
    return pt2e.export_float(network, clips[0])


Lower = Callable[[ExportedProgram], tuple[Path, Lowered]]


@pytest.fixture(scope="module")
def lower(tmp_path_factory: pytest.TempPathFactory) -> Lower:
    """Lower each program once, to a folder of its own."""
    done: dict[int, tuple[Path, Lowered]] = {}

    def lower(program: ExportedProgram) -> tuple[Path, Lowered]:
        if id(program) not in done:
            folder = tmp_path_factory.mktemp("lowered")
            done[id(program)] = folder, RUNTIME.lower(program, folder, IOS, precision="int8")
        return done[id(program)]

    return lower


def bundle_of(folder: Path, lowered: Lowered, clip_data: dict[str, Any]) -> Bundle:
    clip = ClipSpec(**clip_data)
    manifest = BundleManifest.model_construct(
        model=lowered.model,
        clip=clip,
        input=TensorSpec(name="clip", dtype="uint8", shape=clip.shape),
        output=TensorSpec(name="logits", dtype="float32", shape=(CLASSES,)),
    )
    return Bundle(folder, manifest)


def differences(program: ExportedProgram, bundle: Bundle, clips: Tensor) -> list[float]:
    module = program.module()
    with RUNTIME.open(bundle) as runner:
        return [float(np.abs(runner.run(clip.numpy()) - module(clip)[0].detach().numpy()).max()) for clip in clips]


def test_a_quantized_package_computes_what_its_graph_does(
    quantized: ExportedProgram, lower: Lower, clips: Tensor, clip_data: dict[str, Any]
) -> None:
    step = pt2e.logit_step(quantized)
    assert step is not None
    found = differences(quantized, bundle_of(*lower(quantized), clip_data), clips)
    assert max(found) <= 1.001 * step


def test_a_float_package_computes_what_its_graph_does(
    floating: ExportedProgram, lower: Lower, clips: Tensor, clip_data: dict[str, Any]
) -> None:
    logits = floating.module()(clips[0])
    # Float16 has 11 bits; four more go in five layers of sums.
    assert max(differences(floating, bundle_of(*lower(floating), clip_data), clips)) <= 2**-7 * float(
        logits.abs().max()
    )


def test_weights_are_stored_as_int8_and_activations_quantized(
    quantized: ExportedProgram, floating: ExportedProgram, lower: Lower
) -> None:
    facts, weights = {}, {}
    for name, program in (("int8", quantized), ("float", floating)):
        folder, lowered = lower(program)
        facts[name] = lowered.facts
        weights[name] = (folder / lowered.model / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size
    parameters = sum(p.numel() for name, p in floating.named_parameters() if name.endswith("weight"))
    assert facts["int8"]["specification_version"] == 8  # iOS 17
    assert facts["int8"]["int8_weights"] == 7
    assert facts["float"]["int8_weights"] == 0
    assert facts["float"]["quantize_operators"] == 0
    assert int(facts["int8"]["quantize_operators"]) > 7
    assert weights["int8"] < 1.25 * parameters
    assert weights["float"] > 2 * parameters


def test_the_features_are_named_and_typed_for_the_app(quantized: ExportedProgram, lower: Lower) -> None:
    folder, lowered = lower(quantized)
    described = ct.utils.load_spec(str(folder / lowered.model)).description
    found = [(f.name, f.type.multiArrayType.dataType, list(f.type.multiArrayType.shape)) for f in
             (*described.input, *described.output)]  # fmt: skip
    float16 = ct.proto.FeatureTypes_pb2.ArrayFeatureType.FLOAT16
    assert found == [("clip", float16, [8, 32, 32, 3]), ("logits", float16, [1, CLASSES])]


def test_lowering_again_writes_the_same_bytes(quantized: ExportedProgram, lower: Lower, tmp_path: Path) -> None:
    folder, lowered = lower(quantized)
    RUNTIME.lower(quantized, tmp_path, IOS, precision="int8")
    first, again = (
        {path.relative_to(root): sha256_of_file(path) for path in (root / lowered.model).rglob("*") if path.is_file()}
        for root in (folder, tmp_path)
    )
    assert first == again


@pytest.mark.parametrize("kind", ["quantized", "floating"])
def test_the_passes_run_change_the_graph_as_all_of_coremltools_do(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def operators(passes: tuple[str, ...]) -> Counter[str]:
        monkeypatch.setattr(coreml_conversion, "_PASSES", passes)
        spec = coreml_conversion.convert(ct, request.getfixturevalue(kind), ct.target.iOS17).get_spec()
        (block,) = spec.mlProgram.functions["main"].block_specializations.values()
        return Counter(op.type for op in block.operations if op.type != "const")

    every = tuple(name.removeprefix("common::") for name in ct.PassPipeline().passes)
    assert operators(coreml_conversion._PASSES) == operators(every)


def test_a_runner_says_that_an_interpreter_ran_it(
    quantized: ExportedProgram, lower: Lower, clip_data: dict[str, Any], clips: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    with RUNTIME.open(bundle_of(*lower(quantized), clip_data)) as runner:
        assert runner.where is Where.REFERENCE_INTERPRETER
        assert runner.runtime.startswith("MIL interpreter, d3d-edge ")
        logits = runner.run(clips[0].numpy())
        assert (logits.dtype, logits.shape) == (np.dtype("float32"), (CLASSES,))
        for wrong in (clips[0].numpy()[1:], clips[0].numpy().astype(np.float32)):
            with pytest.raises(DataError, match="the model takes uint8"):
                runner.run(wrong)
    runner.__exit__()
    with pytest.raises(DataError, match="closed"):
        runner.run(clips[0].numpy())


class FakeModel:
    """What coremltools gives on macOS, as far as it is used."""

    def __init__(self, path: str) -> None:
        self.__proxy__: object = None if "newer" in path else self
        if "refused" in path:
            warnings.warn("You will not be able to run predict()", RuntimeWarning, stacklevel=1)

    def get_spec(self) -> Any:
        def described(*shape: int) -> Any:
            return SimpleNamespace(type=SimpleNamespace(multiArrayType=SimpleNamespace(shape=shape)))

        taken, given = described(8, 32, 32, 3), described(1, CLASSES)
        return SimpleNamespace(description=SimpleNamespace(input=[taken], output=[given]))

    def predict(self, inputs: dict[str, Any]) -> dict[str, Any]:
        ((name, clip),) = inputs.items()
        return {"logits": np.full((1, CLASSES), clip.sum(), np.float16)} if name == "clip" else {}


@pytest.fixture
def macos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr("platform.mac_ver", lambda: ("14.5", ("", "", ""), "arm64"))
    monkeypatch.setattr(ct.models, "MLModel", FakeModel)


@pytest.mark.usefixtures("macos")
def test_on_macos_core_ml_runs_it(clip_data: dict[str, Any], clips: Tensor) -> None:
    with RUNTIME.open(bundle_of(Path("here"), Lowered("model.mlpackage"), clip_data)) as runner:
        assert (runner.where, runner.runtime) == (Where.HOST_RUNTIME, "Core ML (macOS 14.5)")
        logits = runner.run(torch.ones_like(clips[0]).numpy())
        assert logits.dtype == np.float32
        assert logits.tolist() == [8 * 32 * 32 * 3] * CLASSES


@pytest.mark.usefixtures("macos")
@pytest.mark.parametrize(("model", "said"), [("refused", "cannot be loaded: You will"), ("newer", "newer than this")])
def test_a_package_that_core_ml_does_not_load_is_refused(model: str, said: str, clip_data: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match=said):
        RUNTIME.open(bundle_of(Path("here"), Lowered(model), clip_data))


def test_a_package_for_other_clips_than_the_manifest_says_is_refused(
    quantized: ExportedProgram, lower: Lower, clip_data: dict[str, Any]
) -> None:
    with pytest.raises(BundleError, match="the manifest says"):
        RUNTIME.open(bundle_of(*lower(quantized), {**clip_data, "frames": 16}))


def test_a_damaged_package_is_refused(
    quantized: ExportedProgram, lower: Lower, clip_data: dict[str, Any], tmp_path: Path
) -> None:
    folder, lowered = lower(quantized)
    shutil.copytree(folder / lowered.model, tmp_path / lowered.model)
    path = tmp_path / lowered.model / "Data/com.apple.CoreML/model.mlmodel"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BundleError, match="cannot be read"):
        RUNTIME.open(bundle_of(tmp_path, lowered, clip_data))


class FiveAxes(nn.Module):
    def forward(self, clip: Tensor) -> Tensor:
        return clip.to(torch.float32)[None].mean((1, 2, 3))


class Unknown(nn.Module):
    def forward(self, clip: Tensor) -> Tensor:
        return torch.special.bessel_j0(clip.to(torch.float32).mean((0, 1, 2)))[None]


def test_a_tensor_of_five_axes_is_refused(tmp_path: Path, clips: Tensor) -> None:
    with pytest.raises(LoweringError, match=r"5 axes.*stage check, operator aten.unsqueeze"):
        RUNTIME.lower(torch.export.export(FiveAxes(), (clips[0],)), tmp_path, IOS, precision="int8")


def test_a_shape_that_varies_is_refused(tmp_path: Path, clips: Tensor) -> None:
    frames = torch.export.Dim("frames", min=2, max=64)
    net = nn.Sequential(nn.Flatten(1))
    program = torch.export.export(net, (clips[0],), dynamic_shapes=({0: frames},))
    with pytest.raises(LoweringError, match="no static shape"):
        RUNTIME.lower(program, tmp_path, IOS, precision="int8")


def test_an_operator_that_coremltools_does_not_know_is_named(tmp_path: Path, clips: Tensor) -> None:
    with pytest.raises(
        LoweringError, match=r"bessel_j0.*stage convert, operator aten.special_bessel_j0.default, coremltools"
    ):
        RUNTIME.lower(torch.export.export(Unknown(), (clips[0],)), tmp_path, IOS, precision="int8")


def test_a_target_that_names_no_ios_is_for_the_first(quantized: ExportedProgram, tmp_path: Path) -> None:
    unnamed = IOS.model_copy(update={"options": {}})
    facts = RUNTIME.lower(quantized, tmp_path, unnamed, precision="int8").facts
    assert facts["specification_version"] == 8, "that of iOS 17"
