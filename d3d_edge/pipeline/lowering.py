"""One graph, lowered to one target and written as a bundle. Chooses neither of them, and knows no run."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, hub
from torch.export import ExportedProgram
from torch.fx import GraphModule

from d3d_edge import runtimes
from d3d_edge.bundle import Bundle, Description
from d3d_edge.errors import BundleError, LoweringError, MissingDependency, NotKnownHere, StorageError
from d3d_edge.files import beside
from d3d_edge.harness.accuracy import largest_difference
from d3d_edge.pipeline import golden
from d3d_edge.pipeline.golden import Golden
from d3d_edge.quantize.nodes import refusal
from d3d_edge.quantize.passes import InFloat16, round_weights
from d3d_edge.quantize.running import module_of
from d3d_edge.runtimes import Lowered, settle
from d3d_edge.target import QUANTIZED, Precision, Target

DIED = LoweringError("a process that lowered a graph died", stage="lower", hint="out of memory? try --workers 1")
"""Of the processes that share this work."""

NOT_CHECKED = "answers_not_checked"
"""Why this machine did not run the file, in what a bundle's manifest says of lowering."""

_NOISY_CLIPS = 4
"""Of which the one that noise moves most is taken."""


def prepare() -> None:
    """Prepare a process for it: lowering is Python, which keeps one core busy."""
    torch.set_num_threads(1)
    # torch.fx makes a progress bar even where none is shown, and the lock of the first is a semaphore of the system:
    # where the process is ended, Python would print that it was left behind.
    if set_lock := getattr(vars(hub)["tqdm"], "set_lock", None):  # torch's own bar, where there is no tqdm, has no lock
        set_lock(threading.RLock())


def write(
    program: ExportedProgram,
    target: Target,
    path: Path,
    clips: NDArray[np.uint8],
    *,
    precision: Precision,
    describe: Callable[[Lowered], Description],
    fill: Callable[[Path], None] = lambda folder: None,
    allow_fallback: bool = False,
) -> Bundle:
    """Lower `program` and write the bundle at `path`, whole or not at all.

    It holds `clips`, uint8 [K, T, H, W, C], and what `program` says of them. `describe` makes its manifest of what
    lowering told, and `fill` writes whatever else it holds into its folder.

    Raises:
        LoweringError: the graph cannot be lowered, would not run there, or the file answers something else.
        StorageError: the bundle cannot be written.
    """
    scratch = beside(path, "lowering")
    try:
        scratch.mkdir(parents=True)
        lowered = runtimes.get(target.runtime).lower(
            program, scratch, target, precision=precision, allow_fallback=allow_fallback
        )
        module = module_of(program)
        asked = Golden(clips, _logits(module, clips))
        _check_answers(asked, _logits(module, clips[:1]))
        description = _held_to_graph(scratch, describe(lowered), program, module, asked, allow_fallback=allow_fallback)

        def whole(folder: Path) -> None:
            (scratch / lowered.model).rename(folder / lowered.model)
            # Before the bundle is there: nobody would look for what a kill leaves beside a whole one.
            shutil.rmtree(scratch, ignore_errors=True)
            fill(folder)
            golden.write(folder, asked)

        return Bundle.write(path, description, whole)
    except OSError as error:
        raise StorageError.of(path, error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _check_answers(asked: Golden, again: NDArray[np.float32]) -> None:
    """Refuse a graph that nothing can be compared with: its logits are no numbers, or others when it is asked `again`.

    `again`: those of the first clip alone, [1, classes].
    """
    if not np.isfinite(asked.logits).all():
        raise LoweringError(
            "the graph gives logits of the clips that are not finite",
            stage="answers",
            hint="d3d-edge evaluate tells whether the network does, too",
        )
    if not np.allclose(asked.logits[:1], again, rtol=0, atol=1e-5 * float(np.abs(asked.logits).max())):
        raise LoweringError(
            "the graph gives other logits each time that it is asked",
            stage="answers",
            hint="something draws at random in it: export the network in evaluation mode, network.eval()",
        )


def _held_to_graph(
    folder: Path,
    made: Description,
    program: ExportedProgram,
    module: GraphModule,
    asked: Golden,
    *,
    allow_fallback: bool,
) -> Description:
    """`made`, with how far the file in `folder` is from `program` on the clips, where this machine can run it.

    `module` is that of the program.

    Raises:
        LoweringError: it does not run, or is further than rounding brings it, which no check of its operators tells.
    """
    if made.runtime == "eager":
        return made  # its file is the graph
    runtime = runtimes.get(made.runtime)
    if len(asked.clips) == 1:  # of one clip alone, nobody knows what clips change
        clips = np.concatenate([asked.clips, 255 - asked.clips])
        asked = Golden(clips, _logits(module, clips))
    facts: dict[str, int | float | str | bool] = dict(made.lowering)
    if made.precision in QUANTIZED and np.isfinite(moved := _moved_by_noise(module, asked)):
        facts[golden.MOVED] = moved
    if made.precision == "weights-int8" and np.isfinite(moved := _moved_by_weights(program, asked)):
        facts[golden.ROUNDED] = moved
    faults = []
    # Beside INT8, Core ML computes in float16; the other runtimes in float32, unless the precision says otherwise.
    if made.precision != "float32" and (made.precision != "int8" or made.runtime == "coreml"):
        moved, beyond = _moved_by_float16(program, asked, made.runtime)
        faults += beyond
        if made.precision == "float16" and np.isfinite(moved):
            facts[golden.HALVED] = moved
    made = made.model_copy(update={"lowering": facts})
    try:
        runtime.check_run()
        with runtime.open(Bundle.unwritten(folder, made)) as runner:
            answers = np.stack([runner.run(clip) for clip in asked.clips])
        facts["answers_checked_by"] = runner.runtime
    except (MissingDependency, NotKnownHere) as error:
        facts[NOT_CHECKED] = error.message.replace(f"{folder}/", "")
    except (BundleError, RuntimeError) as error:
        reason = str(getattr(error, "message", error)).splitlines()[0].replace(f"{folder}/", "")
        facts[NOT_CHECKED] = reason
        hint = "take layers out until it runs, and write the last one otherwise"
        faults.append(LoweringError(f"the file does not run: {reason}", stage="answers", hint=hint))
    else:
        difference = largest_difference(answers, asked.logits)
        if np.isfinite(difference):
            facts["answers_difference"] = difference
        if golden.told_apart(difference, asked.logits, made):
            fault = LoweringError(
                "the file answers something else than the graph: logits that clips change by up to "
                f"{np.ptp(asked.logits, axis=0).max():.3g} differ by {difference:.3g}",
                stage="answers",
                runtime=runner.runtime,
                hint="an operator was written as another: use the layers of d3d_edge.models.layers",
            )
            faults.append(fault)
    noted = settle(faults, allow_fallback=allow_fallback)
    return made.model_copy(update={"lowering": facts, "fallbacks": (*made.fallbacks, *noted)})


def _moved_by_noise(module: GraphModule, asked: Golden) -> float:
    """The most that a logit of `module` moves by where each byte of the clips moves by one or none."""
    chance = np.random.default_rng(0)
    moved = []
    for _ in range(-(-_NOISY_CLIPS // len(asked.clips))):
        noise = chance.integers(-1, 2, asked.clips.shape, dtype=np.int16)
        noisy = np.clip(asked.clips + noise, 0, 255).astype(np.uint8)
        moved.append(largest_difference(_logits(module, noisy), asked.logits))
    return max(moved)


def _moved_by_weights(program: ExportedProgram, asked: Golden) -> float:
    """The most that a logit of `program` moves by where its weights are rounded to INT8."""
    module = program.module()
    round_weights(module)
    return largest_difference(_logits(module, asked.clips), asked.logits)


def _moved_by_float16(program: ExportedProgram, asked: Golden, runtime: str) -> tuple[float, list[LoweringError]]:
    """The most that a logit of `program` moves by where weights and all between operators are rounded to float16; and
    where that is infinite, why."""
    halved = InFloat16(program.module())
    moved = largest_difference(_logits(halved.run, asked.clips), asked.logits)
    if np.isfinite(moved) or halved.beyond is None:
        return moved, []
    node, largest = halved.beyond
    message = f"{node.name} is up to {largest:.3g} on the bundle's clips, and {runtime} computes to 65504"
    return moved, [refusal(node, message, "only a target that computes in float32 takes it", runtime=runtime)]


@torch.no_grad()
def _logits(module: Callable[[Tensor], Tensor], clips: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.concatenate([module(torch.from_numpy(clip)).numpy() for clip in clips])
