"""From a float network to an INT8 graph, by calibration and by training, and what survives on the way."""

from __future__ import annotations

import io
import signal
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchao.quantization.pt2e import FakeQuantizeBase

from d3d_edge import signals
from d3d_edge.calibset import Observer
from d3d_edge.errors import DataError
from d3d_edge.models.blocks import Blocks
from d3d_edge.models.layers import StackedConv
from d3d_edge.quantize import pt2e
from d3d_edge.quantize.scheme import FOLLOWING
from d3d_edge.signals import Ended
from d3d_edge.target import Scheme
from tests import networks
from tests.unit.distill.jobs import CUDA

QUANTIZE = torch.ops.quantized_decomposed.quantize_per_tensor.default


def logits(module: nn.Module, clip: Tensor) -> Tensor:
    with torch.no_grad():
        return module(clip)


def train(graph: torch.fx.GraphModule, steps: int = 2, device: str = "cpu") -> None:
    optimizer = torch.optim.SGD(graph.parameters(), lr=1e-3)
    pt2e.set_training(graph, True)
    torch.manual_seed(0)  # for dropout
    for step in range(steps):
        optimizer.zero_grad()
        answer = graph(networks.clip(step, clips=2).to(device))
        F.cross_entropy(answer, torch.tensor([1, 3], device=device)).backward()
        optimizer.step()
    pt2e.set_training(graph, False)


@pytest.mark.parametrize("qat", [False, True])
def test_a_prepared_graph_is_of_no_device(qat: bool) -> None:
    """torch.export checks at each cast that its input is where the sample was; training may go on elsewhere."""
    graph = networks.prepared(qat=qat)
    assert [node.format_node() for node in graph.graph.nodes if "device" in node.kwargs] == []


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_work_when_the_trace_is_whole(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    traced = []

    def export(*_: object, **__: object) -> None:
        signal.raise_signal(number)
        traced.append(number)

    monkeypatch.setattr(torch.export, "export", export)
    with pytest.raises((KeyboardInterrupt, Ended)), signals.raised():
        pt2e.capture(networks.small(), networks.clip())
    assert traced == [number]


def test_the_model_itself_is_not_changed() -> None:
    model = networks.small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pt2e.prepare(pt2e.capture(model, networks.clip()), scheme="symmetric", observer="minmax", qat=True)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("scheme", ["symmetric", "affine"])
@pytest.mark.parametrize("observer", ["minmax", "moving_average", "histogram", "percentile", "mse"])
def test_calibration_keeps_the_logits_near(scheme: Scheme, observer: Observer) -> None:
    program = pt2e.convert(networks.prepared(scheme, observer), networks.clip())
    float_logits = logits(networks.small(), networks.clip(7))
    error = (logits(program.module(), networks.clip(7)) - float_logits).abs().max()
    assert 0 < error < 0.1 * float_logits.abs().max()


def test_calibration_under_training_sees_the_float_network() -> None:
    graph = networks.prepared(qat=True)
    plain = networks.prepared()
    one = [float(node.args[1]) for node in pt2e.convert(graph, networks.clip()).graph.nodes if node.target == QUANTIZE]
    other = [
        float(node.args[1]) for node in pt2e.convert(plain, networks.clip()).graph.nodes if node.target == QUANTIZE
    ]
    assert one == pytest.approx(other)


def test_a_converted_graph_computes_what_training_computed() -> None:
    graph = networks.prepared("symmetric", qat=True, clips=2)
    train(graph)
    pt2e.freeze_observers(graph)
    one = networks.prepared("symmetric", qat=True)
    pt2e.transfer(graph, one)
    program = pt2e.convert(one, networks.clip())
    clips = networks.clip(5, clips=2)
    trained = logits(graph, clips)
    step = pt2e.logit_step(program)
    assert step is not None
    for place, clip in enumerate(clips.split(networks.FRAMES)):
        assert (logits(program.module(), clip)[0] - trained[place]).abs().max() <= 1.01 * step


def test_training_moves_weights_and_ranges() -> None:
    graph = networks.prepared(qat=True, clips=2)
    before = {name: value.clone() for name, value in graph.state_dict().items()}
    train(graph)
    changed = {name for name, value in graph.state_dict().items() if not torch.equal(value, before[name])}
    assert "stem.conv.weight" in changed
    assert any(name.endswith("activation_post_process.max_val") for name in changed)


def test_frozen_observers_keep_their_ranges() -> None:
    graph = networks.prepared(qat=True, clips=2)
    pt2e.freeze_observers(graph)
    before = {name: value.clone() for name, value in graph.state_dict().items() if name.endswith("scale")}
    train(graph)
    assert all(torch.equal(graph.state_dict()[name], value) for name, value in before.items())


@pytest.mark.parametrize("observer", ["histogram", "percentile", "mse"])
def test_ranges_found_in_histograms_stay_through_training(observer: Observer) -> None:
    graph = networks.prepared(observer=observer, qat=True, clips=2)
    calibrated = networks.prepared(observer=observer, clips=2)
    pt2e.adopt_ranges(graph, calibrated)
    train(graph)
    fake = {name: module for name, module in graph.named_modules() if isinstance(module, FakeQuantizeBase)}
    of_weights = {name for name, module in fake.items() if module.is_per_channel}
    assert len(of_weights) == 6
    for name in fake.keys() - of_weights:
        assert torch.equal(fake[name].scale, calibrated.get_submodule(name).calculate_qparams()[0])
    before = {name: fake[name].scale.clone() for name in of_weights}
    train(graph)
    assert any(not torch.equal(fake[name].scale, before[name]) for name in of_weights)


@pytest.mark.parametrize("observer", ["minmax", "moving_average", "histogram", "percentile", "mse"])
def test_what_is_deployed_has_the_ranges_that_were_trained_with(observer: Observer) -> None:
    graph = networks.prepared(observer=observer, qat=True, clips=2)
    if observer in FOLLOWING:
        pt2e.freeze_observers(graph)
    else:
        pt2e.adopt_ranges(graph, networks.prepared(observer=observer, clips=2))
    train(graph)
    trained = {float(fake.scale[0]) for fake in graph.modules() if isinstance(fake, FakeQuantizeBase)}
    program = pt2e.convert(graph, networks.clip(clips=2))
    rounds = program.graph.find_nodes(op="call_function", target=QUANTIZE)
    assert len(rounds) > 10
    assert {node.args[1] for node in rounds} <= trained


@pytest.mark.parametrize("observer", ["minmax", "moving_average", "histogram", "percentile", "mse"])
def test_an_activation_that_is_no_number_is_refused_by_every_observer(observer: Observer) -> None:
    graph = networks.prepared(observer=observer)
    graph.get_parameter("stem.conv.bias").data.fill_(float("nan"))

    def quantize() -> None:
        pt2e.calibrate(graph, [networks.clip()])
        pt2e.convert(graph, networks.clip())

    with pytest.raises(DataError, match="is no number"):
        quantize()


def test_a_bias_that_is_infinite_in_float16_is_refused() -> None:
    graph = networks.prepared()
    graph.get_parameter("stem.conv.bias").data.fill_(-1e5)
    with pytest.raises(DataError, match=r"a bias of stem\.conv is 1e\+05, and the largest float16 is 65504"):
        pt2e.convert(graph, networks.clip())


def test_ranges_of_another_network_are_refused() -> None:
    with pytest.raises(ValueError, match="do not compute the same"):
        pt2e.adopt_ranges(networks.prepared(qat=True), networks.quantized().module())


def test_a_graph_that_does_not_round_yet_is_the_float_network_and_its_copy_rounds() -> None:
    graph = networks.prepared(qat=True)
    pt2e.set_rounding(graph, False)
    clip = networks.clip(3)
    float_logits = logits(networks.small(), clip)
    torch.testing.assert_close(logits(graph, clip), float_logits, rtol=1e-4, atol=1e-5)
    one = networks.prepared(qat=True)
    pt2e.transfer(graph, one)
    assert (logits(one, clip) - float_logits).abs().max() > 1e-3


def test_training_resumes_from_a_state_dict() -> None:
    graph = networks.prepared(qat=True, clips=2)
    train(graph)
    pt2e.freeze_observers(graph)
    file = io.BytesIO()
    torch.save(graph.state_dict(), file)
    file.seek(0)
    again = pt2e.prepare(
        pt2e.capture(networks.small(2), networks.clip(clips=2)), scheme="symmetric", observer="minmax", qat=True
    )
    again.load_state_dict(torch.load(file, weights_only=True))
    clips = networks.clip(9, clips=2)
    assert torch.equal(logits(graph, clips), logits(again, clips))
    train(graph)
    train(again)
    assert torch.allclose(logits(graph, clips), logits(again, clips))


class Stem(nn.Module):
    """The published first layer, which reads blocks of pixels, and the mean of what it finds."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = StackedConv(3, 8, (3, 7), 2)

    def forward(self, clip: Tensor) -> Tensor:
        return self.stem((clip.float() / 255).permute(0, 3, 1, 2)).mean((2, 3))


def stem(*, scheme: Scheme = "symmetric", observer: Observer = "minmax") -> torch.fx.GraphModule:
    torch.manual_seed(0)
    return pt2e.prepare(pt2e.capture(Stem().eval(), networks.clip()), scheme=scheme, observer=observer, qat=True)


def test_the_form_of_a_graph_is_not_changed_by_training() -> None:
    graph = networks.prepared(qat=True, clips=2)
    before = pt2e.form(graph)
    train(graph)
    pt2e.freeze_observers(graph)
    assert pt2e.form(graph) == before
    assert pt2e.form(networks.prepared(qat=True, clips=2)) == before


def test_a_graph_whose_channels_have_another_order_has_another_form(monkeypatch: pytest.MonkeyPatch) -> None:
    now = stem()
    weight, of = Blocks.weight, Blocks.of
    monkeypatch.setattr(Blocks, "weight", lambda self, value: weight(self, value).flip(1))
    monkeypatch.setattr(Blocks, "of", lambda self, *given: of(self, *given).flip(1))
    other = stem()
    torch.testing.assert_close(logits(other, networks.clip()), logits(now, networks.clip()))
    # Nothing else would tell: the one takes the state of the other without a word, and computes nonsense.
    assert [(name, value.shape) for name, value in other.named_parameters()] == [
        (name, value.shape) for name, value in now.named_parameters()
    ]
    assert pt2e.form(other) != pt2e.form(now)


def test_a_graph_that_rounds_otherwise_has_another_form() -> None:
    assert len({pt2e.form(stem()), pt2e.form(stem(scheme="affine"))}) == 2


def test_transfer_refuses_another_network() -> None:
    with pytest.raises(ValueError, match="do not compute the same"):
        pt2e.transfer(networks.prepared(qat=True), networks.prepared())


def test_running_the_destination_changes_no_range() -> None:
    one = networks.prepared(qat=True)
    pt2e.transfer(networks.prepared(qat=True, clips=2), one)
    before = {name: value.clone() for name, value in one.state_dict().items()}
    one(torch.full_like(networks.clip(), 255))
    assert all(torch.equal(value, before[name]) for name, value in one.state_dict().items())


def test_dropout_keeps_its_probability_and_works_in_training_only() -> None:
    graph = pt2e.prepare(
        pt2e.capture(networks.small(dropout=0.25), networks.clip()), scheme="symmetric", observer="minmax", qat=True
    )
    (dropout,) = graph.graph.find_nodes(op="call_function", target=torch.ops.aten.dropout.default)
    assert dropout.args[1:] == (0.25, False)
    pt2e.set_training(graph, True)
    assert dropout.args[1:] == (0.25, True)
    assert not torch.equal(logits(graph, networks.clip()), logits(graph, networks.clip()))


def test_logits_are_not_rounded_and_their_step_is_that_of_one_feature() -> None:
    graph: Any = networks.quantized().module()
    *_, classifier = (node for node in graph.graph.nodes if node.target is torch.ops.aten.conv2d.default)
    seen: list[Any] = []

    class Watched(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> Any:
            if n is classifier:
                seen.extend(self.fetch_args_kwargs_from_env(n)[0])
            return super().run_node(n)

    given = Watched(graph).run(networks.clip())
    features, weight, bias = seen[:3]
    torch.testing.assert_close(given, torch.nn.functional.conv2d(features, weight, bias).flatten(1), rtol=0, atol=0)
    one_step = torch.eye(features.shape[1])[:, :, None, None] * classifier.args[0].args[1]
    changes = torch.nn.functional.conv2d(features + one_step, weight, bias).flatten(1) - given
    assert pt2e.logit_step(networks.quantized()) == pytest.approx(float(changes.abs().max()), rel=1e-4)
    assert pt2e.logit_step(networks.float_program()) is None


@pytest.mark.parametrize("observer", ["moving_average", "minmax"])
@pytest.mark.parametrize("device", [pytest.param("cuda", marks=CUDA)])
def test_a_graph_trains_on_a_gpu_and_is_converted_where_it_was_made(device: str, observer: Observer) -> None:
    here, there = (
        networks.prepared(observer=observer, qat=True, clips=2),
        networks.prepared(observer=observer, qat=True, clips=2),
    )
    there.to(device)
    clip = networks.clip(1, clips=2)
    assert torch.allclose(logits(there, clip.to(device)).cpu(), logits(here, clip), atol=0.05)
    train(there, device=device)
    program = pt2e.convert(there, networks.clip(clips=2))
    assert logits(program.module(), clip).device.type == "cpu"
