"""One recipe on one data set with several seeds: mean and spread of every system's top-1.

python benchmarks/seeds.py gestures --data clips/manifest.csv --seeds 5 --out runs/
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from d3d_edge.evaluation import FILE_NAME, Evaluation
from d3d_edge.files import write_json


@click.command()
@click.argument("recipe")
@click.option("--data", required=True, type=click.Path(path_type=Path))
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True, help="Runs with the seeds 0, 1, ...")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A run folder a seed, and seeds.json.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="As for d3d-edge distill.")
def main(recipe: str, data: Path, seeds: int, out: Path, settings: tuple[str, ...]) -> None:
    """Train and evaluate RECIPE with several seeds. What is finished is kept."""
    runs = [out / f"seed{seed}" for seed in range(seeds)]
    for seed, run in enumerate(runs):
        options = [word for setting in (f"seed={seed}", *settings) for word in ("--set", setting)]
        _d3d_edge("distill", recipe, "--data", str(data), "--out", str(run), *options)
        _d3d_edge("evaluate", str(run))
    evaluations = [Evaluation.model_validate_json((run / FILE_NAME).read_text(encoding="utf-8")) for run in runs]
    rows = summary(evaluations)
    environment = evaluations[0].environment.model_dump()
    write_json(out / "seeds.json", {"settings": settings, "environment": environment, "rows": rows})
    click.echo(f"{'system':24}{'needs':12}{'mean':>7}{'sd':>7}  top-1 by seed")
    for row in rows:
        each = " ".join(f"{top1:.3f}" for top1 in row["top1"])
        click.echo(f"{row['system']:24}{row['needs']:12}{row['mean']:7.3f}{row['sd']:7.3f}  {each}")


def summary(evaluations: list[Evaluation]) -> list[dict[str, Any]]:
    """A row per system: its top-1 by seed, the mean and the standard deviation over seeds (of a sample, n - 1)."""
    rows: list[dict[str, Any]] = []
    for place, system in enumerate(evaluations[0].systems):
        top1 = [evaluation.systems[place].top1 for evaluation in evaluations]
        spread = statistics.stdev(top1) if len(top1) > 1 else 0.0
        needs = " + ".join(system.inputs)
        rows.append({"system": system.name, "needs": needs, "mean": statistics.mean(top1), "sd": spread, "top1": top1})
    return rows


def _d3d_edge(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "d3d_edge", *words], check=True)


if __name__ == "__main__":
    main()
