"""What the lines below a table say of its rows."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path

import pytest

from d3d_edge import page
from d3d_edge.cli.benchmark import _conditions, _ms, _print
from d3d_edge.cli.console import plain
from d3d_edge.cli.tables import columns, gmac, print_report, text_of
from d3d_edge.cli.validate import show
from d3d_edge.errors import GateFailed
from d3d_edge.page.material import Material
from d3d_edge.report import Gate, SkippedClip
from d3d_edge.timing import Conditions
from tests.unit.page import samples


@pytest.mark.parametrize(
    ("threads", "told"), [((2, 2), "one clip, 2 threads;"), ((4, 0), "one clip, default or 4 threads;")]
)
def test_the_threads_of_every_row_are_told(threads: tuple[int, ...], told: str) -> None:
    times = [samples.latency().model_copy(update={"threads": count}) for count in threads]
    rows = tuple(samples.measured(f"row {place}", latency=latency) for place, latency in enumerate(times))
    assert told in " ".join(text_of(samples.report(rows=rows)).split())


def test_each_machine_is_told_with_the_threads_of_its_rows() -> None:
    of = [samples.samples().model_copy(update={"threads": count}) for count in (0, 2, 4)]
    rows = [samples.measured(f"row {place}", samples=each) for place, each in enumerate(of)]
    alone = _conditions(samples.report(rows=(rows[0],)))
    assert alone.startswith("default threads")
    rows[1:] = [row.model_copy(update={"device": "adb"}) for row in rows[1:]]
    here, there = _conditions(samples.report(rows=tuple(rows))).split("; ")
    assert here == f"this machine: {alone}"
    assert there.startswith("adb: 2 or 4 threads")


@pytest.mark.parametrize(("status", "told"), [("0", False), ("3", True), (None, False), ("serious", True)])
def test_a_phone_that_was_hot_is_told(status: str | None, told: bool, capsys: pytest.CaptureFixture[str]) -> None:
    hot = samples.samples(environment_after=Conditions(thermal_status=status))
    report = samples.report(rows=(samples.measured("android", samples=hot),))
    _print(report, None)
    for text in (text_of(report), capsys.readouterr().out, page.render(Material(reports=[report]))):
        assert (f"hot (thermal status {status})" in " ".join(text.split())) == told


@pytest.mark.parametrize(
    ("value", "told"), [(None, "-"), (0.0, "0"), (0.004, "0.004"), (0.16, "0.2"), (12.34, "12.3"), (1234.5, "1234")]
)
def test_a_time_is_never_told_as_none(value: float | None, told: str) -> None:
    assert _ms(value) == told


def test_what_to_know_of_a_rows_figures_stands_below_the_table() -> None:
    rows = (samples.measured("jetson", note="its times are old"),)
    assert "note: jetson: its times are old" in text_of(samples.report(rows=rows))


def test_paths_are_never_broken(capsys: pytest.CaptureFixture[str]) -> None:
    """A note is, where the terminal ends; a path could not be copied then."""
    path = "/clips of/" + 9 * "a long folder/" + "a clip.mp4"
    skipped = (SkippedClip(path=path, reason=f"{path} has no frames"),)
    report = samples.report(skipped=skipped, notes=("a note " * 20,))
    print_report(report, Path(path))
    for printed in (capsys.readouterr().out + "\n", text_of(report) + f"wrote {path}\n"):
        assert f"\n  {path}: has no frames\n" in printed
        assert f"\nwrote {path}\n" in printed
        assert max(len(line) for line in printed.splitlines() if path not in line) <= 100


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("printed", [False, True])
def test_an_option_that_is_on_is_not_offered(
    strict: bool, printed: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with suppress(GateFailed):
        show(samples.report(), tmp_path / "report.json", as_json=False, strict_gates=strict)
    said = capsys.readouterr().out if printed else (tmp_path / "report.txt").read_text()
    told = " ".join(said.split())
    assert "for 1 the clips are too few" in told
    assert ("(--strict-gates makes that a failure)" in told) == (not strict)


def test_a_size_is_told_to_the_byte() -> None:
    gate = Gate(name="size_bytes_max", row="android", bound=1.5e6, value=1_500_001, verdict="fail")
    assert "gate size_bytes_max 1500000 of android: fail, 1500001" in text_of(samples.report(gates=(gate,)))


@pytest.mark.parametrize(("busy", "told"), [("others", "the times are"), ("", "the times of row 1 are")])
def test_rows_that_were_timed_beside_others_are_named(busy: str, told: str) -> None:
    times = [samples.latency().model_copy(update={"busy": why}) for why in (busy, "others")]
    rows = tuple(samples.measured(f"row {place}", latency=latency) for place, latency in enumerate(times))
    assert f"kept the machine busy: {told} not" in " ".join(text_of(samples.report(rows=rows)).split())


def test_a_long_name_takes_lines_of_its_own_and_no_figure() -> None:
    name = "jetson int8+float16 on the_board_behind_the_window"
    row = samples.measured(name, latency=samples.latency())
    told = text_of(samples.report(rows=(row,)))
    figures = text_of(samples.report(rows=(row.model_copy(update={"name": "jetson"}),)))
    (line,) = (line for line in figures.splitlines() if line.startswith(" jetson "))
    assert "…" not in told
    assert set(line.split()) <= set(told.split())


@pytest.mark.parametrize("width", [10, 40, 60])
def test_a_narrow_terminal_cuts_nothing_off(width: int) -> None:
    table = columns(("system", "needs"), ("params M", "act int8 MB", "95 %"))
    table.add_row("D3D + spatial", "16x112x112", "0.63", "1234.5", "10 to 70")
    console = plain(width=width, file=io.StringIO(), record=True)
    console.print(table, crop=False)
    text = console.export_text()
    for part in ("system", "D3D", "spatial", "16x112x112", "params M", "0.63", "act int8 MB", "1234.5", "10 to 70"):
        assert part in text


@pytest.mark.parametrize(
    ("number", "told"), [(0.00208, "0.0021"), (0.034, "0.034"), (0.068, "0.07"), (64.183, "64.18")]
)
def test_a_small_network_has_some_gmac(number: float, told: str) -> None:
    assert gmac(number) == told
