"""What the lines below a table say of its rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from d3d_edge.cli.tables import print_report, text_of
from d3d_edge.report import SkippedClip
from tests.unit.page import samples


@pytest.mark.parametrize(
    ("threads", "told"), [((2, 2), "one clip, 2 threads;"), ((4, 0), "one clip, default or 4 threads;")]
)
def test_the_threads_of_every_row_are_told(threads: tuple[int, ...], told: str) -> None:
    times = [samples.latency().model_copy(update={"threads": count}) for count in threads]
    rows = tuple(samples.measured(f"row {place}", latency=latency) for place, latency in enumerate(times))
    assert told in " ".join(text_of(samples.report(rows=rows)).split())


def test_paths_are_never_broken(capsys: pytest.CaptureFixture[str]) -> None:
    """A note is, where the terminal ends; a path could not be copied then."""
    path = "/clips of/" + 9 * "a long folder/" + "a clip.mp4"
    skipped = (SkippedClip(path=path, reason="it has no frames"),)
    report = samples.report(skipped=skipped, notes=("a note " * 20,))
    print_report(report, Path(path))
    for printed in (capsys.readouterr().out + "\n", text_of(report) + f"wrote {path}\n"):
        assert f"\n  {path}: it has no frames\n" in printed
        assert f"\nwrote {path}\n" in printed
        assert max(len(line) for line in printed.splitlines() if path not in line) <= 100


@pytest.mark.parametrize(("busy", "told"), [("others", "the times are"), ("", "the times of row 1 are")])
def test_rows_that_were_timed_beside_others_are_named(busy: str, told: str) -> None:
    times = [samples.latency().model_copy(update={"busy": why}) for why in (busy, "others")]
    rows = tuple(samples.measured(f"row {place}", latency=latency) for place, latency in enumerate(times))
    assert f"kept the machine busy: {told} not" in " ".join(text_of(samples.report(rows=rows)).split())
