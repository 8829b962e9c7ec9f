"""What INT8 costs in accuracy: every observer plan, quantization-aware training, and each bundle, over several seeds.

python benchmarks/int8.py RUN... --out int8/        RUN: finished by d3d-edge distill, one recipe with several seeds
python benchmarks/int8.py RUN... --out int8/ --only-trained        without the plans and their bundles

Calibrates the float student of each run by every plan in calibration/, trains it quantization-aware as its recipe says,
and lowers two graphs of each run to bundles: that of the best plan, chosen on the val split, and the trained one. All
answer the same clips. What is finished is kept. Leaves OUT/int8.json and prints its tables.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

from d3d_edge import calibset, recipe, resources, runtimes, target
from d3d_edge.bundle import Bundle
from d3d_edge.cli import options
from d3d_edge.cli.console import TerminalProgress
from d3d_edge.files import write_json
from d3d_edge.harness import accuracy
from d3d_edge.harness.accuracy import Logits
from d3d_edge.manifest import Split
from d3d_edge.pipeline import calibration, marks
from d3d_edge.pipeline.calibration import Student
from d3d_edge.pipeline.data import RunData, prepare
from d3d_edge.pipeline.environment import environment
from d3d_edge.pipeline.export import export
from d3d_edge.pipeline.quantize import quantize
from d3d_edge.pipeline.streams import evaluate, load_rgb, rgb_stream
from d3d_edge.progress import Progress
from d3d_edge.quantize.sensitivity import Switched
from d3d_edge.runs import Run, fingerprint

TARGETS = ("android", "ios", "jetson")
SPLITS: tuple[Split, ...] = ("val", "test")
BOUNDS = {"ptq": 1.5, "qat": 0.5}
"""Points of top-1 that the best plan and the trained graph may lose, mean over the runs, on the test split."""
DRAWS = 10_000


@dataclass(frozen=True)
class Answered:
    """One model of one run: logits float32 [N, classes] of the clips of each split."""

    name: str
    where: str
    logits: dict[Split, Logits]


@dataclass(frozen=True)
class Seed:
    """One run, the classes of its clips, and all that was measured of it."""

    run: Run
    data: RunData
    labels: dict[Split, NDArray[np.int64]]
    models: dict[str, Answered] = dataclasses.field(default_factory=dict)


@click.command()
@click.argument("runs", nargs=-1, required=True, type=options.PATH)
@click.option("--out", required=True, type=options.PATH, help="Copies of the runs, bundles, logits, and int8.json.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Changes section quantize of the recipe.")
@click.option("--only-trained", is_flag=True, help="Without the plans, and without the bundles of the best one.")
@options.cache
@options.workers
def main(
    runs: tuple[Path, ...], out: Path, settings: tuple[str, ...], only_trained: bool, cache_dir: Path, workers: int
) -> None:
    """Measure INT8 of the students of RUNS."""
    started, progress = datetime.now(UTC), TerminalProgress()
    seeds = [_opened(path, cache_dir, workers, progress) for path in runs]
    plans = [] if only_trained else resources.names("calibration")
    for seed in seeds:
        for plan in plans:
            _add(seed, _calibrated(seed, plan, out / seed.run.path.name / f"ptq-{plan}", progress))
    best = best_plan(seeds, plans) if plans else None
    kinds: dict[str, list[str]] = {"qat": []}
    if best:
        progress.note(f"best plan on the val split: {best}")
        kinds = {"ptq": ["quantize.qat=null", f"quantize.calibration={best}"], **kinds}
    for seed in seeds:
        for kind, more in kinds.items():
            work = out / seed.run.path.name / kind
            run = _copied(seed.run, work, [*settings, *more])
            quantize(run, cache_dir=cache_dir, workers=workers, strict=False, progress=progress)
            made = export(
                run,
                [target.load(name) for name in TARGETS],
                work / "bundles",
                precision="int8",
                workers=1,
                progress=progress,
            )
            for answered in _bundles(seed, kind, made, work, progress):
                _add(seed, answered)
    result = {
        "best_plan": best,
        "settings": settings,
        "recipe": recipe.load(str(out / runs[0].name / "qat" / "recipe.yaml")).quantize.model_dump(mode="json"),
        "clips": {split: len(labels) for split, labels in seeds[0].labels.items()},
        "rows": [row(seeds, name) for name in seeds[0].models],
        "pairs": [pair for kind in kinds for pair in pairs(seeds, kind)],
        "environment": environment(started, ["executorch", "coreml", "tensorrt"]).model_dump(),
    }
    write_json(out / "int8.json", result)
    _print(result)


def _opened(path: Path, cache_dir: Path, workers: int, progress: Progress) -> Seed:
    run = Run.open(path)
    data = prepare(run, cache_dir, workers=workers, strict=False, progress=progress)
    stream = rgb_stream(load_rgb(run, "student"))
    found = {split: evaluate(stream, data.dataset(split), "student") for split in SPLITS}
    seed = Seed(run, data, {split: labels for split, (_, labels) in found.items()})
    _add(seed, Answered("float student", "host PyTorch", {split: logits for split, (logits, _) in found.items()}))
    return seed


def _add(seed: Seed, answered: Answered) -> None:
    seed.models[answered.name] = answered


def _calibrated(seed: Seed, plan_name: str, folder: Path, progress: Progress) -> Answered:
    """What a plan gives: the calibrated graph with all of its roundings on, which is what is converted."""
    plan = calibset.load_plan(plan_name)
    path = _answers(folder, marks.trained(seed.run, "student"), plan.model_dump(mode="json"))
    if not path.is_file():
        drawn = calibration.drawn_clips(seed.data, plan, progress)
        switched = Switched(calibration.calibrated(Student.of(seed.run), seed.data, plan, drawn, progress))
        answers = {}
        for split in SPLITS:
            dataset = seed.data.dataset(split)
            clips = [torch.from_numpy(np.ascontiguousarray(dataset.item(place)[0])) for place in range(len(dataset))]
            answers[split] = switched.logits(switched.groups, clips).numpy()
        _save(path, answers)
    return Answered(f"ptq {plan_name}", "host PyTorch", _load(path))


def best_plan(seeds: Sequence[Seed], plans: Sequence[str]) -> str:
    """The plan whose logits on the val split are nearest to the float student's, in dB, mean over the runs."""

    def nearness(plan: str) -> float:
        pairs_ = [
            (seed.models["float student"].logits["val"], seed.models[f"ptq {plan}"].logits["val"]) for seed in seeds
        ]
        return float(np.mean([accuracy.sqnr_db(quantized, reference) for reference, quantized in pairs_]))

    return max(plans, key=nearness)


def _copied(run: Run, work: Path, settings: Sequence[str]) -> Run:
    """A copy of a run with another section `quantize`; its stages are kept."""
    if not (work / "recipe.yaml").is_file():
        work.mkdir(parents=True, exist_ok=True)
        for stage in ("teacher", "student"):
            shutil.copytree(run.folder(stage), work / stage, dirs_exist_ok=True)
        shutil.copy(run.path / "data.csv", work)
    wanted = recipe.load(str(run.path / "recipe.yaml"), settings)
    (work / "recipe.yaml").write_text(wanted.yaml(), encoding="utf-8")
    return Run.open(work)


def _answers(folder: Path, *of: Any) -> Path:
    """The file of the answers of what `of` says: of another student, plan or graph they are other ones."""
    return folder / f"logits-{fingerprint(*of)[:12]}.npz"


def _bundles(seed: Seed, kind: str, made: Sequence[Bundle], folder: Path, progress: Progress) -> list[Answered]:
    """The answers of the quantized graph and of each target's bundle, on this machine."""
    found = [bundle for bundle in made if bundle.manifest.precision == "int8"]
    path = _answers(folder, *(bundle.manifest.model_sha256 for bundle in found))
    with ExitStack() as stack:
        runners = {
            bundle.manifest.target: stack.enter_context(runtimes.get(bundle.manifest.runtime).open(bundle, threads=1))
            for bundle in found
        }
        if not path.is_file():
            logits = {}
            for split in SPLITS:
                dataset = seed.data.dataset(split)
                with progress.task(f"{seed.run.path.name} {kind} bundles, {split}", len(dataset)) as task:
                    clips = (np.ascontiguousarray(dataset.item(place)[0]) for place in range(len(dataset)))
                    for name, answers in accuracy.logits_of(runners, clips, task.advance).items():
                        logits[f"{name}/{split}"] = answers
            _save(path, logits)
        stored = _load(path)
        return [
            Answered(
                f"{kind} {'graph' if name == 'host' else name}",
                str(runner.where),
                {split: stored[f"{name}/{split}"] for split in SPLITS},
            )
            for name, runner in runners.items()
        ]


def row(seeds: Sequence[Seed], name: str) -> dict[str, Any]:
    """Top-1 of a model by run, and against the float student, on the test split and on val and test together."""
    figures: dict[str, Any] = {"name": name, "where": seeds[0].models[name].where}
    for key, splits in (("test", ("test",)), ("val_and_test", SPLITS)):
        right = np.stack([_right(seed, name, splits) for seed in seeds])
        reference = np.stack([_right(seed, "float student", splits) for seed in seeds])
        low, high = interval(right - reference)
        top1 = right.mean(axis=1)
        figures[key] = {
            "top1": top1.tolist(),
            "mean": float(top1.mean()),
            "sd": float(top1.std(ddof=1)) if len(seeds) > 1 else 0.0,
            "difference_points": float(100 * (right - reference).mean()),
            "difference_points_low": low,
            "difference_points_high": high,
        }
    pairs_ = [(seed.models[name].logits["val"], seed.models["float student"].logits["val"]) for seed in seeds]
    figures["sqnr_db_val"] = float(np.mean([accuracy.sqnr_db(own, reference) for own, reference in pairs_]))
    return figures


def _right(seed: Seed, name: str, splits: Sequence[Split]) -> NDArray[np.float64]:
    """1 for each clip that is named rightly, else 0."""
    parts = [
        [accuracy.topk(logits[None], label[None], 1) for logits, label in zip(logits_, seed.labels[split], strict=True)]
        for split, logits_ in ((split, seed.models[name].logits[split]) for split in splits)
    ]
    return np.array([right for part in parts for right in part])


def interval(difference: NDArray[np.float64]) -> tuple[float, float]:
    """95 % interval in points of the mean of differences [runs, clips]: bootstrap over clips, each with all runs."""
    of_clip = 100 * difference.mean(axis=0)
    drawn = np.random.default_rng(0).integers(len(of_clip), size=(DRAWS, len(of_clip)))
    low, high = np.percentile(of_clip[drawn].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def pairs(seeds: Sequence[Seed], kind: str) -> list[dict[str, Any]]:
    """How far two forms of the quantized graph of `kind` are apart, over all runs and clips."""
    found = []
    for one, other in combinations((f"{kind} {form}" for form in ("graph", *TARGETS)), 2):
        both = [
            (seed.models[one].logits[split], seed.models[other].logits[split]) for seed in seeds for split in SPLITS
        ]
        a, b = (np.concatenate(part) for part in zip(*both, strict=True))
        found.append(
            {
                "one": one,
                "other": other,
                "clips": len(a),
                "agreement": accuracy.agreement(a, b),
                "logit_difference_max": accuracy.largest_difference(a, b),
            }
        )
    return found


def _save(path: Path, arrays: dict[Any, Logits]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{str(key): value for key, value in arrays.items()})  # type: ignore[arg-type]


def _load(path: Path) -> dict[Any, Logits]:
    with np.load(path) as stored:
        return {key: stored[key] for key in stored.files}


def _print(result: dict[str, Any]) -> None:
    click.echo(f"{'model':22}{'measured by':24}{'top-1':>7}{'sd':>6}  {'to float, points':26}{'val+test':>9}{'dB':>7}")
    for figures in result["rows"]:
        test, both = figures["test"], figures["val_and_test"]
        change = (
            f"{test['difference_points']:+.1f} "
            f"({test['difference_points_low']:+.1f} to {test['difference_points_high']:+.1f})"
        )
        click.echo(
            f"{figures['name']:22}{figures['where']:24}{100 * test['mean']:7.1f}{100 * test['sd']:6.1f}  {change:26}"
            f"{both['difference_points']:+9.1f}{figures['sqnr_db_val']:7.1f}"
        )
    for pair in result["pairs"]:
        click.echo(
            f"{pair['one']} and {pair['other']}: same answer {pair['agreement']:.2%} of {pair['clips']}, "
            f"largest difference of a logit {pair['logit_difference_max']:.3g}"
        )
    by_name = {figures["name"]: figures["test"]["difference_points"] for figures in result["rows"]}
    for kind, bound in BOUNDS.items():
        for name in TARGETS if f"{kind} graph" in by_name else ():
            lost = 0.0 - by_name[f"{kind} {name}"]
            verdict = "holds" if lost <= bound else "MISSED"
            click.echo(f"{kind} {name}: loses {lost:.2f} points, bound {bound}: {verdict}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
