"""d3d-edge probe."""

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
    from d3d_edge.pipeline.probe import ProbeReport


@click.command("probe")
@click.argument("run", type=options.PATH)
@click.option(
    "--epochs", type=click.IntRange(1), default=20, show_default=True, help="Training of each network's flow decoder."
)
@click.option(
    "--out", type=options.PATH, metavar="DIR", help="Where report.json and flow.png go. Default: the run's probe/."
)
@options.decoding
@options.as_json
def command(
    run: Path, epochs: int, out: Path | None, cache_dir: Path, workers: int, strict: bool, as_json: bool
) -> None:
    """Find out what the networks of RUN know of motion.

    Each trained network is frozen, and a small decoder without kernels in time learns optical flow from its features:
    the lower its end-point error on the test clips, the more motion the features hold. Beside it stands the accuracy on
    test clips whose frames come backwards or shuffled: a network that lives on motion loses there.

    Leaves report.json and flow.png, which shows decoded flow beside the reference. What is finished is kept, and the
    same command goes on after an interruption.

    \b
    d3d-edge probe run
    d3d-edge probe run --epochs 40 --out figures --json
    """
    opened = Run.open(run)
    from d3d_edge.pipeline.probe import FIGURE_NAME, probe
    from d3d_edge.report import FILE_NAME

    report = probe(
        opened,
        epochs=epochs,
        out=out,
        cache_dir=cache_dir,
        workers=workers,
        strict=strict,
        progress=TerminalProgress(),
    )
    if as_json:
        click.echo(json_of(report))
        return
    console = plain()
    _print(report, console)
    for name in (FILE_NAME, FIGURE_NAME):
        console.print(f"wrote {(out or run / 'probe') / name}", soft_wrap=True)


def _print(report: ProbeReport, console: Console) -> None:
    title = f"{report.title}: {report.clips} {report.split} clips, {report.classes} classes, chance {report.chance:.1%}"
    console.print(title, style="bold")
    table = columns(("network", "sees"), ("EPE px", "of zero", "top-1", "reversed", "shuffled"))

    def errors(epe_px: float) -> tuple[str, str]:
        of_zero = f"{epe_px / report.zero_epe_px:.0%}" if report.zero_epe_px else "-"
        return f"{epe_px:.3f}", of_zero

    for guess, epe_px in (("zero flow", report.zero_epe_px), ("mean flow", report.mean_epe_px)):
        table.add_row(guess, "-", *errors(epe_px), "-", "-", "-")
    for row in report.rows:
        shares = (f"{share:.1%}" for share in (row.top1, row.top1_reversed, row.top1_shuffled))
        table.add_row(row.name, row.sees, *errors(row.epe_px), *shares)
    console.print(table, crop=False)
    height, width = report.flow_size
    frames = report.flow_frames
    notes = [
        f"EPE: mean end-point error in pixels of the resized frame, of flow that a decoder trained for {report.epochs} "
        f"epochs reads from {', '.join(report.end_points)}",
        f"a step of the features is compared with the flow from its frame to the next, averaged to {height}x{width} "
        f"places; there are {len(frames)} steps, the first at frame {frames[0]} and the last at frame {frames[-1]}",
        "reversed, shuffled: top-1 on clips with their frames in that order, flow computed anew",
    ]
    if report.missing:
        notes.append(f"not in this run, so not probed: {', '.join(report.missing)}")
    for note in notes:
        console.print(f"note: {note}")
