"""The page is a function of the JSON on disk: whole, escaped, and standing alone whatever is missing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from d3d_edge import page
from d3d_edge.page import charts, views
from d3d_edge.page.material import Material, gather
from d3d_edge.page.views import MEANING, Head, ReportView, changed_keys
from d3d_edge.page.words import gate_name, gate_value, milliseconds, points
from d3d_edge.report import Report, Row
from d3d_edge.runner import Where
from d3d_edge.timing import Sustained
from tests.unit.page import samples
from tests.unit.page.reader import Reader


def drawn(*reports: Report, **more: Any) -> Reader:
    return Reader(page.render(Material(reports=list(reports)), **more))


def test_everything_measured_is_on_the_page() -> None:
    found = drawn(samples.report())
    for words in (
        "Gates",
        "Accuracy against latency",
        "Latency",
        "Sustained running",
        "Changed answers",
        "Environment",
    ):
        assert words in found.text
    assert "1 of 4 gates pass, 1 missed, 1 undecided: too few clips to tell, 1 not measured" in found.text
    for where in (Where.DEVICE, Where.HOST_RUNTIME, Where.HOST_TORCH, Where.NOT_RUN):
        assert where in found.words
    assert found.count("svg") == found.count("svg", role="img") == 1 + 1 + 3 + 3 * 4 + 2 * 2


@pytest.mark.parametrize("where", Where)
def test_the_legend_says_what_a_place_of_measurement_means(where: Where) -> None:
    row = Row(name="a", role="bundle", precision="int8", where=where, runtime="onnxruntime 1.32.0")
    found = drawn(samples.report(rows=(row,), gates=(), pairs=()))
    assert f"{where} : {MEANING[where]}" in found.text
    assert row.runtime in found.words  # "the row names it"


@pytest.mark.parametrize("busy", ["", "others were at work"])
def test_times_that_are_not_to_be_trusted_say_so_wherever_they_stand(busy: str) -> None:
    rows = (row.model_copy(update={"latency": samples.latency(5.0, busy=busy)}) for row in samples.report().rows)
    text = drawn(samples.report(rows=tuple(rows))).text
    assert ("not to be trusted, the machine was busy" in text) is bool(busy)
    assert ("not to be trusted: others were at work" in text) is bool(busy)


def test_the_legend_does_not_take_the_host_for_the_target() -> None:
    # A Jetson's file is run here by ONNX Runtime, which is not the Jetson's.
    for words in ("on this machine, not on a device", "or, for TensorRT, by ONNX Runtime"):
        assert words in MEANING[Where.HOST_RUNTIME]


@pytest.mark.parametrize(
    ("devices", "places"),
    [(("",), "a processor, 2 CPUs"), (("adb",), "adb"), (("", "adb", ""), "a processor, 2 CPUs and adb")],
)
def test_the_head_says_what_measured(devices: tuple[str, ...], places: str) -> None:
    rows = tuple(samples.measured(f"row {place}", device=device) for place, device in enumerate(devices))
    machine = samples.ENVIRONMENT.model_copy(update={"processor": "a processor"})
    report = samples.report(rows=rows, gates=(), pairs=(), environment=machine)
    assert f"Measured 2026-01-02 on {places}." in drawn(report).text


@pytest.mark.parametrize("name", [samples.NASTY, '" onload="x', "</title>", "&amp;", "挥手", "a\x00b\x1bc", "\u202e"])
def test_names_are_text_and_nothing_else(name: str) -> None:
    odd = samples.report(title=name, labels=(name, *samples.LABELS[1:]), notes=(name,))
    found = drawn(odd, pictures={f"{samples.NASTY}/c1.mp4": "data:,"})
    assert not found.count("script")
    assert not any(key.startswith("on") for _, attributes in found.elements for key in attributes)
    assert all(attributes.get("src", "data:,") == "data:," for _, attributes in found.elements)
    assert samples.NASTY in found.text


def test_the_page_loads_nothing() -> None:
    text = page.render(Material(reports=[samples.report()]))
    found = Reader(text)
    assert "default-src 'none'" in str([attributes for tag, attributes in found.elements if tag == "meta"])
    assert "url(" not in text
    assert "@import" not in text
    assert not found.count("script")
    links = [value for _, attributes in found.elements for key, value in attributes.items() if key in ("href", "src")]
    assert all(link and link.startswith(("#", "data:")) for link in links)


LESS: list[Any] = [
    pytest.param({"rows": ()}, id="no rows"),
    pytest.param({"rows": (Row(name="a", role="bundle", precision="int8", where=Where.NOT_RUN),)}, id="not run"),
    pytest.param({"rows": (samples.measured("a", samples=None, latency=None),)}, id="no latency"),
    pytest.param({"rows": (samples.measured("a", samples=None),)}, id="no samples"),
    pytest.param({"rows": (samples.measured("a", samples=samples.samples(network_ms=(4.0,))),)}, id="one run"),
    pytest.param({"rows": (samples.measured("a", samples=samples.samples(sustained=None)),)}, id="not sustained"),
    pytest.param(
        {"rows": (samples.measured("a", answers=None, classes=(), paired=None),), "clips": (), "labels": ()},
        id="no answers",
    ),
    pytest.param({"rows": (samples.measured("a", classes=()),)}, id="no classes"),
    pytest.param({"rows": (samples.measured("a", paired=None),), "gates": ()}, id="no student and no gates"),
    pytest.param(
        {"rows": (samples.measured("a", top1=None, top1_low=None, clips=0),), "chance": None}, id="times only"
    ),
    pytest.param({"rows": (samples.measured("a", top1=0.0, top1_low=0.0, top1_high=0.0),) * 2}, id="nothing right"),
]


@pytest.mark.parametrize("changes", LESS)
def test_what_is_missing_is_left_out(changes: dict[str, Any]) -> None:
    assert "Environment" in drawn(samples.report(**changes)).text


def test_nothing_at_all_is_a_page_too() -> None:
    assert "No report was found" in drawn().text


@pytest.mark.parametrize("classes", [1, 2, 41, 400])
def test_any_number_of_classes(classes: int) -> None:
    found = drawn(samples.large(classes))
    assert found.count("g", class_="miss") == (classes if classes > 1 else 0)


def test_a_report_of_an_earlier_form_is_drawn() -> None:
    """Fields that came later are missing in it."""
    old = json.loads(samples.report().model_dump_json(exclude={"labels", "clips", "data"}))
    for row in old["rows"]:
        for field in ("answers", "classes", "paired", "samples", "top1_low", "top1_high"):
            del row[field]
    assert "android" in drawn(Report.model_validate(old)).words


@pytest.mark.parametrize("runs", [20, 50, 100])
def test_a_run_far_beyond_the_others_is_said_in_words_and_not_drawn(runs: int) -> None:
    times = [1.0 + number / 1000 for number in range(runs - 1)]
    assert "1 beyond, up to 50" in charts.histogram([*times, 50.0], 1.0, 1.0, "android")
    assert "beyond" not in charts.histogram(times, 1.0, 1.0, "android")


def test_a_name_in_a_sentence_keeps_its_direction_to_itself() -> None:
    labels = tuple(f"مرحبا {number}" for number in range(len(samples.LABELS)))
    shown = page.render(Material(reports=[samples.report(labels=labels)]))
    assert re.search(r"float student: <bdi>مرحبا \d</bdi> \d+ %; here: <bdi>مرحبا \d</bdi>", shown)


def test_models_that_answer_alike_are_shown_together() -> None:
    names = [[row.name for row in rows] for rows in ReportView(samples.report()).answered]
    assert names == [["android", "jetson"], ["float student"]]
    assert "each clip answered alike" in drawn(samples.report()).text


def test_answers_without_a_winner_have_a_column_of_their_own() -> None:
    view = ReportView(samples.report())
    row = view.report.rows[1]
    assert view.confusion(row) == [[1, 1, 0, 0, 0], [0, 2, 0, 0, 0], [0, 0, 2, 0, 0], [0, 0, 0, 1, 1]]
    assert view.confused(row) == [("wave", samples.NASTY, 1), (samples.LABELS[3], "no answer", 1)]


def test_changed_answers_come_with_what_was_lost_first() -> None:
    view = ReportView(samples.report())
    changed = view.changed(view.report.rows[1])
    assert [(clip.truth, clip.student, clip.answer, clip.verdict) for clip in changed] == [
        ("wave", "wave", samples.NASTY, "lost"),
        (samples.LABELS[3], samples.LABELS[3], "no answer", "lost"),
        (samples.NASTY, samples.LABELS[2], samples.NASTY, "gained"),
    ]
    assert changed_keys(Material(reports=[samples.report()])) == [clip.key for clip in changed]


def test_of_many_changed_answers_some_are_listed_and_all_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "LISTED", 2)
    text = drawn(samples.report()).text
    assert "3 answers changed" in text
    assert "and 1 more, in report.json" in text
    assert len(changed_keys(Material(reports=[samples.report()]))) == 2


def test_many_classes_are_several_pictures_none_longer_than_a_page() -> None:
    drawn = str(charts.per_class([(f"class {number}", 2, 1, None) for number in range(45)], "android"))
    assert drawn.count("<svg") == 3
    assert [drawn.count(f">class {number}<") for number in range(45)] == [1] * 45


def test_classes_that_lost_most_come_first() -> None:
    view = ReportView(samples.report())
    names = [label for label, *_ in view.per_class(view.report.rows[1])]
    assert names[:2] == ["wave", samples.LABELS[3]]
    assert names[-1] == samples.NASTY


@pytest.mark.parametrize(
    ("verdicts", "words"),
    [
        ((), "no gates were judged"),
        (("pass", "pass"), "all 2 gates pass"),
        (("pass", "fail"), "1 of 2 gates pass, 1 missed"),
        (("not measured",), "0 of 1 gates pass, 1 not measured"),
    ],
)
def test_the_verdict_is_the_worst_of_the_gates(verdicts: tuple[str, ...], words: str) -> None:
    by_verdict = {gate.verdict: gate for gate in samples.report().gates}
    gates = tuple(by_verdict[verdict] for verdict in verdicts)  # type: ignore[index]
    assert Head(Material(reports=[samples.report(gates=gates)])).verdict[1] == words


def test_figures_in_words() -> None:
    assert [milliseconds(value) for value in (None, 0.123, 12.34, 123.4)] == ["\u2013", "0.12", "12.3", "123"]
    assert [points(value) for value in (None, 0.01, 1.25, -3.0)] == ["\u2013", "0.0", "+1.2", "\u22123.0"]
    assert gate_name("top1_drop_points_max") == "top1 drop, points, at most"
    assert gate_name("agreement_min") == "agreement, at least"
    assert [gate_value(2e6, "size_bytes_max"), gate_value(2.0, "top1_drop_points_max")] == ["2.00", "2.0"]


@pytest.mark.parametrize(
    ("name", "bound", "value", "shown"),
    [
        ("agreement_min", 1.0, 2999 / 3000, "0.9997"),
        ("size_bytes_max", 1_500_000.0, 1_500_001.0, "1.500001"),
        ("size_bytes_max", 1_500_000.0, 1_500_000.0, "1.50"),
        ("top1_drop_points_max", 1.0, 1.04, "1.04"),
        ("agreement_min", 0.97, 0.99, "0.990"),
    ],
)
def test_a_figure_that_is_not_its_bound_is_not_shown_as_it(name: str, bound: float, value: float, shown: str) -> None:
    assert gate_value(value, name, bound) == shown


def test_the_sensitivity_of_a_run_is_shown_as_noise(tmp_path: Path) -> None:
    (tmp_path / "sensitivity.json").write_text(json.dumps(samples.sensitivity()))
    found = Reader(page.render(gather([tmp_path])))
    assert "10 % , and 10.0 % of the answers change" in found.text.replace("%,", "% ,")
    assert "12 of 40" in found.text
    assert not found.count("script")


def test_a_long_curve_is_drawn_with_few_points() -> None:
    many = 100_000
    long = Sustained(at_s=tuple(range(many)), network_ms=(4.0,) * (many // 2) + (8.0,) * (many // 2))
    text = page.render(
        Material(reports=[samples.report(rows=(samples.measured("a", samples=samples.samples(sustained=long)),))])
    )
    (points,) = re.findall(r'polyline class="line" points="([^"]*)"', text)
    heights = [float(point.partition(",")[2]) for point in points.split()]
    assert 300 < len(heights) < 900
    assert len(set(heights)) == 2
