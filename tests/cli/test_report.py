"""`report`: one page of what runs and bundles hold."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from d3d_edge.bundle import Bundle
from d3d_edge.report import ReportClip, Row
from tests.cli.conftest import D3DEdge, refused
from tests.unit.page import samples

QUICK = samples.measured("a", samples=samples.samples(network_ms=(4.0, 4.1) * 10, rounds=4))
"""A row with times enough to be compared."""


@pytest.fixture
def run(tmp_path: Path, clips: Path) -> Path:
    """A folder with a report whose clips are videos on disk."""
    videos = sorted(path.relative_to(clips).as_posix() for path in clips.rglob("*.mp4"))[: len(samples.TRUTH)]
    keys = [videos[0], f"{videos[1]}#t=0,0.2", videos[2], "missing.mp4", *videos[4:]]
    measured = tuple(ReportClip(key=key, label=label) for key, label in zip(keys, samples.TRUTH, strict=True))
    samples.report(clips=measured).write(tmp_path / "run" / "report.json")
    return tmp_path / "run"


def pictures(page: Path) -> int:
    return len(re.findall(r'src="data:image/jpeg;base64,', page.read_text()))


@pytest.mark.parametrize(
    "form", ["{run} --html {out}", "--html {out} {run}", "page {run} --html {out}", "{run} --html={out}"]
)
def test_the_page_is_written_in_every_form_of_the_command(
    form: str, run: Path, tmp_path: Path, d3d_edge: D3DEdge
) -> None:
    out = tmp_path / "out.html"
    result = d3d_edge("report", *form.format(run=run, out=out).split())
    assert result.code == 0, result.err
    assert result.out == f"wrote {out}\n"
    assert "Accuracy against latency" in out.read_text()
    assert pictures(out) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"run", "out.html"}


def test_with_the_data_changed_clips_are_shown(run: Path, clips: Path, tmp_path: Path, d3d_edge: D3DEdge) -> None:
    out = tmp_path / "out.html"
    result = d3d_edge("report", run, "--html", out, "--data", clips)
    assert "with pictures of 2 clips" in result.out  # one of the three is missing
    assert pictures(out) == 2


def test_what_goes_wrong_is_one_line(run: Path, tmp_path: Path, d3d_edge: D3DEdge) -> None:
    out = tmp_path / "out.html"
    cases = {
        (tmp_path, "--html", out): (8, "neither a run nor a bundle"),
        (run, "--html", out, "--data", tmp_path / "none"): (8, "not a folder"),
        (run, "--html", tmp_path / "run" / "report.json" / "x"): (9, "cannot write"),
        (run, "--html", tmp_path / "run" / "report.json"): (2, "is no page"),
        (run,): (2, "--html"),
        ("--html", out): (2, "SOURCES"),
    }
    for words, (code, said) in cases.items():
        result = d3d_edge("report", *words)
        assert (result.code, said in result.err) == (code, True), result.err
        assert "Traceback" not in result.err
    assert not out.exists()


def test_a_bundle_that_was_exported_again_is_not_shown_with_old_figures(
    made: Path, tmp_path: Path, d3d_edge: D3DEdge
) -> None:
    bundle = shutil.copytree(made / "bundles" / "jetson", tmp_path / "bundles" / "jetson")
    times, out = tmp_path / "times.json", tmp_path / "out.html"
    assert d3d_edge("benchmark", bundle, "--runs", 2, "--out", times).code == 0
    words = ("report", times, bundle.parent, "--html", out)
    assert d3d_edge(*words).out == f"wrote {out}\n"
    shutil.rmtree(bundle)
    shutil.copytree(made / "bundles" / "android", bundle)
    told = "jetson: measured on another file than the bundle holds now; run benchmark again"
    assert d3d_edge(*words).out == f"wrote {out}\nnote: {told}\n"
    assert told in out.read_text()


def test_help_names_both_uses(d3d_edge: D3DEdge) -> None:
    assert "--html" in d3d_edge("report", "--help").out
    assert "--data" in d3d_edge("report", "page", "--help").out


def test_reports_without_a_row_in_common_are_not_compared(tmp_path: Path, d3d_edge: D3DEdge) -> None:
    # A gate of continuous integration that compares nothing must not pass.
    for name in ("before", "after"):
        samples.report(rows=(samples.measured(name), samples.measured(f"{name} on device"))).write(tmp_path / name)
    result = d3d_edge("report", "compare", tmp_path / "before", tmp_path / "after", "--bound", 5)
    assert result.code == 8
    assert "can be compared: before, before on device; and after, after on device" in result.err


def test_a_bound_on_top1_of_other_clips_cannot_be_told(tmp_path: Path, d3d_edge: D3DEdge) -> None:
    before = samples.report()
    elsewhere = tuple(clip.model_copy(update={"key": f"other/{clip.key}"}) for clip in before.clips)
    before.write(tmp_path / "before")
    before.model_copy(update={"clips": elsewhere}).write(tmp_path / "after")
    words = ("report", "compare", tmp_path / "before", tmp_path / "after")
    result = d3d_edge(*words)
    assert result.code == 0, result.err
    assert "not comparable" in result.out
    refused(d3d_edge(*words, "--bound", 5), 8, "keeps to the bound cannot be told: no clip in common")


@pytest.mark.parametrize(
    ("after", "said"),
    [
        ((samples.measured("a"),), "whether a p50 ms keeps to the bound cannot be told: too few runs"),
        ((samples.measured("a", samples=None, latency=None, note="no GPU"),), "a p50 ms keeps to the bound"),
        ((samples.measured("a", samples=None, latency=None, note="no GPU"),), "told: not measured after: no GPU"),
        ((samples.measured("a", size_bytes=None),), "whether a MB keeps to the bound cannot be told: not measured"),
        ((QUICK,), "whether gone keeps to the bound cannot be told: it is not in"),
    ],
)
def test_a_bound_on_what_is_not_known_is_not_kept_to(
    after: tuple[Row, ...], said: str, tmp_path: Path, d3d_edge: D3DEdge
) -> None:
    before = (samples.measured("a"),) if QUICK not in after else (QUICK, samples.measured("gone"))
    for name, rows in (("before", before), ("after", after)):
        samples.report(rows=rows).write(tmp_path / name)
    words = ("report", "compare", tmp_path / "before", tmp_path / "after")
    result = d3d_edge(*words)
    assert result.code == 0, result.err
    refused(d3d_edge(*words, "--bound", 5), 8, said)


def test_a_page_replaces_a_page_and_no_part_of_a_bundle(
    made: Path, bundle_copy: Path, tmp_path: Path, d3d_edge: D3DEdge
) -> None:
    words = ("report", made / "run", "--html")
    for _ in range(2):
        assert d3d_edge(*words, tmp_path / "page.html").code == 0
    for name in ("manifest.json", "page.html", "golden/page.html"):
        refused(d3d_edge(*words, bundle_copy / name), 2, "is a bundle", "another --html")
    Bundle.open(bundle_copy)
