"""d3d-edge report: read what was measured before. Measures nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from d3d_edge.cli import options
from d3d_edge.cli.console import json_of, plain
from d3d_edge.cli.tables import columns
from d3d_edge.errors import DataError, GateFailed
from d3d_edge.report import Report

if TYPE_CHECKING:
    from d3d_edge.harness.comparison import Change, Comparison

_WORDS = {
    "latency_ms_p50": ("p50 ms", 1.0, ".2f"),
    "top1": ("top-1 %", 100.0, ".1f"),
    "size_bytes": ("MB", 1e-6, ".2f"),
}
"""Each figure's name in the table, what it is multiplied by there, and its format."""
_TELLING = {
    "latency_ms_p50": "time both again, in 3 rounds or more",
    "top1": "validate both on the same clips",
    "size_bytes": "measure both again",
}
"""What makes a change of each figure known."""


class _PageUnlessNamed(click.Group):
    """A group whose command `page` may be left out: `report RUN --html F` is `report page RUN --html F`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["page", *args]
        return super().parse_args(ctx, args)


@click.group("report", cls=_PageUnlessNamed, subcommand_metavar="SOURCES... --html FILE | COMMAND ...")
def command() -> None:
    """Show and compare what `validate` and `benchmark` left.

    \b
    d3d-edge report run bundles --html out.html
    d3d-edge report compare before.json after.json --bound 5
    d3d-edge report page --help
    """


@command.command("page", short_help="One HTML page; the word may be left out.")
@click.argument("sources", nargs=-1, required=True, type=options.PATH)
@click.option("--html", "out", type=options.PATH, required=True, metavar="FILE", help="Where the page goes.")
@click.option(
    "--data",
    type=options.PATH,
    metavar="DIR",
    help="The folder of the clips, for pictures of those whose answer changed. Without it they are listed only.",
)
def page(sources: tuple[Path, ...], out: Path, data: Path | None) -> None:
    """One HTML page of runs, bundles, folders of bundles or report files (SOURCES). `page` may be left out.

    The page stands alone: it loads nothing from elsewhere and runs no script. It is made of the JSON that is there;
    what was not measured is not in it.

    \b
    d3d-edge report run bundles --html out.html --data clips/
    """
    from d3d_edge.pipeline.page import write_page

    written = write_page(sources, out, data)
    click.echo(f"wrote {out}" + (f", with pictures of {written.pictures} clips" if data else ""))
    for line in written.outdated:
        click.echo(f"note: {line}")


@command.command("compare")
@click.argument("before", type=options.PATH)
@click.argument("after", type=options.PATH)
@click.option(
    "--bound",
    type=options.Number(0),
    metavar="PERCENT",
    help="Exit with 4 where a row is slower or larger by more percent, or loses more points of top-1, beyond noise; "
    "with 8 where that cannot be told: of a figure or row that AFTER lacks, too few runs, or no clip in common.",
)
@options.as_json
def compare(before: Path, after: Path, bound: float | None, as_json: bool) -> None:
    """Say what changed from the report BEFORE to AFTER: faster, slower, or within noise; accuracy and size as well.

    Both are report.json of `validate`, or what `benchmark --out` wrote. docs/measuring.md has the rules.

    \b
    d3d-edge benchmark old/android --out before.json
    d3d-edge benchmark new/android --out after.json
    d3d-edge report compare before.json after.json --bound 5
    """
    from d3d_edge.harness.comparison import compare as compared

    reports = Report.read(before), Report.read(after)
    found = compared(*reports)
    if all(change.change is None for change in found.changes):
        names = (", ".join(row.name for row in one.rows) or "none" for one in reports)
        raise DataError("no row of the two reports can be compared: {}; and {}".format(*names))
    if as_json:
        click.echo(json_of(found))
    else:
        _print(found)
    if bound is not None:
        _judge(found, bound, after)


def _judge(found: Comparison, bound: float, after: Path) -> None:
    """Fail unless every row of BEFORE is known to keep to the bound."""
    past = [change for change in found.changes if change.is_past(bound)]
    if past:
        first = past[0]
        raise GateFailed(
            f"{len(past)} change(s) for the worse past {bound:g}, first {first.row}: {first.figure} "
            f"{_change(first)}, {first.verdict}"
        )
    for change in sorted(found.changes, key=lambda change: change.verdict == "too few runs"):
        if not change.is_told:
            what = f"{change.row} {_WORDS[change.figure][0]}"
            why = change.note if change.verdict == "not comparable" else change.verdict
            raise _untold(what, why, _TELLING[change.figure])
    for name in found.only_before:
        raise _untold(name, f"it is not in {after}", "measure it again")


def _untold(what: str, why: str, hint: str) -> DataError:
    return DataError(f"whether {what} keeps to the bound cannot be told: {why}", hint=hint)


def _print(found: Comparison) -> None:
    console = plain()
    table = columns(("model", "figure"), ("before", "after", "change", "interval", "verdict"), tight=True)
    for change in found.changes:
        name, factor, form = _WORDS[change.figure]
        figures = ("-" if value is None else format(factor * value, form) for value in (change.before, change.after))
        interval = "-" if change.low is None else f"{change.low:+.1f} to {change.high:+.1f}"
        table.add_row(change.row, name, *figures, _change(change), interval, change.verdict)
    console.print(table, crop=False)
    notes: dict[str, list[str]] = {}
    for change in found.changes:
        if change.note:
            notes.setdefault(change.note, []).append(f"{change.row} {_WORDS[change.figure][0]}")
    for note, rows in notes.items():
        console.print(f"note: {', '.join(rows)}: {note}")
    for when, names in (("before", found.only_before), ("after", found.only_after)):
        if names:
            console.print(f"note: only {when}: {', '.join(names)}")
    console.print(
        "note: p50: mean of the rounds' medians; intervals: of times 99 %, between rounds; of top-1 95 %, over clips; "
        "the change of top-1 is in points"
    )


def _change(change: Change) -> str:
    if change.change is None:
        return "-"
    digits = ".1f" if abs(change.change) >= 0.05 or not change.change else ".1g"
    return f"{change.change:+{digits}}" + ("" if change.figure == "top1" else "%")
