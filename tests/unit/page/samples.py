"""Reports to draw: whole ones and partial ones, with names that are hard on a page."""

from __future__ import annotations

from typing import Any

from d3d_edge.report import Answers, ClassSlice, Environment, Gate, Pair, Paired, Report, ReportClip, Row, SkippedClip
from d3d_edge.runner import Where
from d3d_edge.timing import Conditions, Drift, EndToEnd, Latency, Samples, Spread, Sustained

NASTY = "<script>alert(1)</script>"
LABELS = ("wave", NASTY, '"挥手" & naïve', "a very long name of an action that hardly fits anywhere at all")
TRUTH = (0, 0, 1, 1, 2, 2, 3, 3)
STUDENT = (0, 0, 1, 2, 2, 2, 3, 3)
OWN = (0, 1, 1, 1, 2, 2, 3, -1)
ENVIRONMENT = Environment(
    machine="x86_64",
    processor="a processor <b>",
    cpus=2,
    system="Linux",
    python="3.11",
    tools={"torch": "2.13"},
    started="2026-01-02T03:04:05+00:00",
)


def samples(**changes: Any) -> Samples:
    fields: dict[str, Any] = {
        "load_ms": 12.0,
        "first_ms": 9.0,
        "network_ms": (4.0, 4.1, 4.2, 4.0, 5.0, 40.0),
        "threads": 2,
        "end_to_end": EndToEnd(video="a.mp4", decode_ms=(3.0, 4.0), resize_ms=(1.0, 1.0), network_ms=(4.0, 4.0)),
        "sustained": Sustained(
            at_s=(0.0, 60.0, 120.0),
            network_ms=(4.0, 4.5, 5.0),
            temperature_c=(40.0, 50.0, 55.0),
            clock_mhz=(9e2,) * 3,
            others_cpus=(0.0, 0.5, 0.1),
        ),
        "environment_before": Conditions(time="2026-01-02T03:04:05+00:00"),
    }
    return Samples(**(fields | changes))


def latency(p50: float = 4.0, *, busy: str = "busy") -> Latency:
    spread: dict[str, Any] = {
        "runs": 6,
        "latency_ms_p50": p50,
        "latency_ms_p90": 2 * p50,
        "latency_ms_mean": p50,
        "latency_ms_std": 1.0,
        "latency_ms_min": p50,
    }
    drift = Drift(verdict="slower", minutes=2.0, change=0.25, p_value=0.01)
    return Latency(
        **spread,
        threads=2,
        load_ms=12,
        first_ms=9,
        memory_peak_bytes=9_000_000,
        end_to_end=Spread(**spread),
        drift=drift,
        busy=busy,
    )


def answers(predicted: tuple[int, ...]) -> Answers:
    return Answers(predicted=predicted, probability=(0.5,) * len(predicted))


def slices(predicted: tuple[int, ...]) -> tuple[ClassSlice, ...]:
    def right(answered: tuple[int, ...], index: int) -> int:
        return sum(true == answer == index for true, answer in zip(TRUTH, answered, strict=True))

    return tuple(
        ClassSlice(label=label, clips=2, right=right(predicted, index), student_right=right(STUDENT, index))
        for index, label in enumerate(LABELS)
    )


def measured(name: str, **changes: Any) -> Row:
    fields: dict[str, Any] = {
        "name": name,
        "role": "bundle",
        "bundle": name,
        "model_sha256": "1a",
        "target": name,
        "precision": "int8",
        "where": Where.HOST_RUNTIME,
        "runtime": "executorch 1.4.1",
        "clips": 8,
        "top1": 0.75,
        "top1_low": 0.41,
        "top1_high": 0.93,
        "top5": 1.0,
        "answers": answers(OWN),
        "classes": slices(OWN),
        "paired": Paired(
            gained=1,
            lost=2,
            difference_points=-12.5,
            difference_points_low=-50,
            difference_points_high=25,
            mcnemar_p=1.0,
            flipped=("c1", "c3", "c7"),
        ),
        "agreement": 0.9,
        "size_bytes": 730_000,
        "samples": samples(),
        "latency": latency(),
    }
    return Row(**(fields | changes))


def report(**changes: Any) -> Report:
    """Everything that a report can have."""
    student = measured(
        "float student",
        role="float",
        precision="float32",
        where=Where.HOST_TORCH,
        answers=answers(STUDENT),
        paired=None,
    )
    absent = Row(name="ios", role="bundle", precision="int8", where=Where.NOT_RUN, note=f"no {NASTY}")
    on_device = measured("jetson", where=Where.DEVICE, latency=latency(40.0), machine=ENVIRONMENT)
    verdicts = ("pass", "fail", "undecided", "not measured")
    gates = [
        Gate(name="top1_drop_points_max", row=str(index), bound=2, value=1.0, low=-1, high=3, clips=8, verdict=verdict)
        for index, verdict in enumerate(verdicts)
    ]
    fields: dict[str, Any] = {
        "title": f"gestures {NASTY}",
        "classes": 4,
        "labels": LABELS,
        "data": "/clips",
        "split": "test",
        "clips": tuple(ReportClip(key=f"{NASTY}/c{n}.mp4", label=label) for n, label in enumerate(TRUTH)),
        "chance": 0.25,
        "environment": ENVIRONMENT,
        "rows": (student, measured("android"), absent, on_device),
        "pairs": (Pair(first="android", second=NASTY, clips=8, agreement=0.875, logit_difference_max=0.5),),
        "gates": tuple(gates),
        "skipped": (SkippedClip(path=NASTY, reason="damaged"),),
        "notes": (f"a note {NASTY}",),
    }
    return Report(**(fields | changes))


def large(classes: int, name: str = "class {}") -> Report:
    """A report of many classes, each with one clip that is answered as the next class."""
    labels = tuple(name.format(number) for number in range(classes))
    predicted = tuple((number + 1) % classes for number in range(classes))
    row = measured(
        "android",
        clips=classes,
        top1=0.0,
        answers=answers(predicted),
        classes=tuple(ClassSlice(label=label, clips=1, right=0) for label in labels),
    )
    clips = tuple(ReportClip(key=f"c{number}", label=number) for number in range(classes))
    return report(labels=labels, classes=classes, clips=clips, rows=(row,), gates=())


def long_names() -> Report:
    """Names as people give them to devices, and as large sets give them to classes."""
    labels = tuple(f"pushing something number {n} so that it slightly moves from left to right" for n in range(12))
    device = "jetson int8+float16 on jetson_orin_nano_in_the_lab_on_the_left"
    own = answers(tuple((n + 1) % 12 for n in range(12)))
    classes = tuple(ClassSlice(label=label, clips=1, right=0, student_right=1) for label in labels)
    rows = [measured(name, clips=12, answers=own, classes=classes) for name in (device, "quantized graph", "android")]
    clips = tuple(ReportClip(key=f"{label}/{n}.mp4", label=n) for n, label in enumerate(labels))
    return report(labels=labels, classes=12, clips=clips, rows=tuple(rows), gates=(), title="x" * 80)


def far_apart() -> tuple[Row, ...]:
    """Models whose marks lie at either end of the chart, and none of whose names is long enough to be shortened."""
    return tuple(measured(name, latency=latency(p50)) for name, p50 in (("quantized graph", 800.0), ("android", 1.0)))


def sensitivity() -> dict[str, Any]:
    """sensitivity.json."""

    def cost(name: str, kind: str, sqnr_db: float) -> dict[str, Any]:
        return {"name": name, "kind": kind, "sqnr_db": sqnr_db, "changed": 0.1, "top1_drop_points": 1.5, "weights": 10}

    return {
        "format": "d3d-edge sensitivity",
        "format_version": 1,
        "title": "gestures",
        "scheme": "symmetric",
        "calibration": "balanced",
        "clips": 64,
        "float_top1": 0.9,
        "whole": cost("everything", "all", 20.0),
        "kinds": [cost("gate", "gate", 26.0), cost("temporal", "temporal", 200.0)],
        "groups": [cost(f"{NASTY}{number}", "gate", 30.0 + number) for number in range(40)],
        "environment": ENVIRONMENT.model_dump(mode="json"),
    }


def evaluation() -> dict[str, Any]:
    """evaluation.json."""
    system = {"name": "D3D", "streams": ["student"], "inputs": ["RGB"], "parameters": 1, "gmac": 1.0, "right": 3}
    return {
        "title": "gestures",
        "classes": 4,
        "split": "test",
        "videos": 4,
        "clips_per_video": 1,
        "fusion": "logits",
        "chance": 0.25,
        "environment": ENVIRONMENT.model_dump(mode="json"),
        "systems": [system | {"top1": 0.75, "top1_low": 0.3, "top1_high": 0.95, "top5": 1.0, "mean_class": 0.75}],
    }
