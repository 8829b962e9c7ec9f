"""d3d-edge sensitivity."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from d3d_edge.cli import options
from d3d_edge.cli.console import TerminalProgress, json_of, plain
from d3d_edge.cli.tables import columns
from d3d_edge.runs import Run

if TYPE_CHECKING:
    from d3d_edge.sensitivity import Cost, SensitivityReport


@click.command("sensitivity")
@click.argument("run", type=options.PATH)
@click.option(
    "--clips", type=click.IntRange(1), default=32, show_default=True, help="Calibration clips to measure on, at most."
)
@click.option("--rows", type=click.IntRange(1), default=15, show_default=True, help="Groups in the table.")
@options.decoding
@options.as_json
def command(run: Path, clips: int, rows: int, cache_dir: Path, workers: int, strict: bool, as_json: bool) -> None:
    """Find out what making each part of RUN's student INT8 costs, alone.

    The float student is calibrated as the recipe says. Then each group is rounded by itself: the stem, every spatial
    and temporal convolution, every gate, pool and concatenation, the classifier. SQNR is the power of the logits
    to that of their change: 40 dB is a hundredth of their size. Nothing is trained.

    Leaves sensitivity.json and sensitivity.png in RUN. The same command goes on after an interruption.
    The recipe's quantize.keep_float takes the names of the table.

    \b
    d3d-edge sensitivity run
    d3d-edge sensitivity run --clips 64 --json
    """
    opened = Run.open(run)
    from d3d_edge.pipeline.sensitivity import sensitivity
    from d3d_edge.sensitivity import FIGURE_NAME, FILE_NAME

    report = sensitivity(
        opened, clips=clips, cache_dir=cache_dir, workers=workers, strict=strict, progress=TerminalProgress()
    )
    if as_json:
        click.echo(json_of(report))
        return
    console = plain()
    _print(report, rows, console)
    for name in (FILE_NAME, FIGURE_NAME):
        console.print(f"wrote {run / name}", soft_wrap=True)


def _print(report: SensitivityReport, rows: int, console: Console) -> None:
    title = (
        f"{report.title}: {report.clips} training clips, plan {report.calibration}, float top-1 {report.float_top1:.1%}"
    )
    console.print(title, style="bold")
    table = columns(("only this in INT8",), ("dB", "changed", "points", "weights"))
    for cost in (report.whole, *report.kinds):
        name = cost.name if cost.kind == "all" else f"every {cost.kind}"
        table.add_row(*_cells(name, cost))
    table.add_section()
    for cost in report.groups[:rows]:
        table.add_row(*_cells(cost.name, cost))
    console.print(table, crop=False)
    if len(report.groups) > rows:
        console.print(f"{len(report.groups) - rows} groups cost less; all are in the JSON")
    console.print(
        "note: dB: SQNR of the logits; changed: share of clips with another first answer than the float student's; "
        "points: top-1 lost. The student was trained on these clips, so dB say more than points",
    )


def _cells(name: str, cost: Cost) -> tuple[str, ...]:
    figures = (f"{cost.sqnr_db:.1f}", f"{cost.changed:.1%}", f"{cost.top1_drop_points:.1f}", f"{cost.weights}")
    return (name, *figures)
