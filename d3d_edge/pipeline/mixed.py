"""Mixed precision by goal: the fewest groups left in float with which the recipe's gate holds, and what they cost."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule

from d3d_edge import runtimes, target
from d3d_edge.bundle import Bundle
from d3d_edge.calibset import CalibrationPlan
from d3d_edge.errors import DataError, GateFailed, LoweringError, MissingDependency, RecipeError
from d3d_edge.harness import accuracy
from d3d_edge.harness.stopwatch import Opener, Plan, kept_open, take
from d3d_edge.manifest import Split
from d3d_edge.pipeline import calibration
from d3d_edge.pipeline.calibration import Student
from d3d_edge.pipeline.data import RunData
from d3d_edge.pipeline.export import Source, Wanted, describe
from d3d_edge.pipeline.kept import Kept
from d3d_edge.pipeline.sensitivity import ranked
from d3d_edge.pipeline.streams import evaluate, load_rgb, rgb_stream
from d3d_edge.progress import Progress
from d3d_edge.quantize import pt2e
from d3d_edge.quantize.groups import Group
from d3d_edge.quantize.running import module_of
from d3d_edge.quantize.sensitivity import Switched
from d3d_edge.runner import Where
from d3d_edge.runs import Run
from d3d_edge.video.cache import CachedClip
from d3d_edge.video.datasets import ClipDataset

_RANKED_BY = 32
"""Calibration clips, at most, by which groups are ranked."""
_PLAN = Plan(runs=20, rounds=20, warmup_runs=5)
"""Of the latency of each graph, in turns."""
_TRAIN_LESS = "a lower learning_rate in quantize.qat.train, or qat: null"


@dataclass(frozen=True)
class HeldOut:
    """Clips that decide, none of them of the test split."""

    split: Split
    """val; train where there is no val split, and then the calibration clips."""
    dataset: ClipDataset
    labels: NDArray[np.int64]
    float_right: int
    """Clips that the float student names rightly."""

    @classmethod
    def of(cls, run: Run, data: RunData, drawn: Sequence[CachedClip]) -> HeldOut:
        """The val split; without one, the calibration clips."""
        split: Split = "val" if data.of("val") else "train"
        dataset = replace(data.dataset(split), clips=data.of("val") or drawn)
        logits, labels = evaluate(rgb_stream(load_rgb(run, "student")), dataset, "student")
        return cls(split, dataset, labels, accuracy.right(logits, labels))

    def clips(self) -> Iterator[Tensor]:
        """uint8 [T, H, W, C], one at a time: a val split need not fit into memory."""
        return (torch.from_numpy(self.dataset.item(place)[0].copy()) for place in range(len(self.dataset)))

    def drop_points(self, logits: Tensor) -> float:
        """Points of top-1 that logits [clips, classes] lose against the float student."""
        # Whole numbers are subtracted: 0.85 - 0.7 is more than the 15 points that a gate may allow.
        return 100 * (self.float_right - accuracy.right(logits.numpy(), self.labels)) / len(self.labels)

    @torch.no_grad()
    def drop_of(self, module: nn.Module) -> float:
        """The same of a graph of one clip."""
        return self.drop_points(torch.cat([module(clip) for clip in self.clips()]))


@dataclass(frozen=True)
class Mixed:
    """A quantized graph, and the groups that are float in it."""

    program: ExportedProgram
    whole: ExportedProgram
    """The graph with all of them INT8."""
    groups: tuple[str, ...]
    held_out: dict[str, Any]
    """What was held out, and the points that this graph loses there."""


def automatic(
    run: Run,
    data: RunData,
    plan: CalibrationPlan,
    drawn: Sequence[CachedClip],
    prepared: GraphModule,
    kept: Kept[float],
    progress: Progress,
) -> Mixed:
    """The INT8 graph of `prepared`; where it misses the gate on held-out clips, one with some groups in float.

    Groups are ranked by what each costs alone on the calibration clips. The smallest number of them is searched by
    halves, which takes for granted that one more in float does no harm. Weights are those of `prepared`; the ranges of
    a mixed graph are found anew by the plan. What is measured of groups and mixes goes into `kept`.

    Raises:
        GateFailed: the gate does not hold even with a single group, and its pools, in INT8.
        DataError: the ranges of the trained weights fit no INT8 scale.
    """
    bound = run.recipe.gates.top1_drop_points_max
    held_out = HeldOut.of(run, data, drawn)
    whole = pt2e.convert(prepared, calibration.sample(run))
    drop = held_out.drop_of(module_of(whole))
    facts = {"split": held_out.split, "clips": len(held_out.labels), "int8_drop_points": drop}
    progress.note(f"keep_float: all INT8 loses {drop:.2f} points on {len(held_out.labels)} {held_out.split} clips")
    if drop <= bound:
        return Mixed(whole, whole, (), {**facts, "drop_points": drop})

    student = Student.of(run)
    pt2e.take_weights(student.graph, prepared)
    trained = kept.of("float", partial(held_out.drop_of, student.graph))
    lost = f"the weights that were trained for INT8 lose {trained:.2f} in float already"
    missed = f"no mix of INT8 and float loses at most {bound} points of top-1 on {len(held_out.labels)} "
    missed += f"{held_out.split} clips"
    if trained > bound:
        progress.note(f"keep_float: {lost}")

    def calibrated(keep: Sequence[str] = ()) -> GraphModule:
        return calibration.calibrated(student, data, plan, drawn, progress, keep_float=keep)

    try:
        switched = Switched(calibrated())
    except DataError as error:
        if trained <= bound:
            raise
        raise GateFailed(f"{missed}: {lost}, and {error.message}", hint=_TRAIN_LESS) from error
    order = ranked(switched, calibration.decoded(calibration.some(drawn, _RANKED_BY, plan), data), kept, progress)

    def rounded(count: int) -> float:
        int8 = [group for group in switched.groups if group not in order[:count]]
        return held_out.drop_points(switched.logits(int8, held_out.clips()))

    most = most_in_float(order)
    count = fewest(most, lambda count: kept.of(f"{count} rounded", lambda: rounded(count)) <= bound)
    while count is not None and count <= most:
        names = _in_order(switched, order[:count])
        if kept.found.get(f"{count} in float", bound) <= bound:
            program = pt2e.convert(calibrated(names), calibration.sample(run))
            drop = kept.of(f"{count} in float", partial(held_out.drop_of, module_of(program)))
            progress.note(f"keep_float: with {count} of {len(order)} groups in float, {drop:.2f} points are lost")
            if drop <= bound:
                return Mixed(program, whole, names, {**facts, "drop_points": drop})
        count += 1
    if trained > bound:
        raise GateFailed(f"{missed}: {lost}", hint=_TRAIN_LESS)
    raise GateFailed(missed, hint="raise gates.top1_drop_points_max, or train longer")


def most_in_float(order: Sequence[Group]) -> int:
    """How many of the first of `order` can be float: a pool follows what it pools, and is never INT8 alone."""
    return max(place for place, group in enumerate(order) if group.kind != "pool")


def fewest(most: int, holds: Callable[[int], bool]) -> int | None:
    """The smallest count from 1 to `most` for which `holds(count)`, if more never does harm; None if none does."""
    low, high = 0, 1
    while not holds(high):
        if high >= most:
            return None
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _in_order(switched: Switched, groups: Sequence[Group]) -> tuple[str, ...]:
    return tuple(group.name for group in switched.groups if group in groups)


def cost(run: Run, mixed: ExportedProgram, whole: ExportedProgram, progress: Progress) -> dict[str, Any]:
    """What the groups in float cost: bytes of weights, and latency where a target's runtime runs here."""
    sizes = {"weights_bytes": _weights_bytes(mixed), "int8_weights_bytes": _weights_bytes(whole)}
    return sizes | _latency(run, {"latency_ms_p50": mixed, "int8_latency_ms_p50": whole}, progress)


def _weights_bytes(program: ExportedProgram) -> int:
    """Of weights, biases and scales; not of zero points, int64 in a calibrated graph and int32 in a trained one."""
    values = [value for value in program.state_dict.values() if value.dtype not in (torch.int32, torch.int64)]
    return sum(value.numel() * value.element_size() for value in values)


def _latency(run: Run, programs: dict[str, ExportedProgram], progress: Progress) -> dict[str, Any]:
    """Median latency of each graph in one run, the graphs taking turns.

    ONNX Runtime computes Q/DQ in float, and an interpreter's time says nothing: only ExecuTorch's kernels count.
    """
    try:
        targets = [target.load(name) for name in run.recipe.export.targets]
    except RecipeError as error:  # a folder of one's own is looked for from where the command runs
        return {"latency": f"not measured: {error}"}
    found = next((found for found in targets if found.runtime == "executorch"), None)
    if found is None:
        return {"latency": "not measured: no target of the recipe has a runtime whose time counts here"}
    runtime = runtimes.get(found.runtime)
    try:
        runtime.check_lower()
        runtime.check_run()
    except MissingDependency as error:
        return {"latency": f"not measured: {error}"}
    clip = calibration.sample(run).numpy()
    opened: dict[str, Opener] = {}
    with (
        tempfile.TemporaryDirectory() as scratch,
        ExitStack() as stack,
        progress.task("latency of the mix", len(programs)) as task,
    ):
        for name, program in programs.items():
            folder = Path(scratch) / name
            folder.mkdir()
            try:
                lowered = runtime.lower(program, folder, found, precision="int8")
            except LoweringError as error:
                # Mostly all of it in INT8: that it cannot be lowered may be why some of it is to stay float.
                return {"latency": f"not measured: one of the graphs cannot be lowered: {error.message}"}
            source = Source(folder / lowered.model, sha256="", calibration_hash=None)
            try:
                described = describe(run, Wanted(found, name, "int8"), source, program, lowered)
            except DataError as error:  # the float graph is gone, which nothing else here needs
                return {"latency": f"not measured: {error.message}"}
            bundle = Bundle.unwritten(folder, described)
            opened[name] = kept_open(partial(runtime.open, bundle, threads=1), stack)
            task.advance(1, name)
        samples = take(opened, dict.fromkeys(opened, clip), _PLAN, threads=1)
    where = f"{found.name}, {Where.HOST_RUNTIME}, 1 thread"
    return {name: round(median(one.network_ms), 3) for name, one in samples.items()} | {"latency": where}


def told(found: dict[str, Any]) -> str:
    """`cost` in words."""
    sizes = [found[name] / 1e6 for name in ("weights_bytes", "int8_weights_bytes")]
    size = f"weights {sizes[0]:.2f} MB instead of {sizes[1]:.2f}"
    if "latency_ms_p50" not in found:
        return f"{size}, latency {found['latency']}"
    return (
        f"{size}, latency {found['latency_ms_p50']:.2f} ms instead of {found['int8_latency_ms_p50']:.2f} "
        f"({found['latency']})"
    )
