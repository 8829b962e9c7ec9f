"""The benchmarks of forms and of the wall time what they say: the same layer, and graphs that run."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import chain, forms, glue, network, temporal, turns, wall, xnnpack
from benchmarks.dialects import Eager
from benchmarks.forms import CONVOLUTIONS, POOLS, STRIDED, Form, Layer, Weights
from benchmarks.graphs import Graph
from benchmarks.temporal import RUNTIMES
from tests import networks

pytest.importorskip("executorch")
pytest.importorskip("onnxruntime")

LAYER = Layer(time=5, height=3, width=4, channels=6, outputs=7, taps=3, stride=1)
STEM = Layer(time=8, height=2, width=3, channels=4, outputs=5, taps=7, stride=2)
POOL = Layer(time=4, height=5, width=6, channels=3, outputs=3, taps=3, stride=1)


def clip_of(layer: Layer, form: Form) -> Tensor:
    """Not negative, as behind a ReLU, float64."""
    shape = layer[:3] if form in POOLS else (1, layer.time, layer.area)
    return torch.rand(*shape, layer.channels, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


CASES = [(LAYER, form) for form in CONVOLUTIONS] + [(STEM, form) for form in STRIDED]


@pytest.mark.parametrize(
    ("layer", "form"), CASES, ids=lambda value: getattr(value, "__name__", "stem" if value is STEM else "")
)
def test_every_form_is_the_convolution_over_time(layer: Layer, form: Form) -> None:
    x, weights = clip_of(layer, form), Weights(layer)
    frames = F.pad(x[0].permute(2, 0, 1)[None], (0, 0, *layer.around))  # [1, C, T, HW]
    kernel, bias = (torch.from_numpy(array).double() for array in (weights.column, weights.bias))
    expected = F.conv2d(frames, kernel, bias, (layer.stride, 1)).relu().permute(0, 2, 3, 1)
    torch.testing.assert_close(form(Eager(torch.float64), x, layer, weights), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", POOLS, ids=lambda form: form.__name__)
def test_every_form_is_the_pool_over_space_and_time(form: Form) -> None:
    x = clip_of(POOL, form)
    expected = F.max_pool3d(x.permute(3, 0, 1, 2)[None], 3, 1, 1)[0].permute(1, 2, 3, 0)
    assert torch.equal(form(Eager(torch.float64), x, POOL, None).reshape(expected.shape), expected)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("chosen", [CONVOLUTIONS, POOLS], ids=["convolutions", "pools"])
def test_a_runtime_gives_the_same_in_every_form(runtime: str, chosen: tuple[Form, ...]) -> None:
    layer = LAYER if chosen is CONVOLUTIONS else POOL
    x = clip_of(layer, chosen[0]).float().numpy()
    weights = Weights(layer)
    with ExitStack() as stack:
        results = [
            temporal.prepared(runtime, form, layer, x, weights, 1, stack)[1]
            for form in chosen
            if forms.exact(form, runtime)
        ]
    assert results[0].std() > 0
    for result in results[1:]:
        assert result.shape == results[0].shape
        np.testing.assert_allclose(
            result, results[0], rtol=0, atol=temporal.STEPS.get(runtime, 1e-5 * abs(results[0]).max())
        )


def test_int8_sums_of_1x1_convolutions_are_another_function() -> None:
    """Each is rounded, and cut off at the ends of INT8: why it is not among the exact forms."""
    x, weights = clip_of(LAYER, forms.summed).float().numpy(), Weights(LAYER)
    with ExitStack() as stack:
        first, other = (
            temporal.prepared("XNNPACK INT8", form, LAYER, x, weights, 1, stack)[1]
            for form in (forms.column, forms.summed)
        )
    assert (first != other).any()
    assert not forms.exact(forms.summed, "XNNPACK INT8")


def test_the_layers_timed_are_those_of_the_network() -> None:
    convolutions, pools, stem = temporal.families(0.25, network.Clip(16, 112, 112))
    assert sum(convolutions.layers.values()) == 19
    assert sum(pools.layers.values()) == 9
    assert convolutions.layers[Layer(8, 28, 28, 48, 48, 3, 1)] == 1
    assert list(stem.layers) == [Layer(16, 56, 56, 16, 16, 7, 2)]


def test_forms_that_are_not_one_layer_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(ops: Any, x: Any, layer: Layer, weights: Weights) -> Any:
        return ops.convolve(x, weights.each[0], weights.bias)

    family = temporal.Family("any", {LAYER: 1}, (forms.column, wrong))
    monkeypatch.setattr(temporal, "families", lambda *_: (family,))
    with pytest.raises(SystemExit, match="wrong differs"):
        temporal.measure(1.0, network.Clip(1, 1, 1), 1, 1, ["PyTorch FP32"])


def test_temporal_tells_each_form_in_parts_of_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    family = temporal.Family("convolutions", {LAYER: 3}, (forms.column, forms.summed))
    monkeypatch.setattr(temporal, "families", lambda *_: (family,))
    out = tmp_path / "figures.json"
    temporal.main(["0.25", "--threads", "1", "--repetitions", "2", "--out", str(out)])
    (result,) = json.loads(out.read_text())["results"]
    assert result["layers"] == {"convolutions": 3}
    times = result["times"]["convolutions"]
    assert list(times) == list(RUNTIMES)
    assert {runtime for runtime, row in times.items() if "summed" in row} == {r for r in RUNTIMES if "FP32" in r}
    assert all(row["column"]["ratio"] == 1 for row in times.values())
    assert "3 convolutions" in capsys.readouterr().out


@pytest.mark.parametrize("name", chain.LINKS)
def test_a_chain_keeps_what_it_is_given_in_xnnpack_and_in_a_file(name: str, tmp_path: Path) -> None:
    """All links give what they take for ones, but for the product by itself."""
    executorch = pytest.importorskip("d3d_edge.runtimes.executorch")
    length = 2 if name == "Multiply" else 3
    graph = chain.chain(chain.LINKS[name], length)
    assert len(graph.written.xnodes) == length + 2
    sample = np.ones((1, 1, 1, chain.CHANNELS), np.float32)
    with (
        executorch.ExecuTorchRunner(chain.file_of(graph, tmp_path / "chain"), 0) as runner,
        xnnpack.Part(graph.written, bytes(graph.constants), graph.written.xnodes) as part,
    ):
        part.arrays[part.inputs[0]][: chain.CHANNELS] = 1
        part.run()
        written = part.arrays[part.outputs[0]][: chain.CHANNELS]
        np.testing.assert_allclose(written, 1, atol=1 / 32)
        np.testing.assert_array_equal(runner.run(sample).ravel(), written)


def test_wall_sets_passes_beside_copies(
    small_pte: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.glue.pte", small_pte)
    monkeypatch.setattr(wall, "LENGTHS", (1, 2))
    monkeypatch.setattr(wall, "LINKS", {"Conv2d": chain.LINKS["Conv2d"]})
    out = tmp_path / "figures.json"
    size = "x".join(map(str, networks.clip().shape[:3]))
    wall.main(["0.25", "--clip", size, "--threads", "1", "--repetitions", "2", "--out", str(out)])
    figures = json.loads(out.read_text())
    assert list(figures["chains"]) == ["Conv2d"]
    assert list(figures["products_us"]) == ["16", "48", "3072", "0"]
    (result,) = figures["results"]
    assert result["convolutions"] == 6
    assert result["passes"]["gates: product"]["operators"] == 1
    assert result["passes"]["max pools"]["operators"] == 3
    assert 0 < result["convolutions_ms"] < result["least_ms"]
    assert "times the convolutions" in capsys.readouterr().out


def test_a_pass_is_set_beside_a_copy_of_the_largest_value_that_it_touches() -> None:
    graph = Graph(int8=True)
    x = graph.input(1, 4, 5, 2)
    graph.output(graph.pool(graph.join([x, x]), (2, 1), ((0, 0), (0, 0))))
    found = glue.Lowered(Path(), graph.written, b"")
    assert wall._sizes(found, ("Concatenate2", "MaxPooling2d")) == [80, 80]


def test_twice_counts_the_second_run_of_each() -> None:
    ran: list[str] = []
    runs = {name: lambda name=name: ran.append(name) for name in "ab"}  # type: ignore[misc]
    times = turns.take_turns(runs, 2, twice=True)
    assert ran[2 * turns.WARM_UP :] == [*"aabb"] * 2
    assert [len(row) for row in times.values()] == [2, 2]
