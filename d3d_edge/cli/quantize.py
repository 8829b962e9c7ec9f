"""d3d-edge quantize."""

from __future__ import annotations

from pathlib import Path

import click

from d3d_edge.cli import options
from d3d_edge.cli.console import TerminalProgress, json_of
from d3d_edge.cli.tables import print_report
from d3d_edge.errors import RecipeError
from d3d_edge.files import in_shell
from d3d_edge.report import FILE_NAME
from d3d_edge.runs import Run


@click.command("quantize")
@click.argument("run", type=options.PATH)
@options.decoding
@options.as_json
def command(run: Path, cache_dir: Path, workers: int, strict: bool, as_json: bool) -> None:
    """Make the student of RUN INT8, as the recipe in RUN says.

    Calibration clips are drawn from the training split; quantization-aware training learns from what the recipe names:
    the flow teacher, the float student, or both. The INT8 graph is compared with the float student on the test clips,
    reversed and shuffled ones too, where lost motion shows. Leaves quantized/report.json in RUN.
    It runs in one process, on one GPU where there is one, also when distill ran under torchrun.

    \b
    d3d-edge quantize run
    """
    from d3d_edge.distill import distributed

    if distributed.launched():
        raise RecipeError("quantize runs in one process", hint=f"without torchrun: d3d-edge quantize {in_shell(run)}")

    opened = Run.open(run)
    from d3d_edge.pipeline.quantize import quantize

    report = quantize(opened, cache_dir=cache_dir, workers=workers, strict=strict, progress=TerminalProgress())
    if as_json:
        click.echo(json_of(report))
        return
    print_report(report, run / "quantized" / FILE_NAME)
    click.echo(f"next: d3d-edge export {in_shell(run)} --target all --out bundles")
