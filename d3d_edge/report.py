"""Report: what was measured, as JSON first; tables are drawn from it elsewhere. Measures nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from d3d_edge.errors import DataError
from d3d_edge.files import write_json
from d3d_edge.runner import Where
from d3d_edge.schema import Schema

FILE_NAME = "report.json"
Role = Literal["teacher", "baseline", "float", "quantized", "bundle"]


class Latency(Schema):
    """Time of one clip through the network alone, after warm-up."""

    runs: int
    threads: int
    """Threads the runtime was given; 0 where it does not say."""
    latency_ms_p50: float
    latency_ms_p90: float
    latency_ms_mean: float
    latency_ms_min: float


class Row(Schema):
    """One model on the test split. Null means: not measured."""

    name: str
    """What it is: 'student', 'quantized graph', or a bundle's target."""
    role: Role
    precision: Literal["int8", "float32"]
    where: Where
    runtime: str = ""
    """Name and version of what ran it."""
    note: str = ""
    """Why it was not run, or what to know about the figures."""
    clips: int = Field(default=0, ge=0)
    """Clips behind top1, top5, agreement and logit difference."""
    top1: float | None = None
    """Share of clips whose first answer is right, 0 to 1."""
    top5: float | None = None
    agreement: float | None = None
    """Share of clips with the same first answer as the quantized graph (for float32 bundles, the float student)."""
    logit_difference_max: float | None = None
    """Largest absolute difference of a logit from that reference."""
    logit_step: float | None = None
    """Quantization step of the reference's logits, the unit to read the difference in."""
    golden_difference_max: float | None = None
    """Largest absolute difference from the logits stored in the bundle, on the stored clips."""
    size_bytes: int | None = None
    """Bytes of the model file."""
    latency: Latency | None = None
    facts: dict[str, int | float | str | bool] = Field(default_factory=dict)
    """What lowering measured, such as the number of delegates."""


class Gate(Schema):
    """A bound of the recipe against a figure."""

    name: str
    row: str
    bound: float
    value: float | None
    """Null where the figure was not measured."""
    verdict: Literal["pass", "fail", "not measured"]


class SkippedClip(Schema):
    """A clip that could not be used."""

    path: str
    reason: str


class Environment(Schema):
    """The machine and tools behind the figures."""

    machine: str
    processor: str
    cpus: int
    system: str
    python: str
    tools: dict[str, str]
    started: str
    """ISO 8601, UTC."""


class Report(Schema):
    """report.json; its JSON Schema is in docs/report.schema.json."""

    format: Literal["d3d-edge report"] = "d3d-edge report"
    format_version: Literal[1] = 1
    title: str
    classes: int
    split: str
    """Which clips were measured on, e.g. 'test'."""
    chance: float
    """Top-1 of always naming the commonest class of those clips."""
    environment: Environment
    rows: tuple[Row, ...]
    gates: tuple[Gate, ...] = ()
    skipped: tuple[SkippedClip, ...] = ()
    notes: tuple[str, ...] = ()
    """What a reader must know about the figures, such as doubt whether a clip was trained on."""

    @property
    def failed_gates(self) -> tuple[Gate, ...]:
        """Gates with the verdict 'fail'."""
        return tuple(gate for gate in self.gates if gate.verdict == "fail")

    def write(self, path: Path) -> None:
        """Write as JSON, whole or not at all."""
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def read(cls, path: Path) -> Report:
        """The report at `path`.

        Raises:
            DataError: there is none, or it is of another format.
        """
        try:
            return cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, ValidationError) as error:
            raise DataError(f"{path} is not a readable report: {str(error).splitlines()[0]}") from error
