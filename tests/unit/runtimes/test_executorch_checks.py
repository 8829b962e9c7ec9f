"""Networks that ExecuTorch lowers without a word, and that are slow on a phone or do not run: each is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from d3d_edge import target
from d3d_edge.errors import BundleError, LoweringError
from d3d_edge.quantize import nodes, pt2e
from d3d_edge.quantize.origin import layer_of
from d3d_edge.runtimes import Lowered, executorch, executorch_checks
from tests import networks
from tests.unit.quantize import plants

pytest.importorskip("executorch")
pytestmark = pytest.mark.slow

ANDROID = target.load("android")
CLIP = torch.zeros(2, 8, 8, 4, dtype=torch.uint8)


class Layer(nn.Module):
    """One layer of a function and a kernel, both as large as a test needs."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.ones(4, 4, 1, 1))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.kernel)


class Branch(nn.Module):
    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.Branch_1 = nn.ModuleDict({"Conv2d_0b_3x3": Layer(function)})

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.Branch_1["Conv2d_0b_3x3"](x)
        return result


class Network(nn.Module):
    """A layer within a branch within a block, as in S3D-G; behind the stem every value is 1."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 4, 1)
        self.Mixed_3b = Branch(function)
        nn.init.zeros_(self.stem.weight)
        nn.init.ones_(self.stem.bias)

    def forward(self, clip: Tensor) -> Tensor:
        x = self.Mixed_3b(self.stem(clip.float().permute(0, 3, 1, 2)))
        return x.flatten(1).mean(1, keepdim=True)


def lower(function: Callable[[Tensor, Tensor], Tensor], folder: Path, *, allow_fallback: bool = False) -> Lowered:
    program = pt2e.export_float(Network(function), CLIP)
    return executorch.RUNTIME.lower(program, folder, ANDROID, precision="float32", allow_fallback=allow_fallback)


def counts_padding(x: Tensor, kernel: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, padding=1, count_include_pad=True)


def convolves_with_itself(x: Tensor, kernel: Tensor) -> Tensor:
    return F.conv2d(x, kernel * x.mean())


def multiplies_doubles(x: Tensor, kernel: Tensor) -> Tensor:
    return F.linear(x.mean((2, 3)).double(), torch.ones(3, 4, dtype=torch.float64)).float()


def sorts(x: Tensor, kernel: Tensor) -> Tensor:
    return torch.sort(x, dim=1)[0]


def reads_beyond_its_end(x: Tensor, kernel: Tensor) -> Tensor:
    return x[:, torch.tensor([0, 9])]


def shuffles(x: Tensor, kernel: Tensor) -> Tensor:
    return F.channel_shuffle(x, 2)


def takes_a_bessel_function(x: Tensor, kernel: Tensor) -> Tensor:
    return torch.special.bessel_j0(x)


def takes_the_largest(x: Tensor, kernel: Tensor) -> Tensor:
    return x.amax((2, 3), keepdim=True)


def convolves_in_3d(x: Tensor, kernel: Tensor) -> Tensor:
    return F.conv3d(x[None], kernel.new_ones(2, 2, 1, 1, 1))


def rounds_to_uint8(x: Tensor, kernel: Tensor) -> Tensor:
    stored = torch.ops.quantized_decomposed
    rounded = stored.quantize_per_tensor(x, 0.5, 0, 0, 255, torch.uint8)
    result: Tensor = stored.dequantize_per_tensor(rounded, 0.5, 0, 0, 255, torch.uint8)
    return result


@pytest.mark.parametrize(
    ("function", "said", "stage", "operator", "remedy"),
    [
        (counts_padding, "XNNPACK does not take", "delegate", "aten.avg_pool2d", "count_include_pad=False"),
        (convolves_with_itself, "XNNPACK does not take", "delegate", "aten.convolution", "constant weights"),
        (multiplies_doubles, "XNNPACK does not take", "delegate", r"aten.(add)?mm", "1x1 convolution"),
        (sorts, "has no kernel for aten::sort", "kernels", "aten.sort", "other operators"),
        (takes_a_bessel_function, "cannot lower", "to ExecuTorch", "aten.special_bessel_j0", "Core ATen"),
        (takes_the_largest, "XNNPACK does not take", "delegate", "aten.amax", "max pool"),
        (convolves_in_3d, "has 5 axes", "check", "aten.unsqueeze", "rank-4 layers"),
        (shuffles, "has 5 axes", "check", "aten.view_copy", "rank-4 layers"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_would_be_slow_or_missing_on_the_phone_is_refused(
    function: Callable[[Tensor, Tensor], Tensor], said: str, stage: str, operator: str, remedy: str, tmp_path: Path
) -> None:
    named = rf"{said}.*\[stage {stage}, layer Mixed_3b.Branch_1.Conv2d_0b_3x3, operator {operator}.*{remedy}"
    with pytest.raises(LoweringError, match=named) as caught:
        lower(function, tmp_path)
    assert caught.value.exit_code == 5
    assert "\n" not in str(caught.value)


def test_an_operator_is_found_by_what_else_pytorch_calls_it() -> None:
    program = pt2e.export_float(Network(lambda x, kernel: torch.special.i0(x)).eval(), CLIP)
    found = nodes.blamed(program, "Operator torch._ops.aten.i0.default is not in Core ATen opset")
    assert found == ("Mixed_3b.Branch_1.Conv2d_0b_3x3", "aten.special_i0.default")
    assert nodes.blamed(program, "Operator torch._ops.aten.i1.default is not in Core ATen opset") == ("", "")


def test_a_file_that_loads_and_does_not_run_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(LoweringError, match=r"does not run.*stage run, operator aten::index"):
        lower(reads_beyond_its_end, tmp_path)
    assert capfd.readouterr() == ("", "")


def test_with_a_fallback_allowed_a_slow_file_is_written_and_noted(tmp_path: Path) -> None:
    lowered = lower(counts_padding, tmp_path, allow_fallback=True)
    (note,) = lowered.fallbacks
    assert "layer Mixed_3b.Branch_1.Conv2d_0b_3x3, operator aten.avg_pool2d" in note
    assert "aten.avg_pool2d" in str(lowered.facts["undelegated_names"])
    with executorch.ExecuTorchRunner(tmp_path / lowered.model, 1) as runner:
        assert np.isfinite(runner.run(CLIP.numpy())).all()


def test_with_a_fallback_allowed_a_file_that_cannot_run_is_written_and_noted(tmp_path: Path) -> None:
    lowered = lower(sorts, tmp_path, allow_fallback=True)
    assert "no kernel for aten::sort" in lowered.fallbacks[0]
    with pytest.raises(BundleError):
        executorch.ExecuTorchRunner(tmp_path / lowered.model, 1)


def test_a_pair_that_is_not_fused_is_noted_and_runs(tmp_path: Path) -> None:
    lowered = lower(rounds_to_uint8, tmp_path, allow_fallback=True)
    assert re.search(r"the pair is not fused.*stage delegate, .*quantize_per_tensor", " ".join(lowered.fallbacks))
    with executorch.ExecuTorchRunner(tmp_path / lowered.model, 1) as runner:
        assert runner.run(CLIP.numpy()) == pytest.approx(1.0)


def test_a_bias_that_xnnpack_cannot_sum_is_refused(tmp_path: Path) -> None:
    program = networks.with_bias("temporal.spatial.conv", -1e7)
    said = r"bias of channel 2, -1e\+07, .*layer temporal.spatial.conv, operator aten.conv2d.*quantize.keep_float"
    with pytest.raises(LoweringError, match=said):
        executorch.RUNTIME.lower(program, tmp_path, ANDROID, precision="int8")


def test_the_bias_of_a_classifier_is_float_and_may_be_large() -> None:
    assert not list(executorch_checks.large_biases(networks.with_bias("logits", 1e12), "executorch"))


@pytest.mark.parametrize(
    ("plant", "said"),
    [
        (plants.round_by_zero, "has the scale 0.0.*layer stem"),
        (plants.lose_a_scale, "has 7 scales for 8 output channels.*layer stem.conv"),
    ],
)
def test_a_scale_that_cannot_be_reckoned_with_is_refused(plant: plants.Plant, said: str, tmp_path: Path) -> None:
    program = networks.reopened(networks.quantized())
    plant(program)
    with pytest.raises(LoweringError, match=said):
        executorch.RUNTIME.lower(program, tmp_path, ANDROID, precision="int8")


@pytest.mark.parametrize(
    ("rounded", "factor", "said"),
    [
        ("relu_3", 4.0, r"cat takes dequantize_per_tensor_29 .*to the same only.*operator aten.cat"),
        ("relu_3", 0.25, r"cat takes dequantize_per_tensor_29 .*to the same only.*operator aten.cat"),
        (
            "conv2d_3",
            1e-6,
            r"times smaller than a step of conv2d_3's sum.*layer temporal.self_gating.*operator aten.conv2d",
        ),
        ("relu_2", 1e-6, r"times smaller than a step of conv2d_2's sum.*layer temporal.temporal.*operator aten.conv2d"),
    ],
)
def test_scales_that_xnnpack_does_not_load_are_refused(rounded: str, factor: float, said: str, tmp_path: Path) -> None:
    with pytest.raises(LoweringError, match=said):
        executorch.RUNTIME.lower(networks.with_scale(rounded, factor), tmp_path, ANDROID, precision="int8")


def test_zero_points_that_xnnpack_does_not_load_are_refused() -> None:
    program = networks.with_scale("relu_3", 1.0)
    assert not list(executorch_checks.far_scales(program, "executorch"))
    (into,) = (node for node in program.graph.nodes if node.target in nodes.QUANTIZE and node.args[0].name == "relu_3")
    for node in (into, *into.users):
        node.args = (*node.args[:2], node.args[2] + 1, *node.args[3:])
    (fault,) = executorch_checks.far_scales(program, "executorch")
    assert re.search(
        r"cat takes \S+ by scale and zero point \S+ and 1 to \S+ and 0, and XNNPACK to the same", str(fault)
    )


@pytest.mark.parametrize(("spare", "fits"), [(0, False), (255 * 127 * 9 * 16, True)])
def test_a_bias_has_to_leave_room_for_the_products(spare: int, fits: bool) -> None:
    program = networks.with_bias("temporal.spatial.conv", 0.0)
    held, layer = nodes.constants(program), "temporal.spatial.conv"
    conv = next(node for node in program.graph.nodes if "conv2d" in node.name and layer_of(node) == layer)
    frames, weights, bias = conv.args[:3]
    held[bias.name].data[2] = frames.args[1] * held[weights.args[1].name][2] * (2**31 - 1000 - spare)
    assert (not list(executorch_checks.large_biases(program, "executorch"))) == fits


@pytest.mark.parametrize(
    "function",
    [
        lambda x, kernel: F.conv2d(F.conv2d(x, kernel), kernel),
        lambda x, kernel: F.conv_transpose2d(F.conv2d(x, kernel), kernel),
    ],
)
def test_weights_that_two_operators_read_are_refused(
    function: Callable[[Tensor, Tensor], Tensor], tmp_path: Path
) -> None:
    with pytest.raises(LoweringError, match=r"kernel is also conv2d_1's.*Conv2d_0b_3x3.*weights of its own"):
        lower(function, tmp_path)


@pytest.mark.parametrize(("mode", "value"), [("constant", 1.0), ("constant", 0.0), ("reflect", None)])
def test_a_pad_is_of_its_mode_and_value(mode: str, value: float | None, tmp_path: Path) -> None:
    lowered = lower(lambda x, kernel: F.pad(x * 3, (1, 1, 2, 1), mode, value).mean((2, 3), keepdim=True), tmp_path)
    expected = (64 * 3 + (0.0 if value is None else 46 * value)) / 110 if mode == "constant" else 3.0
    with executorch.ExecuTorchRunner(tmp_path / lowered.model, 1) as runner:
        assert runner.run(CLIP.numpy()) == pytest.approx(expected, rel=1e-5)
