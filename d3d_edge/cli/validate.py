"""d3d-edge validate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from d3d_edge.cli import options
from d3d_edge.cli.console import TerminalProgress, json_of
from d3d_edge.cli.tables import TEXT_NAME, gate_lines, print_report, text_of
from d3d_edge.errors import DataError, GateFailed, RecipeError, StorageError
from d3d_edge.files import write_text
from d3d_edge.manifest import Source
from d3d_edge.report import FILE_NAME, Report

if TYPE_CHECKING:
    from d3d_edge.pipeline.devices import Runtime


@click.command("validate")
@click.argument("bundles", nargs=-1, required=True, type=options.PATH)
@options.data
@click.option(
    "--split",
    type=click.Choice(["test", "val", "train", "all"]),
    default="test",
    show_default=True,
    help="Clips to measure on. Where the data has no split, it is drawn as training drew it.",
)
@click.option(
    "--out", type=options.PATH, metavar="DIR", help="Where report.json goes. Default: beside the first bundle."
)
@click.option("--strict", is_flag=True, help="Stop at the first bad clip instead of skipping it.")
@click.option(
    "--strict-gates", is_flag=True, help="Fail unless every gate passes: where there are too few clips to tell, too."
)
@options.devices
@click.option("--resume", is_flag=True, help="Keep the clips that an interrupted run finished on a device.")
@options.threads
@options.as_json
def command(
    bundles: tuple[Path, ...],
    data: Source,
    split: str,
    out: Path | None,
    strict: bool,
    strict_gates: bool,
    device_names: tuple[str, ...],
    device_runtime: Runtime,
    resume: bool,
    threads: int,
    as_json: bool,
) -> None:
    """Measure BUNDLES on the same decoded clips: accuracy, agreement, size and latency, here and on devices.

    Each row says what measured it. Leaves report.json and report.txt. Exit code 4 if a gate of the recipe is missed.
    Where the clips are too few to tell on which side of a bound the truth lies, that is said, with the number needed.

    \b
    d3d-edge validate bundles/android bundles/ios bundles/jetson --data clips/
    d3d-edge validate bundles/jetson --data clips/ --device local --device ssh:nano@10.0.0.5
    """
    options.refuse_in_data(data, out=out)
    from d3d_edge.pipeline.devices import Devices
    from d3d_edge.pipeline.validate import validate

    path = (out or bundles[0].resolve().parent) / FILE_NAME
    _check_out(path)
    report = validate(
        bundles,
        data,
        split=split,
        strict=strict,
        threads=threads,
        report_path=path,
        progress=TerminalProgress(),
        devices=Devices(device_names, device_runtime, resume),
    )
    show(report, path, as_json=as_json, strict_gates=strict_gates)


def _check_out(path: Path) -> None:
    """Refuse what the report may not replace, before anything is measured: all but an older one, and its text."""
    try:
        own = path.is_file() and _is_of_bundles(path)
        there = [file for file in (path, path.with_name(TEXT_NAME)) if file.exists() and file.stat().st_size]
    except OSError as error:  # a name that is too long
        raise StorageError.of(path, error) from error
    for file in there:
        if not own:
            raise RecipeError(f"{file} exists and is no report of validate", hint="choose another folder with --out")


def _is_of_bundles(path: Path) -> bool:
    try:
        report = Report.read(path)
    except DataError:
        return False
    return bool(report.split) and report.is_of_bundles


def show(report: Report, path: Path, *, as_json: bool, strict_gates: bool = False) -> None:
    """Print the report, leave its text beside it, and fail if a gate is missed; strictly, if any does not pass."""
    write_text(path.with_name(TEXT_NAME), text_of(report, strict_gates=strict_gates))
    if as_json:
        click.echo(json_of(report))
    else:
        print_report(report, path, strict_gates=strict_gates)
    missed = [gate for gate in report.gates if gate.verdict == "fail" or (strict_gates and gate.verdict != "pass")]
    if strict_gates and not report.gates:
        raise GateFailed(
            "no gate was judged: there is no bundle but of the target host, with which the others are compared",
            hint="d3d-edge export RUN --target android makes one of another target",
        )
    if missed:
        raise GateFailed(
            f"{len(missed)} gate(s) missed, first {gate_lines(missed)[0].removeprefix('gate ')}",
            hint=f"all figures are in {path}",
        )
