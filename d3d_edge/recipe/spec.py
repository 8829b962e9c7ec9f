"""What a recipe says: its sections and their fields. Data only: `reading` reads it, and `pipeline` carries it out."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, Literal, Self

import yaml
from pydantic import ConfigDict, Field, field_validator, model_validator

from d3d_edge.clip import ClipSpec, FlowSpec
from d3d_edge.recipe.training import AugmentSpec, BaselineSpec, DistillSpec, StudentSpec, TeacherSpec, TrainSpec
from d3d_edge.schema import Schema
from d3d_edge.target import Scheme


class SplitSpec(Schema):
    """How a split is drawn where the data gives none: by group (else by file), with all classes in each."""

    val_share: float = Field(default=0.15, ge=0, lt=0.5)
    """Of what the test split leaves: by default 12 % of all clips."""
    test_share: float = Field(default=0.2, gt=0, lt=0.5)
    seed: int = Field(default=0, ge=0)


class QATDistillSpec(Schema):
    """What quantization-aware training learns from beside the labels: the flow teacher, the float student, or both."""

    model_config = ConfigDict(populate_by_name=True)

    source: Literal["teacher", "student", "both"] = Field(default="teacher", alias="from")
    """teacher: by the distances of the recipe's section `distill`, but for features, which a captured graph does not
    give. student: by the MSE of the logits, the mean over classes, to the float student that is being quantized."""
    cross_entropy_weight: float | None = Field(default=None, ge=0)
    """null: that of the recipe's section `distill`."""
    teacher_weight: float = Field(default=1.0, ge=0)
    """Factor on the distances to the teacher."""
    student_weight: float = Field(default=1.0, ge=0)
    """Weight of the distance to the float student."""

    @property
    def sources(self) -> frozenset[str]:
        """The networks that answer each training clip: of 'teacher' and 'student', those that count."""
        weights = {"teacher": self.teacher_weight, "student": self.student_weight}
        return frozenset(name for name, weight in weights.items() if weight and self.source in (name, "both"))


class QATSpec(Schema):
    """Quantization-aware training: the distillation loop on the fake-quantized student.

    Batch norms are folded into their convolutions before it begins, exactly, so there are no statistics to freeze. What
    there is to schedule are the rounding and the ranges. Both shares are counted in whole epochs: what is to happen
    within an epoch happens when the next one begins.
    """

    train: TrainSpec
    start_share: float = Field(default=0.0, ge=0, lt=1)
    """Share of the epochs that train the folded network in float, before rounding starts; one has to be left."""
    freeze_share: float = Field(default=0.5, ge=0, le=1)
    """Share of the epochs in which ranges follow the activations; then they are fixed, so that the weights settle on
    the grid that ships (Krishnamoorthi, arXiv 1806.08342, section 3.2). Only minmax and moving_average can follow: with
    the other observers the ranges of activations are found before training and stay, and this counts for weights
    alone."""
    dropout: bool = True
    """Whether pooled features are dropped as in the student's own training. Where the float student is what to learn
    from, dropping asks the rounded one for the logits of features that it does not have."""
    distill: QATDistillSpec = QATDistillSpec()

    @model_validator(mode="after")
    def _rounds_in_float32(self) -> Self:
        # The 8 bits of a bfloat16's fraction cannot tell the steps of an 8-bit grid apart.
        if self.train.precision != "float32" or self.train.compile:
            raise ValueError("quantization-aware training runs in float32 and is not compiled")
        if self.freeze_share < self.start_share:
            raise ValueError("freeze_share must not be less than start_share: ranges are fixed once rounding has begun")
        epochs = self.train.epochs
        if self.start_epoch >= epochs:
            given = f"start_share {self.start_share:g} of {epochs} epoch{'s' * (epochs > 1)}"
            raise ValueError(f"{given} leaves no whole epoch that is rounded: lower it, or give more epochs")
        return self

    @property
    def start_epoch(self) -> int:
        """The first epoch that is rounded, counted from 0."""
        return self._epoch(self.start_share)

    @property
    def freeze_epoch(self) -> int:
        """The first epoch with fixed ranges, counted from 0; that after the last one if they are never fixed."""
        return self._epoch(self.freeze_share)

    def _epoch(self, share: float) -> int:
        # Of the decimal that was written: as floats, 0.28 * 25 is a little more than 7 and would take another epoch.
        return math.ceil(Fraction(str(share)) * self.train.epochs)


class QuantizeSpec(Schema):
    """INT8: weights per output channel, activations per tensor."""

    scheme: Scheme
    """symmetric: zero point 0 everywhere (TensorRT needs it). affine: activations have a zero point."""
    calibration: str
    """Name of a plan in calibration/, or the path of one."""
    qat: QATSpec | None
    """null: post-training quantization only."""
    keep_float: Literal["none", "auto"] | tuple[str, ...] = "none"
    """What stays float. auto: the fewest groups, the most sensitive first, with which top1_drop_points_max of the gates
    holds on the val split (without one, on the calibration clips). A list: names of groups as `d3d-edge sensitivity`
    tells them, parts of the network (Mixed_5c), or kinds (stem, spatial, temporal, gate, pool, join, head)."""

    @field_validator("keep_float", mode="before")
    @classmethod
    def _none_auto_or_names(cls, value: Any) -> Any:
        if value in ("none", "auto"):
            return value
        if isinstance(value, list | tuple) and all(isinstance(name, str) for name in value):
            return value
        raise ValueError("is none, auto, or a list of names")


class ExportSpec(Schema):
    """What `export --target all` makes."""

    targets: tuple[str, ...] = Field(default=("android", "ios", "jetson"), min_length=1)
    golden_clips: int = Field(default=4, ge=1)
    """Clips stored in every bundle with their logits, so that an app can check itself."""


class GateSpec(Schema):
    """Bounds that `validate` holds each bundle to."""

    top1_drop_points_max: float = Field(ge=0)
    """Percentage points of top-1 a bundle may lose against the float student."""
    agreement_min: float = Field(ge=0, le=1)
    """Share of clips on which a bundle names the same class as the graph it was lowered from: the quantized one, or the
    float student for a precision without INT8 activations."""
    size_bytes_max: int = Field(gt=0)
    """Bytes of the model file, in INT8."""


class Recipe(Schema):
    """Everything that decides what is trained and shipped, but the data."""

    name: str
    description: str
    seed: int = Field(default=0, ge=0, lt=2**63)
    split: SplitSpec = SplitSpec()
    clip: ClipSpec
    flow: FlowSpec
    augment: AugmentSpec
    teacher: TeacherSpec
    student: StudentSpec
    baselines: dict[str, BaselineSpec] = Field(default_factory=dict)
    """Networks to train beside the student, by name. `spatial` is the RGB stream of `d3d-edge evaluate`. null takes one
    away that the extended recipe has."""
    distill: DistillSpec
    quantize: QuantizeSpec
    export: ExportSpec = ExportSpec()
    gates: GateSpec

    @field_validator("baselines", mode="before")
    @classmethod
    def _without_null(cls, value: Any) -> Any:
        return {name: spec for name, spec in value.items() if spec is not None} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _teacher_sees_motion(self) -> Self:
        if self.clip.frames < 2:
            raise ValueError("clip.frames must be 2 or more: a single frame has no motion for the teacher")
        return self

    @model_validator(mode="after")
    def _classifier_learns(self) -> Self:
        distill = self.distill
        taught = distill.cross_entropy_weight or distill.uses_answers
        if self.student.initialise == "scratch" and not taught:
            raise ValueError(
                "distill: features alone leave the student's classifier as it began, at random; give "
                "cross_entropy_weight, weight or divergence_weight too, or student.initialise: teacher"
            )
        return self

    @model_validator(mode="after")
    def _quantized_training_learns_something(self) -> Self:
        if qat := self.quantize.qat:
            labels = qat.distill.cross_entropy_weight
            teacher = "teacher" in qat.distill.sources and self.distill.uses_answers
            labels = self.distill.cross_entropy_weight if labels is None else labels
            if not (labels or teacher or "student" in qat.distill.sources):
                raise ValueError("quantize.qat.distill: every weight is 0, so there is nothing to learn")
        return self

    def yaml(self) -> str:
        """The resolved recipe, as YAML that reads back equal."""
        content = self.model_dump(mode="json", by_alias=True)
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)
        # PyYAML writes the one line break beyond ASCII (U+0085) as it is, and reads it as a line break.
        return yaml.safe_dump(content, sort_keys=False, width=110) if "\x85" in text else text
