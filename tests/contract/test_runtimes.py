"""The contract that every runtime keeps: lower, open, run as the graph does, and refuse what is wrong."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.export import ExportedProgram

from d3d_edge import runtimes, target
from d3d_edge.bundle import Bundle
from d3d_edge.errors import BundleError, DataError
from d3d_edge.files import files_below
from d3d_edge.quantize import pt2e
from d3d_edge.runner import Runner, TensorSpec, Where
from tests import networks

TARGETS = {"executorch": "android", "coreml": "ios", "tensorrt": "jetson", "eager": "host"}
PACKAGES = {"executorch": "executorch", "coreml": "coremltools", "tensorrt": "onnxruntime", "eager": "torch"}
KINDS = [(runtime, kind) for runtime, name in TARGETS.items() for kind in target.load(name).precisions]
ROUNDING = {"float16": 2e-3, "int8+float16": 2e-3, "weights-int8": 0.1}
"""Beside the graph's own step: a float16 network's rounding, and that of weights to INT8."""


def program_of(precision: target.Precision) -> ExportedProgram:
    return networks.quantized() if precision in target.QUANTIZED else networks.float_program()


SHAPE = (networks.FRAMES, networks.SIDE, networks.SIDE, 3)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def kind(request: pytest.FixtureRequest) -> tuple[str, target.Precision]:
    """A runtime, and a precision that its target takes."""
    runtime, precision = request.param
    pytest.importorskip(PACKAGES[runtime])
    return runtime, precision


@pytest.fixture(scope="module")
def runtime(kind: tuple[str, target.Precision]) -> str:
    return kind[0]


@pytest.fixture(scope="module")
def precision(kind: tuple[str, target.Precision]) -> target.Precision:
    return kind[1]


@pytest.fixture(scope="module")
def bundle(runtime: str, precision: target.Precision, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    work = tmp_path_factory.mktemp(f"{runtime}-{precision}")
    return bundled(runtime, precision, program_of(precision), work)


def bundled(runtime: str, precision: target.Precision, program: ExportedProgram, work: Path) -> Bundle:
    found = target.load(TARGETS[runtime])
    lowered = runtimes.get(runtime).lower(program, work, found, precision=precision)

    def fill(folder: Path) -> None:
        (work / lowered.model).rename(folder / lowered.model)

    return Bundle.write(work / "bundle", networks.described(lowered, program, found, precision), fill)


@pytest.fixture
def runner(runtime: str, bundle: Bundle) -> Any:
    with runtimes.get(runtime).open(bundle, threads=1) as opened:
        yield opened


def test_a_runtime_is_ready_where_its_packages_are(runtime: str) -> None:
    runtimes.get(runtime).check_lower()
    runtimes.get(runtime).check_run()
    assert all(version for version in runtimes.get(runtime).tools().values())
    assert PACKAGES[runtime] in runtimes.get(runtime).run_tools()


def test_facts_have_plain_values(bundle: Bundle) -> None:
    assert bundle.manifest.lowering
    assert bundle.model_size_bytes > 0


def test_input_and_output_are_those_of_the_bundle(runner: Runner) -> None:
    assert [(spec.dtype, spec.shape) for spec in runner.inputs] == [("uint8", SHAPE)]
    assert [(spec.dtype, spec.shape) for spec in runner.outputs] == [("float32", (networks.CLASSES,))]


def test_a_runner_says_what_it_is_and_where_it_ran(runner: Runner, runtime: str) -> None:
    assert any(character.isdigit() for character in runner.runtime)
    assert runner.where in (Where.HOST_RUNTIME, Where.HOST_TORCH, Where.REFERENCE_INTERPRETER)
    assert (runner.where == Where.HOST_TORCH) == (runtime == "eager")


def test_logits_are_those_of_the_graph(runner: Runner, runtime: str, precision: target.Precision) -> None:
    program = program_of(precision)
    step = pt2e.logit_step(program)
    allowed = (step or 0.0) + ROUNDING.get(precision, 1e-4)
    for seed in (11, 12, 13):
        clip = networks.clip(seed)
        with torch.no_grad():
            expected = program.module()(clip)[0].numpy()
        logits = runner.run(clip.numpy())
        assert logits.dtype == np.float32
        assert logits.shape == (networks.CLASSES,)
        assert np.abs(logits - expected).max() <= allowed


@pytest.mark.usefixtures("bundle")
def test_lowering_leaves_the_graph_as_it_was(runtime: str, precision: target.Precision) -> None:
    """One graph goes to all targets, and is saved for this one: it must not come to hold what one of them added."""
    program = program_of(precision)
    named = {spec.target for spec in program.graph_signature.input_specs if spec.target}
    assert {*program.state_dict, *program.constants} <= named


@pytest.mark.parametrize("runtime", sorted(TARGETS))
def test_a_graph_with_groups_in_float_is_lowered_and_answers_as_it_does(runtime: str, tmp_path: Path) -> None:
    pytest.importorskip(PACKAGES[runtime])
    program = networks.mixed()
    module = program.module()
    with runtimes.get(runtime).open(bundled(runtime, "int8", program, tmp_path), threads=1) as opened:
        for seed in (11, 12, 13):
            clip = networks.clip(seed)
            with torch.no_grad():
                expected = module(clip)[0].numpy()
            # What rounds to the neighbouring step on the way is a hundredth of the logits; a wrong scale would be more.
            assert np.abs(opened.run(clip.numpy()) - expected).max() <= 0.02 * np.abs(expected).max()


def test_a_result_outlives_the_next_run(runner: Runner) -> None:
    first = runner.run(networks.clip(1).numpy())
    kept = first.copy()
    runner.run(networks.clip(2).numpy())
    assert np.array_equal(first, kept)


def test_a_clip_need_not_be_contiguous_nor_writable(runner: Runner) -> None:
    clip = networks.clip(3).numpy()
    expected = runner.run(clip)
    assert np.array_equal(runner.run(np.asfortranarray(clip)), expected)
    clip.flags.writeable = False
    assert np.array_equal(runner.run(clip), expected)


@pytest.mark.parametrize(
    "clip",
    [
        np.zeros((SHAPE[0] + 1, *SHAPE[1:]), np.uint8),
        np.zeros((1, *SHAPE), np.uint8),
        np.zeros(SHAPE, np.float32),
        np.zeros(SHAPE, np.int8),
    ],
    ids=["frames", "batch axis", "float32", "int8"],
)
def test_a_wrong_clip_is_refused_in_one_line(runner: Runner, clip: np.ndarray[Any, Any]) -> None:
    with pytest.raises(DataError) as caught:
        runner.run(clip)
    assert "\n" not in str(caught.value)
    assert str(clip.dtype) in str(caught.value)


def test_a_runner_at_rest_leaves_the_processors_to_others(runtime: str, bundle: Bundle) -> None:
    resting_s, used_s = 0.1, []
    with ExitStack() as stack:
        stack.callback(torch.set_num_threads, torch.get_num_threads())  # some runtimes set it for the whole process
        opened = stack.enter_context(runtimes.get(runtime).open(bundle, threads=2))
        for seed in range(5):
            opened.run(networks.clip(seed).numpy())
            began_s = time.process_time()
            time.sleep(resting_s)
            used_s.append(time.process_time() - began_s)
    assert min(used_s) < resting_s / 4, "its threads wait for work by spinning"


def test_closing_twice_is_harmless(runtime: str, bundle: Bundle) -> None:
    opened = runtimes.get(runtime).open(bundle)
    with opened:
        opened.run(networks.clip().numpy())
    opened.__exit__(None, None, None)


@pytest.mark.parametrize("left", [0, 64, 2000])
def test_a_damaged_model_is_refused(runtime: str, bundle: Bundle, tmp_path: Path, left: int) -> None:
    damaged = Bundle(tmp_path, bundle.manifest)
    for file in files_below(bundle.model_path) if bundle.model_path.is_dir() else [bundle.model_path]:
        copy = tmp_path / file.relative_to(bundle.path)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes()[:left])
    with pytest.raises(BundleError) as caught:
        runtimes.get(runtime).open(damaged)
    assert "\n" not in str(caught.value)


def test_a_missing_model_is_refused(runtime: str, bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError):
        runtimes.get(runtime).open(Bundle(tmp_path, bundle.manifest))


def test_a_model_that_is_not_of_what_the_manifest_says_is_refused(runtime: str, bundle: Bundle) -> None:
    longer = TensorSpec(name="clip", dtype="uint8", shape=(SHAPE[0] + 1, *SHAPE[1:]))
    with pytest.raises(BundleError, match=rf"takes .*{SHAPE[0]}, .* the manifest says .*{SHAPE[0] + 1}, "):
        runtimes.get(runtime).open(Bundle(bundle.path, bundle.manifest.model_copy(update={"input": longer})), threads=1)
    more = TensorSpec(name="logits", dtype="float32", shape=(networks.CLASSES + 1,))
    with pytest.raises(
        BundleError, match=rf"gives .*{networks.CLASSES}\], the manifest says .*{networks.CLASSES + 1}\]"
    ):
        runtimes.get(runtime).open(Bundle(bundle.path, bundle.manifest.model_copy(update={"output": more})), threads=1)
