"""d3d-edge validate: accuracy, agreement, size and latency of bundles on the same decoded clips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from d3d_edge import recipe, runtimes
from d3d_edge.bundle import MANIFEST, RECIPE, Bundle, by_place, check_output
from d3d_edge.errors import BundleError, DataError, MissingDependency
from d3d_edge.harness import accuracy, gates, latency, stopwatch
from d3d_edge.harness.accuracy import Logits
from d3d_edge.manifest import Source
from d3d_edge.pipeline.devices import HERE, NO_DEVICE, THIS_MACHINE, Devices, Fleet, check, fits
from d3d_edge.pipeline.environment import environment
from d3d_edge.pipeline.golden import golden_of, most_apart, told_apart
from d3d_edge.pipeline.measured_clips import Decoding, clips_of, named, root_of
from d3d_edge.pipeline.notes import note_skipped
from d3d_edge.pipeline.references import REFERENCES, Role, role_of
from d3d_edge.pipeline.rows import fallback_notes, row_of
from d3d_edge.progress import Progress
from d3d_edge.report import Gate, Report, ReportClip, Row
from d3d_edge.runner import Runner, Where
from d3d_edge.target import QUANTIZED

PLAN = stopwatch.Plan(runs=50, rounds=5, warmup_runs=5, budget_s=3.0)
"""Fewer times than `benchmark` takes: here they stand beside the accuracy."""
_NAME: dict[Role, str] = {"float": "float student", "quantized": "quantized graph"}


@dataclass(frozen=True)
class _Model:
    """A bundle and its part in the comparison."""

    bundle: Bundle
    role: Role
    device: str = HERE
    """Where it is run; empty where no device that was given can."""
    suffix: str = ""
    """Of the name: where it lies, if others are of the same target and precision; and the device."""

    @property
    def name(self) -> str:
        made = self.bundle.manifest
        own = _NAME.get(self.role) or made.target + ("" if made.precision == "int8" else f" {made.precision}")
        return own + self.suffix


class _Opened(NamedTuple):
    """A bundle that runs on this machine."""

    runner: Runner
    golden: Logits
    """What it says of the clips stored in it."""


def validate(
    paths: Sequence[Path],
    data: Path | Source,
    *,
    split: str,
    strict: bool,
    threads: int,
    report_path: Path,
    progress: Progress,
    devices: Devices = THIS_MACHINE,
) -> Report:
    """Measure the bundles at `paths` on a split of `data` ('test', 'val', 'train' or 'all') and write the report.

    The float student and the quantized graph are the reference bundles that `export` writes beside the others. They
    run on this machine, and the bundles on each of `devices` that can run them.

    Raises:
        BundleError: a bundle is damaged, or the bundles are not of one student.
        RecipeError: a device is none, or can run none of the bundles; or the report would lie in a bundle.
        DeviceError: a device failed; --resume goes on.
        DataError: the data cannot be used, or a label is not the bundles'.
        StorageError: the report cannot be written.
    """
    started = datetime.now(UTC)
    models = _models(paths, devices)
    check_output(report_path, "--out")
    made = models[0].bundle.manifest
    rules = recipe.stored(models[0].bundle.path / RECIPE)
    clips, notes = clips_of(made.labels, made.data_hash, rules, data, split)
    decoding = Decoding(clips, models[0].bundle, strict)
    with ExitStack() as stack:
        fleet = stack.enter_context(Fleet(devices, threads))
        fleet.try_out({model.bundle.path: model.bundle for model in models}.values(), progress)
        opened, refused = _open(models, threads, stack)
        runners = {name: one.runner for name, one in opened.items()}
        with progress.task("accuracy", len(clips)) as task:
            logits = accuracy.logits_of(runners, fleet.packed(decoding.decoded()), task.advance)
        note_skipped(decoding.skipped, progress)
        if not decoding.used:
            raise DataError(f"no clip of {data} could be read", hint=decoding.skipped[0].reason)
        labels = np.array([made.labels.index(clip.label) for clip in decoding.used], dtype=np.int64)
        root = root_of(data)
        measured = named(decoding.used, labels, root)
        rows = []
        for model in models:
            row = _row(model, opened.get(model.name), refused.get(model.name, ""))
            if model.device not in (HERE, ""):
                figures, logits[model.name] = fleet.run(model.device, model.bundle, PLAN, progress)
                row = row.model_copy(update=figures)
            if model.name in logits:
                row = _with_accuracy(row, model, models, logits, labels, measured)
            rows.append(row)
    rows = _timed(rows, models, threads, progress)
    report = Report(
        title=made.name,
        classes=len(made.labels),
        labels=made.labels,
        data=str(root),
        split=split,
        clips=measured,
        chance=accuracy.chance(labels),
        environment=environment(started, {model.bundle.manifest.runtime for model in models}),
        rows=tuple(rows),
        pairs=accuracy.pairs(
            {model.name: logits[model.name] for model in models if model.role == "bundle" and model.name in logits}
        ),
        gates=(*gates.judge(rules.gates, rows), *_missed_answers(models, rows)),
        skipped=tuple(decoding.skipped),
        notes=(*notes, *fallback_notes((model.name, model.bundle) for model in models), *_other_answers(models, rows)),
    )
    report.write(report_path)
    return report


def _answers_otherwise(models: Sequence[_Model], rows: Sequence[Row]) -> Iterator[tuple[Bundle, Row, float]]:
    """Bundles whose stored logits are not those of their file, since no rounding makes that much of a difference, with
    their rows and differences."""
    for model, row in zip(models, rows, strict=True):
        difference = row.golden_difference_max
        if difference is not None and told_apart(difference, golden_of(model.bundle).logits, model.bundle.manifest):
            yield model.bundle, row, difference


def _other_answers(models: Sequence[_Model], rows: Sequence[Row]) -> Iterator[str]:
    for _, row, difference in _answers_otherwise(models, rows):
        yield (
            f"{row.name}: its logits of the clips stored in it differ by up to {difference:.3g} "
            "from those stored beside them, so an app that checks itself by these fails"
        )


def _missed_answers(models: Sequence[_Model], rows: Sequence[Row]) -> Iterator[Gate]:
    """Gates, which are there where they fail: of what runs here, where `export` refuses such files too."""
    for bundle, row, difference in _answers_otherwise(models, rows):
        if not row.device and not bundle.manifest.fallbacks:
            bound = most_apart(golden_of(bundle).logits, bundle.manifest)
            yield Gate(name="stored_answers_differ_max", row=row.name, bound=bound, value=difference, verdict="fail")


def _models(paths: Sequence[Path], devices: Devices) -> list[_Model]:
    """The bundles at `paths`, once for each device that runs them, and first the references that lie beside them.

    Raises:
        BundleError: they are not all of one student, one quantized graph, and one ClipSpec.
        RecipeError: a device is none, or can run none of the bundles.
    """
    given = {path.resolve(): Bundle.open(path) for path in paths}
    check(list(given.values()), devices)
    first = next(iter(given.values())).manifest
    for path in dict.fromkeys(path.parent for path in given):
        for name in REFERENCES.values():
            beside = path / name
            if beside not in given and (beside / MANIFEST).is_file():
                reference = Bundle.open(beside)
                roles = map(role_of, given.values())
                if reference.manifest.float_sha256 == first.float_sha256 and role_of(reference) not in roles:
                    given[beside] = reference
    graphs: dict[bool, str] = {}
    for path, bundle in given.items():
        made = bundle.manifest
        if made.float_sha256 != first.float_sha256 or made.clip != first.clip or made.labels != first.labels:
            raise BundleError(f"{path} comes from another student than {paths[0]}", hint="validate them apart")
        if graphs.setdefault(made.precision in QUANTIZED, made.graph_sha256) != made.graph_sha256:
            raise BundleError(f"{path} comes from another quantized graph", hint="export it again")
    models = []
    alike = Counter(_Model(bundle, role_of(bundle)).name for bundle in given.values())
    for place, bundle in by_place(given.values()).items():
        role = role_of(bundle)
        apart = f" ({place})" if alike[_Model(bundle, role).name] > 1 else ""
        where = [name for name in dict.fromkeys(devices.names) if fits(bundle, name)] if role == "bundle" else [HERE]
        models += [_Model(bundle, role, name, apart + devices.suffix(name)) for name in where]
        if not where:
            models.append(_Model(bundle, role, device="", suffix=apart))
    order: dict[Role, int] = {"float": 0, "quantized": 1, "bundle": 2}
    return sorted(models, key=lambda model: order[model.role])


def _open(models: Sequence[_Model], threads: int, stack: ExitStack) -> tuple[dict[str, _Opened], dict[str, str]]:
    """The bundles that run here, by name, and why the others do not."""
    opened: dict[str, _Opened] = {}
    refused: dict[str, str] = {}
    for model in models:
        runtime = runtimes.get(model.bundle.manifest.runtime)
        if model.device != HERE:
            refused[model.name] = "" if model.device else NO_DEVICE
            continue
        try:
            runtime.check_run()
        except MissingDependency as error:
            refused[model.name] = str(error)
        else:
            try:
                runner = stack.enter_context(runtime.open(model.bundle, threads=threads))
                answers = np.stack([runner.run(clip) for clip in golden_of(model.bundle).clips])
                opened[model.name] = _Opened(runner, answers)
            except BundleError as error:
                # One that was exported with --allow-fallback may not run at all, and says so in the report.
                if not model.bundle.manifest.fallbacks:
                    raise
                refused[model.name] = str(error)
    return opened, refused


def _row(model: _Model, opened: _Opened | None, refused: str) -> Row:
    """What is known of a bundle without labels: where it runs, size, its stored clips."""
    made = model.bundle.manifest
    row = row_of(model.name, model.bundle, note=refused, logit_step=made.logit_step, facts=made.lowering)
    if opened is None:
        return row
    return row.model_copy(
        update={
            "where": opened.runner.where,
            "runtime": opened.runner.runtime,
            "golden_difference_max": accuracy.largest_difference(opened.golden, golden_of(model.bundle).logits),
        }
    )


def _timed(rows: Sequence[Row], models: Sequence[_Model], threads: int, progress: Progress) -> list[Row]:
    """`rows` with the times of this machine, but for interpreters: their time says nothing about the target."""
    bundles = {
        row.name: model.bundle
        for model, row in zip(models, rows, strict=True)
        if model.device == HERE and row.where not in (Where.NOT_RUN, Where.REFERENCE_INTERPRETER)
    }
    clips = {name: golden_of(bundle).clips[0] for name, bundle in bundles.items()}
    with ExitStack() as stack, progress.task("latency", PLAN.rounds * len(bundles)) as task:
        openers = {
            name: stopwatch.kept_open(
                partial(runtimes.get(bundle.manifest.runtime).open, bundle, threads=threads), stack
            )
            for name, bundle in bundles.items()
        }
        samples = stopwatch.take(openers, clips, PLAN, threads=threads, on_round=task.advance)
    return [latency.timed(row, samples[row.name]) if row.name in samples else row for row in rows]


def _with_accuracy(
    row: Row,
    model: _Model,
    models: Sequence[_Model],
    logits: dict[str, Logits],
    labels: NDArray[np.int64],
    clips: tuple[ReportClip, ...],
) -> Row:
    """`row` with what the labelled clips say."""
    own = logits[model.name]
    top1 = accuracy.topk(own, labels, 1)
    low, high = accuracy.wilson(accuracy.right(own, labels), len(labels))
    answers = accuracy.answers(own)
    student = next((accuracy.answers(logits[other.name]) for other in models if other.role == "float"), None)
    paired = model.role != "float" and student is not None
    figures: dict[str, object] = {
        "clips": len(labels),
        "top1": top1,
        "top1_low": low,
        "top1_high": high,
        "top5": accuracy.topk(own, labels, 5),
        "answers": answers,
        "classes": accuracy.by_class(answers, clips, model.bundle.manifest.labels, student if paired else None),
        "paired": accuracy.paired(answers, student, clips) if paired and student else None,
    }
    from_quantized = model.bundle.manifest.precision in QUANTIZED and model.role != "quantized"
    compared: Role = "quantized" if from_quantized else "float"
    reference = next((logits[other.name] for other in models if other.role == compared and other.name in logits), None)
    if reference is not None and model.role != "float":
        figures["agreement"] = accuracy.agreement(own, reference)
        figures["logit_difference_max"] = accuracy.largest_difference(own, reference)
    return row.model_copy(update=figures)
