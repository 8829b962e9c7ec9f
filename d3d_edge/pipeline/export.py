"""d3d-edge export: the student of a run, lowered to bundles for devices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.export import ExportedProgram

from d3d_edge import runtimes, target
from d3d_edge.bundle import LABELS, MANIFEST, RECIPE, Bundle, Description
from d3d_edge.calibset import CalibrationSet, load_plan
from d3d_edge.errors import DataError, LoweringError, RecipeError
from d3d_edge.files import check_writable, is_whole_archive, sha256_of_file, sweep, write_text
from d3d_edge.manifest import Clip
from d3d_edge.pipeline import lowering, marks, videos
from d3d_edge.pipeline.environment import tools
from d3d_edge.pipeline.references import REFERENCES
from d3d_edge.progress import Progress
from d3d_edge.quantize import graph_files, placement, pt2e
from d3d_edge.runner import TensorSpec
from d3d_edge.runs import Run
from d3d_edge.runtimes import Lowered
from d3d_edge.target import QUANTIZED, Precision, Target
from d3d_edge.video.preprocess import load_clip
from d3d_edge.workers import mapper


class Wanted(NamedTuple):
    """A bundle to make."""

    target: Target
    folder: str
    precision: Precision
    allow_fallback: bool = False


@dataclass(frozen=True)
class Source:
    """A graph to lower, and where it came from."""

    path: Path
    sha256: str
    calibration_hash: str | None
    told: str = ""
    """What a user is to know of it."""

    @classmethod
    def of(cls, run: Run, precision: Precision) -> Source:
        """The float or the quantized graph of a run, whichever `precision` is lowered from.

        Raises:
            DataError: the stage that makes it is not finished, or was before its recipe, plan or student was changed.
        """
        marks.refuse_changed(run, "student")
        stage = "quantized" if precision in QUANTIZED else "student"
        again, done = run.command(stage), run.need(stage)
        calibration = None
        if precision in QUANTIZED:
            # Graphs of older versions do not say.
            if done.get("recipe_hash", run.quantize_hash) != run.quantize_hash:
                raise DataError(
                    f"{run.path} was quantized before its recipe's section quantize was changed", hint=again
                )
            if _plan_was_changed(run):
                plan = run.recipe.quantize.calibration
                raise DataError(f"{run.path} was quantized before its plan {plan} was changed", hint=again)
            # Graphs of older versions do not say, and neither did students.
            if done.get("student", run.need("student")["fingerprint"]) != marks.trained(run, "student"):
                raise DataError(f"{run.path} was quantized before its student was trained again", hint=again)
            calibration = done["calibration_hash"]
        path = run.folder(stage) / marks.GRAPH_NAME
        if not is_whole_archive(path):
            raise DataError(f"{path} is {'damaged' if path.is_file() else 'missing'}", hint=f"{again} writes it again")
        sha256 = sha256_of_file(path)
        # Told and not refused: who changes a graph by hand wants to see what comes of it. Older stages do not say.
        own = done.get("graph_sha256") in (None, sha256)
        told = "" if own else f"{path} is another graph than {stage} was finished with; {again} writes it again"
        return cls(path, sha256, calibration, told)


def export(
    run: Run,
    targets: Iterable[Target],
    out: Path,
    *,
    precision: Precision,
    workers: int,
    progress: Progress,
    allow_fallback: bool = False,
) -> tuple[Bundle, ...]:
    """Write a bundle per target to `out`/<target>, and the two references beside them; finished ones are kept.

    `workers` processes lower at once: it is Python, so one graph keeps one core busy. With `allow_fallback`, what would
    be slow on a target or not run there is noted in the bundle instead of refused.

    Raises:
        RecipeError: a target does not take the precision, or two bundles would have one folder.
        MissingDependency: a runtime's package is not installed.
        LoweringError: the graph cannot be lowered, or would not run there.
        StorageError: a bundle cannot be written.
    """
    sweep(out)
    wanted = [Wanted(found, _folder(found.name, precision), precision, allow_fallback) for found in targets]
    for folder, many in Counter([*(one.folder for one in wanted), *REFERENCES.values()]).items():
        if many > 1:
            raise RecipeError(
                f"{many} bundles would be written to {out / folder}",
                hint=f"change name in a target.yaml ({' and '.join(REFERENCES.values())} are the references')",
            )
    for one in wanted:
        _check(run, one.target, precision)
    host = target.load("host")
    precisions: tuple[Precision, ...] = ("float32", "int8") if precision in QUANTIZED else ("float32",)
    wanted += [Wanted(host, REFERENCES[kind], kind) for kind in precisions]
    for kind in precisions:
        if told := Source.of(run, kind).told:
            progress.note(told)
    there = [_kept(run, out, one) for one in wanted]
    missing = [one for one, kept in zip(wanted, there, strict=True) if kept is None]
    if missing:
        check_writable(out / MANIFEST)  # before anything is lowered
    bundles: list[Bundle] = []
    with (
        progress.task("export", len(wanted)) as task,
        mapper(min(workers, len(missing)), prepare=lowering.prepare, died=lowering.DIED) as mapped,
    ):
        made = iter(mapped(partial(_export, run, out, _golden(run)), missing)) if missing else iter(())
        for kept in there:
            bundle: Bundle = kept or next(made)
            done = "exported before" if kept else f"{bundle.model_size_bytes / 1e6:.2f} MB"
            progress.note(f"{bundle.manifest.target} {bundle.manifest.precision}: {done} -> {bundle.path}")
            if unchecked := bundle.manifest.lowering.get(lowering.NOT_CHECKED):
                progress.note(f"  its answers were not checked against the graph's: {unchecked}")
            bundles.append(bundle)
            task.advance(1, bundle.path.name)
    return tuple(bundles)


def _folder(name: str, precision: Precision) -> str:
    return name if precision == "int8" else f"{name}-{precision}"


def _check(run: Run, found: Target, precision: Precision) -> None:
    """What can be refused before any work is done."""
    runtimes.get(found.runtime).check_lower()
    if precision not in found.precisions:
        raise RecipeError(
            f"the target {found.name} does not take the precision {precision}",
            hint=f"it takes {', '.join(found.precisions)}",
        )
    done = runtimes.get(found.runtime).precisions
    if precision not in done:
        raise LoweringError(
            f"the target {found.name} promises {precision}, and {found.runtime} lowers to {', '.join(done)} only",
            stage="check",
            hint="correct precisions in its target.yaml",
        )
    scheme = run.recipe.quantize.scheme
    if precision in QUANTIZED and scheme not in found.schemes:
        raise LoweringError(
            f"the target {found.name} does not take the quantization scheme {scheme}",
            stage="check",
            hint=f"set quantize.scheme: {found.schemes[0]} in {run.path / 'recipe.yaml'} and quantize again",
        )


def _golden(run: Run) -> NDArray[np.uint8]:
    """The first readable test clips of different classes, uint8 [K, T, H, W, C].

    Raises:
        DataError: there are none, or one cannot be read any more.
    """
    unreadable = {clip.path for clip in run.skipped()}
    clips: list[Clip] = sorted(
        (clip for clip in run.data.of("test") if clip.key not in unreadable), key=lambda clip: clip.key
    )
    seen: dict[str, int] = {}
    turns = []
    for place, clip in enumerate(clips):
        turns.append((seen.get(clip.label, 0), place))
        seen[clip.label] = seen.get(clip.label, 0) + 1
    chosen = [clips[place] for _, place in sorted(turns)[: run.recipe.export.golden_clips]]
    if not chosen:
        raise DataError(f"{run.path}: no test clip can be read, and a bundle holds some", hint="bring the clips back")
    return np.stack([load_clip(Path(c.path), run.recipe.clip, start_s=c.start_s, end_s=c.end_s) for c in chosen])


def _plan_was_changed(run: Run) -> bool:
    """Whether the calibration plan is another than that of the quantized graph; not where one of them is gone."""
    try:
        kept = CalibrationSet.model_validate_json((run.folder("quantized") / "calibration.json").read_bytes())
        return kept.plan != load_plan(run.recipe.quantize.calibration)
    except (RecipeError, OSError, ValueError):
        return False


def describe(run: Run, wanted: Wanted, source: Source, program: ExportedProgram, lowered: Lowered) -> Description:
    """All that is known of the bundle of a lowered graph before it is written."""
    found, quantized = wanted.target, wanted.precision in QUANTIZED
    clip, trained = run.recipe.clip, videos.trained_on(run)
    labels = run.data.labels
    return Description(
        name=run.recipe.name,
        target=found.name,
        runtime=found.runtime,
        precision=wanted.precision,
        scheme=run.recipe.quantize.scheme if quantized else None,
        model=lowered.model,
        clip=clip,
        clip_hash=clip.hash(),
        video_length_s=trained.length_s,
        video_rate_hz=trained.rate_hz,
        labels=labels,
        input=TensorSpec(name="clip", dtype="uint8", shape=clip.shape),
        output=TensorSpec(name="logits", dtype="float32", shape=(len(labels),)),
        graph_sha256=source.sha256,
        float_sha256=Source.of(run, "float32").sha256,
        logit_step=pt2e.logit_step(program) if quantized else None,
        calibration_hash=source.calibration_hash,
        data_hash=run.data.data_hash(),
        tools=tools([found.runtime]),
        options=found.options,
        lowering=lowered.facts,
        fallbacks=lowered.fallbacks,
    )


def _export(run: Run, out: Path, golden: NDArray[np.uint8], wanted: Wanted) -> Bundle:
    """One bundle, made anew."""
    found, source, path = wanted.target, Source.of(run, wanted.precision), out / wanted.folder
    program = _graph(source.path, source.sha256)
    _check_graph(program, run, wanted.precision, source.path)

    def fill(folder: Path) -> None:
        write_text(folder / LABELS, "".join(f"{label}\n" for label in run.data.labels))
        write_text(folder / RECIPE, run.recipe.yaml())

    return lowering.write(
        program,
        found,
        path,
        golden,
        precision=wanted.precision,
        describe=partial(describe, run, wanted, source, program),
        fill=fill,
        allow_fallback=wanted.allow_fallback,
    )


def _check_graph(program: ExportedProgram, run: Run, precision: Precision, path: Path) -> None:
    """Refuse a graph that is not what the bundle will say."""
    if placement.is_quantized(program) != (precision in QUANTIZED):
        quantized = "not quantized" if precision in QUANTIZED else "quantized"
        raise LoweringError(
            f"the graph {path} is {quantized}, and {precision} is asked for",
            stage="check",
            hint=f"delete it; d3d-edge {'quantize' if precision in QUANTIZED else 'distill'} writes it again",
        )
    takes, gives = pt2e.shapes(program)
    own = (run.recipe.clip.shape, (1, len(run.data.labels)))
    for found, wanted in zip((takes, gives), own, strict=True):
        # Of free axes, and of too many, the runtimes say what is wrong.
        if len(found) == len(wanted) and any(size not in (-1, one) for size, one in zip(found, wanted, strict=True)):
            raise LoweringError(
                f"the graph {path} takes {list(takes)} and gives {list(gives)}, the run has clips of {list(own[0])} "
                f"and {own[1][1]} classes",
                stage="check",
                hint="it is of another run",
            )


@lru_cache(maxsize=2)
def _graph(path: Path, sha256: str) -> ExportedProgram:
    """The graph in a file of that hash, kept: several bundles are made of it, and lowering does not change it."""
    return graph_files.load(path)


def _kept(run: Run, out: Path, wanted: Wanted) -> Bundle | None:
    """The bundle that is there, if it was made from the same graph and recipe by the same tools.

    The recipe's gates are those that `validate` holds a bundle to.
    """
    path = out / wanted.folder
    bundle = Bundle.found(path)
    if bundle is None:
        return None
    made, found = bundle.manifest, wanted.target
    same = made.graph_sha256 == Source.of(run, wanted.precision).sha256 and made.tools == tools([found.runtime])
    as_asked = (made.target, made.precision, made.options) == (found.name, wanted.precision, found.options)
    allowed = wanted.allow_fallback or not made.fallbacks
    recipe = RECIPE in made.files and (path / RECIPE).read_text(encoding="utf-8") == run.recipe.yaml()
    return bundle if same and as_asked and allowed and recipe else None
