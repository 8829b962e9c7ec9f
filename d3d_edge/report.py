"""Report: what was measured, as JSON first; tables, pages and comparisons are pure functions of it. Measures nothing.

`validate`, `benchmark` and the training commands all write one; what a command does not measure is null or empty.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, ValidationError, model_validator

from d3d_edge.errors import DataError, first_line
from d3d_edge.files import read_json, write_json
from d3d_edge.runner import Where
from d3d_edge.schema import Schema
from d3d_edge.target import Precision
from d3d_edge.timing import MOST, Count, Latency, Samples

FILE_NAME = "report.json"
REORDERED_CLIPS_MAX = 64
"""Of more test clips, so many are reordered, evenly spread: in PyTorch, an INT8 graph takes one at a time."""
Share = Annotated[float, Field(ge=0, le=1)]
Role = Literal["teacher", "baseline", "float", "quantized", "bundle"]


class Environment(Schema):
    """The machine and tools behind the figures."""

    machine: str
    """Its architecture, e.g. 'x86_64'."""
    processor: str
    instructions: tuple[str, ...] = ()
    """Those of its vector instructions that kernels are chosen by; none where they are not known, as in older reports.

    A virtual machine may hide the rest of its processor's name, and one generation takes several times as long over an
    INT8 file as the next.
    """
    cpus: int = Field(ge=1, le=MOST)
    system: str
    python: str
    tools: dict[str, str]
    started: str
    """ISO 8601, UTC."""

    @property
    def kind(self) -> str:
        """The processor in words, e.g. 'AMD EPYC with AVX-512 VNNI'."""
        return " with ".join(filter(None, (self.processor, " and ".join(self.instructions))))


class ReportClip(Schema):
    """A clip that was measured on."""

    key: str
    """Its path below `Report.data` and its times ('#t=1,2'), or the whole path where it lies elsewhere."""
    label: int
    """Index of its class in `Report.labels`."""
    sha256: str | None = None
    """Of the video file, where it was computed."""


class Answers(Schema):
    """What a model said of each clip, in the order of `Report.clips`."""

    predicted: tuple[int, ...]
    """Index of the class with the largest logit; -1 where two share it, which is no answer and never right."""
    probability: tuple[Share, ...]
    """Softmax of the largest logit, 0 to 1, rounded to six digits."""


class ClassSlice(Schema):
    """One class of the measured clips."""

    label: str
    clips: int = Field(ge=1, le=MOST)
    right: Count
    student_right: int | None = Field(default=None, ge=0, le=MOST)
    """Of the float student, on the same clips."""
    mcnemar_p: float | None = None
    """Exact McNemar test against the float student, within the class."""

    @model_validator(mode="after")
    def _right_of_its_clips(self) -> ClassSlice:
        if max(self.right, self.student_right or 0) > self.clips:
            raise ValueError(f"more clips of {self.label} are right than there are")
        return self


class Paired(Schema):
    """A model against the float student on the same clips, clip by clip."""

    gained: Count
    """Clips that it names rightly and the student wrongly."""
    lost: Count
    """Clips that the student names rightly and it wrongly."""
    difference_points: float
    """Its top-1 minus the student's, in percentage points."""
    difference_points_low: float
    """Lower end of the 95 % interval of the difference: bootstrap over clips."""
    difference_points_high: float
    mcnemar_p: float
    """Exact McNemar test: how often a network just as good would part `gained` and `lost` as unevenly."""
    flipped: tuple[str, ...]
    """Keys of the clips whose answer differs from the student's, right or wrong."""


class Row(Schema):
    """One model on the test split. Null means: not measured."""

    name: str
    """What it is: 'student', 'quantized graph', or a bundle's target."""
    role: Role
    bundle: str = ""
    """Name of the bundle's folder; empty for what is no bundle."""
    model_sha256: str | None = None
    """Hash of the model that was measured, as `BundleManifest.model_sha256` has it; null in older reports and for what
    is no bundle."""
    target: str = ""
    precision: Precision
    where: Where
    device: str = ""
    """The device that was given, e.g. 'ssh:nano@10.0.0.5'; empty for this machine."""
    runtime: str = ""
    """Name and version of what ran it; for a device, also what it says it is."""
    note: str = ""
    """Why it was not run, or what to know about the figures."""
    clips: Count = 0
    """Clips behind top1, top5, agreement and logit difference."""
    top1: float | None = Field(default=None, ge=0, le=1)
    """Share of clips whose first answer is right, 0 to 1."""
    top1_low: float | None = Field(default=None, ge=0, le=1)
    """Lower end of Wilson's 95 % interval of top1."""
    top1_high: float | None = Field(default=None, ge=0, le=1)
    top5: float | None = Field(default=None, ge=0, le=1)
    answers: Answers | None = None
    classes: tuple[ClassSlice, ...] = ()
    paired: Paired | None = None
    """Null for the float student itself, and where it was not measured."""
    agreement: float | None = Field(default=None, ge=0, le=1)
    """Share of clips with the same first answer as the quantized graph; for itself and for float32 bundles, as the
    float student."""
    top1_reversed: float | None = Field(default=None, ge=0, le=1)
    """Top-1 on the clips, of more than 64 on so many evenly spread, with their frames last to first. `d3d-edge
    quantize` measures it, and the next three."""
    top1_shuffled: float | None = Field(default=None, ge=0, le=1)
    """Top-1 on those clips with their frames in a random order."""
    agreement_reversed: float | None = Field(default=None, ge=0, le=1)
    """Share of reversed clips with the float student's first answer. Motion that rounding lost shows here even where
    top-1 does not move."""
    agreement_shuffled: float | None = Field(default=None, ge=0, le=1)
    logit_difference_max: float | None = Field(default=None, ge=0)
    """Largest absolute difference of a logit from that reference."""
    logit_step: float | None = None
    """The most that a logit changes by one quantization step of one input of the reference's classifier: the unit to
    read the difference in."""
    golden_difference_max: float | None = Field(default=None, ge=0)
    """Largest absolute difference from the logits stored in the bundle, on the stored clips."""
    size_bytes: int | None = Field(default=None, ge=0, le=MOST)
    """Bytes of the model file."""
    samples: Samples | None = None
    """Every time that was taken."""
    latency: Latency | None = None
    """What the samples say."""
    machine: Environment | None = None
    """What ran it, where that is not the machine of the report."""
    facts: dict[str, Annotated[int, Field(ge=-MOST, le=MOST)] | float | str | bool] = Field(default_factory=dict)
    """What lowering measured, such as the number of delegates."""


class Pair(Schema):
    """Two bundles on the same clips."""

    first: str
    """Names of their rows."""
    second: str
    clips: int = Field(ge=1, le=MOST)
    agreement: Share
    """Share of clips with the same first answer."""
    logit_difference_max: float = Field(ge=0)
    """Largest absolute difference of a logit."""


class Gate(Schema):
    """A bound of the recipe against a figure. How a verdict is found is in `harness.gates`."""

    name: str
    row: str
    bound: float
    value: float | None
    """Null where the figure was not measured."""
    low: float | None = None
    """Lower end of the interval that the verdict comes from, in the unit of `value`; null where value is exact."""
    high: float | None = None
    clips: int | None = Field(default=None, ge=0, le=MOST)
    """Clips behind a value that is estimated from clips."""
    clips_needed: int | None = Field(default=None, ge=0, le=MOST)
    """For 'undecided': clips that would tell, if more of them answer as these did; null where no number would."""
    verdict: Literal["pass", "fail", "undecided", "not measured"]


class SkippedClip(Schema):
    """A clip that could not be used."""

    path: str
    reason: str

    @property
    def why(self) -> str:
        """The reason without the path, with which that of a video begins."""
        return self.reason.removeprefix(self.path).lstrip(": ")


class Report(Schema):
    """report.json; its JSON Schema is in docs/report.schema.json."""

    model_config = ConfigDict(json_schema_extra={"$schema": "https://json-schema.org/draft/2020-12/schema"})

    format: Literal["d3d-edge report"] = "d3d-edge report"
    format_version: Literal[1] = 1
    title: str
    classes: Count
    labels: tuple[str, ...] = ()
    """Class names, in the order of the logits."""
    data: str = ""
    """Folder that the keys of `clips` start from; empty where nothing was classified."""
    split: str = ""
    """Which clips were measured on, e.g. 'test'."""
    clips: tuple[ReportClip, ...] = ()
    """The clips that `answers` are of."""
    chance: float | None = Field(default=None, ge=0, le=1)
    """Top-1 of always naming the commonest class of those clips; null where nothing was classified."""
    environment: Environment
    rows: tuple[Row, ...]
    pairs: tuple[Pair, ...] = ()
    """Every two bundles that were measured: how far one checkpoint's files agree with one another."""
    gates: tuple[Gate, ...] = ()
    skipped: tuple[SkippedClip, ...] = ()
    notes: tuple[str, ...] = ()
    """What a reader must know about the figures, such as doubt whether a clip was trained on."""

    @model_validator(mode="after")
    def _answers_are_of_the_clips(self) -> Report:
        # Else a table, a chart or a comparison would be wrong, and nobody would see it.
        for row in self.rows:
            if row.answers:
                predicted, known = row.answers.predicted, range(len(self.labels))
                of_clips = len(predicted) == len(row.answers.probability) == len(self.clips)
                of_labels = all(index == -1 or index in known for index in predicted)
                if not of_clips or not of_labels or not all(clip.label in known for clip in self.clips):
                    raise ValueError(f"the answers of {row.name} are not of its clips and labels")
        return self

    @property
    def is_of_bundles(self) -> bool:
        """Whether files of bundles were measured, be it of the target `host`, and not networks in training."""
        return any(row.bundle or row.role == "bundle" for row in self.rows)  # earlier reports name no folder

    def write(self, path: Path) -> None:
        """Write as JSON, whole or not at all.

        Raises:
            StorageError: it cannot be written; what was there before is unchanged.
        """
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def read(cls, path: Path) -> Report:
        """The report at `path`.

        Raises:
            DataError: there is none, or it is of another format.
        """
        try:
            found = read_json(path)
            return cls.model_validate(found)
        except ValidationError as error:
            kind = str(found.get("format")) if isinstance(found, dict) else ""
            if kind.startswith("d3d-edge ") and kind != cls.model_fields["format"].default:
                raise DataError(
                    f"{path} is not a readable report: it is a {kind}",
                    hint="give the report.json of distill, quantize, validate or benchmark",
                ) from error
            first = error.errors()[0]
            where = "".join(f"{part}: " for part in [".".join(map(str, first["loc"]))] if part)
            raise DataError(
                f"{path} is not a readable report: {where}{first['msg'].removeprefix('Value error, ')}",
                hint="it must be one that this version of d3d-edge wrote",
            ) from error
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is not a readable report: {first_line(error)}") from error
