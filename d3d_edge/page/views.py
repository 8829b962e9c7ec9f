"""What the template shows of a report. Draws nothing."""

from __future__ import annotations

from dataclasses import dataclass

from d3d_edge.page.charts import Point
from d3d_edge.page.material import Material
from d3d_edge.page.words import megabytes, percent
from d3d_edge.report import Gate, Report, Row
from d3d_edge.runner import Where

_KIND = {
    Where.DEVICE: "device",
    Where.HOST_RUNTIME: "host",
    Where.HOST_TORCH: "torch",
    Where.REFERENCE_INTERPRETER: "interpreter",
    Where.NOT_RUN: "none",
}
MEANING = {
    Where.DEVICE: "on the device itself",
    Where.HOST_RUNTIME: "the target's file on this machine, not on a device, by the target's runtime or, for TensorRT, "
    "by ONNX Runtime; or on the device that the row names, by what its bundle is not made for",
    Where.HOST_TORCH: "PyTorch on this machine, the reference for the others",
    Where.REFERENCE_INTERPRETER: "the target's file read by this project's interpreter, which checks its answers; its "
    "time would say nothing",
    Where.NOT_RUN: "no figures; why is said below",
}
LISTED = 200
"""Changed clips that are listed of one model; of the others the number is said."""


@dataclass(frozen=True)
class Changed:
    """A clip that a model answers otherwise than the float student."""

    key: str
    truth: str
    student: str
    student_probability: float
    answer: str
    probability: float
    verdict: str
    """'lost', 'gained' or 'both wrong'."""


class ReportView:
    """One report."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.student = next((row for row in report.rows if row.role == "float"), None)

    @property
    def measured(self) -> bool:
        """Whether clips were classified."""
        return any(row.top1 is not None for row in self.report.rows)

    def has(self, name: str) -> bool:
        """Whether any row has this figure."""
        return any(getattr(row, name) is not None for row in self.report.rows)

    @property
    def sizes(self) -> list[tuple[str, float, str]]:
        """Name, bytes, megabytes in words."""
        rows = [row for row in self.report.rows if row.size_bytes is not None]
        return [(row.name, float(row.size_bytes or 0), megabytes(row.size_bytes)) for row in rows]

    @property
    def gate_rows(self) -> list[str]:
        """Models that gates are about."""
        return list(dict.fromkeys(gate.row for gate in self.report.gates))

    @property
    def gate_table(self) -> list[tuple[str, float, list[Gate | None]]]:
        """Name and bound of each gate, and how each of `gate_rows` stands to it."""
        found = {(gate.name, gate.bound, gate.row): gate for gate in self.report.gates}
        kinds = dict.fromkeys((name, bound) for name, bound, _ in found)
        return [(name, bound, [found.get((name, bound, row)) for row in self.gate_rows]) for name, bound in kinds]

    @property
    def places(self) -> list[tuple[str, str, str]]:
        """Where rows were measured: kind, name, meaning; each once."""
        return [
            (_KIND[where], str(where), MEANING[where]) for where in dict.fromkeys(row.where for row in self.report.rows)
        ]

    def kind(self, row: Row) -> str:
        """The class of a row in style.css."""
        return _KIND[row.where]

    @property
    def points(self) -> list[Point]:
        """Rows with an accuracy and a latency."""
        return [
            Point(
                row.name,
                row.latency.latency_ms_p50,
                row.top1,
                row.top1 if row.top1_low is None else row.top1_low,
                row.top1 if row.top1_high is None else row.top1_high,
                _KIND[row.where],
            )
            for row in self.report.rows
            if row.latency and row.top1 is not None
        ]

    @property
    def timed(self) -> list[Row]:
        """Rows with a latency."""
        return [row for row in self.report.rows if row.latency]

    @property
    def memory_known(self) -> bool:
        """Whether any row has a memory."""
        return any(row.latency and row.latency.memory_peak_bytes is not None for row in self.report.rows)

    @property
    def answered(self) -> list[list[Row]]:
        """Rows with an answer for each clip, those of the same answers together, bundles first."""
        order = ("bundle", "quantized", "float")
        rows = [row for row in self.report.rows if row.answers and self.report.clips]
        rows.sort(key=lambda row: order.index(row.role) if row.role in order else len(order))
        alike: dict[tuple[int, ...], list[Row]] = {}
        for row in rows:
            alike.setdefault(row.answers.predicted if row.answers else (), []).append(row)
        return list(alike.values())

    def confusion(self, row: Row) -> list[list[int]]:
        """Clips by true class and answer; a column more where some got no answer."""
        answers = row.answers.predicted if row.answers else ()
        columns = len(self.report.labels) + (-1 in answers)
        counts = [[0] * columns for _ in self.report.labels]
        for clip, answer in zip(self.report.clips, answers, strict=True):
            counts[clip.label][answer] += 1  # -1 is the last column
        return counts

    def confused(self, row: Row) -> list[tuple[str, str, int]]:
        """The most frequent mistakes: true class, answer, clips."""
        counts = self.confusion(row)
        labels = (*self.report.labels, "no answer")
        wrong = [
            (labels[true], labels[answer], many)
            for true, line in enumerate(counts)
            for answer, many in enumerate(line)
            if many and true != answer
        ]
        return sorted(wrong, key=lambda one: -one[2])[:10]

    def per_class(self, row: Row) -> list[tuple[str, int, int, int | None]]:
        """Classes, those first that lost most against the student, then the least accurate."""

        def order(one: tuple[str, int, int, int | None]) -> tuple[float, float]:
            _, clips, right, before = one
            return ((right - before) / clips if before is not None else 0.0, right / clips)

        return sorted(((one.label, one.clips, one.right, one.student_right) for one in row.classes), key=order)

    def changed(self, row: Row) -> list[Changed]:
        """Clips answered otherwise than by the float student: lost ones first."""
        if not row.answers or not self.student or not self.student.answers:
            return []
        before, own = self.student.answers, row.answers
        labels = (*self.report.labels, "no answer")
        found = []
        for place, clip in enumerate(self.report.clips):
            one, other = own.predicted[place], before.predicted[place]
            if one == other:
                continue
            verdict = "gained" if one == clip.label else "lost" if other == clip.label else "both wrong"
            found.append(
                Changed(
                    key=clip.key,
                    truth=labels[clip.label],
                    student=labels[other],
                    student_probability=before.probability[place],
                    answer=labels[one],
                    probability=own.probability[place],
                    verdict=verdict,
                )
            )
        return sorted(found, key=lambda one: ("lost", "gained", "both wrong").index(one.verdict))


def changed_keys(material: Material) -> list[str]:
    """Keys of the clips whose answer changed somewhere, each once, in the order they are shown."""
    views = [ReportView(report) for report in material.reports]
    shown = (view.changed(rows[0])[:LISTED] for view in views for rows in view.answered)
    return list(dict.fromkeys(one.key for changed in shown for one in changed))


class Head:
    """The top of the page: what this is, and whether it holds."""

    def __init__(self, material: Material) -> None:
        self._material = material
        self._report = material.reports[0] if material.reports else None

    @property
    def title(self) -> str:
        found = self._material
        titles = [one.title for one in found.reports] + [one.title for one in found.evaluations]
        titles += [one.title for one in found.sensitivities] + [made.name for made in found.bundles.values()]
        return next((title for title in titles if title), "d3d-edge")

    @property
    def targets(self) -> list[str]:
        """Targets of the bundles, without the references."""
        return sorted({one.target for one in self._material.bundles.values() if one.runtime != "eager"})

    @property
    def gates(self) -> tuple[Gate, ...]:
        return tuple(gate for report in self._material.reports for gate in report.gates)

    @property
    def verdict(self) -> tuple[str, str]:
        """Class and words for the gates of all reports."""
        verdicts: list[str] = [gate.verdict for gate in self.gates]
        if not verdicts:
            return "none", "no gates were judged"
        many = {word: verdicts.count(word) for word in ("fail", "undecided", "not measured", "pass")}
        worst = next(word for word, number in many.items() if number)
        if worst == "pass":
            return "pass", f"all {len(verdicts)} gates pass"
        words = {"fail": "missed", "undecided": "undecided: too few clips to tell"}
        others = [f"{number} {words.get(word, word)}" for word, number in many.items() if number and word != "pass"]
        return worst.replace(" ", "-"), f"{many['pass']} of {len(verdicts)} gates pass, {', '.join(others)}"

    @property
    def sentences(self) -> list[str]:
        """What this is, in words."""
        said = [f"Bundles for {', '.join(self.targets)}."] if self.targets else []
        if self._report is None:
            return said
        report, machine = self._report, self._report.environment
        clips = max((row.clips for row in report.rows), default=0)
        if clips:
            chance = "" if report.chance is None else f", chance {percent(report.chance)}"
            said.append(f"{report.classes} classes, {clips} {report.split} clips{chance}.")
        here = f"{machine.kind}, {machine.cpus} CPUs"
        places = dict.fromkeys(row.device or here for row in report.rows if row.where != Where.NOT_RUN)
        return [*said, f"Measured {machine.started[:10]} on {' and '.join(places) or here}."]

    @property
    def best(self) -> Row | None:
        """The bundle that stands for the others in the key figures: measured on a device if one was, else the first."""
        rows = [row for report in self._material.reports for row in report.rows if row.role == "bundle" and row.clips]
        return next((row for row in rows if row.where == Where.DEVICE), rows[0] if rows else None)
