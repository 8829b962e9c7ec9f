"""What a recipe says of training: networks, augmentation, the training loop, and what the student learns from."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from d3d_edge.presets import StageWidths
from d3d_edge.schema import Schema

Unit = Literal[
    "Conv2d_2c_3x3",
    "Mixed_3b",
    "Mixed_3c",
    "Mixed_4b",
    "Mixed_4c",
    "Mixed_4d",
    "Mixed_4e",
    "Mixed_4f",
    "Mixed_5b",
    "Mixed_5c",
]
"""The layers that can have temporal kernels and gates."""


class AugmentSpec(Schema):
    """Changes to a training clip. RGB and flow get the same ones."""

    random_crop: bool
    """Crop anywhere instead of at the centre."""
    flip: bool
    """Mirror half of the clips. Not for classes that tell left from right."""
    brightness: float = Field(ge=0, lt=1)
    """RGB is scaled by a factor drawn from 1 +- this."""


class NetworkSpec(Schema):
    """S3D-G and its options; the defaults are those of the published network."""

    width: float = Field(default=1.0, gt=0, le=2)
    """Multiplier of every channel count."""
    stage_widths: StageWidths = StageWidths()
    """The same of single stages, where they differ: {Mixed_3: 0.5} is wider there. Stages: Conv2d_1, Conv2d_2, Mixed_3,
    Mixed_4, Mixed_5."""
    stem: Literal["conv3d_k1", "conv3d_k3", "conv3d_k5", "conv3d_k7", "conv3d_k3_5x5", "conv3d_k3_3x3", "separable"] = (
        "conv3d_k3"
    )
    """First layer: a full convolution over k frames and 7x7 pixels, or the pixels that are named, which takes less time
    (docs/models.md); or 1x7x7 followed by 7x1x1."""
    gating: bool = True
    """Self-gating after Conv2d_2c and each Inception branch."""
    gating_from: Unit = Field(default="Conv2d_2c_3x3", exclude_if=lambda first: first == "Conv2d_2c_3x3")
    """First layer with gates. The default is written nowhere: runs of versions without this key stay what they are."""
    temporal_from: Unit = "Conv2d_2c_3x3"
    """First layer whose separable convolutions have a temporal kernel; earlier ones are 2D."""
    padding: Literal["same", "symmetric"] = "same"
    """same: as TensorFlow pads (published S3D-G weights); symmetric: as PyTorch pads."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Share of pooled features dropped in training."""
    bn_scale: bool = False
    """Whether BatchNorm learns a scale (the published network learns only an offset)."""
    bn_momentum: float = Field(default=0.001, gt=0, le=1)
    """Share of the newest batch in the running statistics. 0.001 needs very long training."""


class TrainSpec(Schema):
    """One run of the training loop."""

    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    """Clips that one process takes at a time."""
    accumulate: int = Field(default=1, ge=1)
    """Batches whose gradients are averaged for one step, which so sees batch_size x accumulate x processes clips."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """sgd: momentum 0.9, without Nesterov's."""
    learning_rate: float = Field(gt=0)
    """The highest of the schedule. It is not scaled by the number of clips in a step."""
    schedule: Literal["one_cycle", "cosine", "steps"] = "one_cycle"
    """one_cycle: up and down along cosines. cosine: up along a line, down along a cosine. steps: a tenth from each
    milestone on."""
    warm_up: float | None = Field(default=None, ge=0, lt=1)
    """Share of the steps in which the learning rate rises; null: 0.1, and 0 for the schedule `steps`."""
    milestones: tuple[float, ...] = ()
    """Shares of the steps at which the schedule `steps` goes down, rising; the published S3D-G has [0.75, 0.875]."""
    weight_decay: float = Field(default=0.05, ge=0)
    """adamw: decoupled from the gradient; sgd: added to it. The published S3D-G has 1e-7, with sgd."""
    gradient_clip: float = Field(default=5.0, gt=0)
    """Largest norm of the gradient."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: where autocast deems it safe; weights, loss and evaluation stay float32."""
    compile: bool = False
    """Whether the network runs through torch.compile, which takes minutes to start. For long runs on a GPU."""
    keep: Literal["last", "best"] = "last"
    """Weights that are measured and used further: the last, or those with the highest top-1 on the val split, which
    is measured some ten times in all."""

    @model_validator(mode="after")
    def _milestones_belong_to_steps(self) -> Self:
        shares = self.milestones
        if (self.schedule == "steps") != bool(shares):
            raise ValueError("the schedule 'steps' needs milestones, e.g. [0.75, 0.875], and no other takes them")
        if any(not 0 < share < 1 for share in shares) or list(shares) != sorted(set(shares)):
            raise ValueError("milestones are shares between 0 and 1, each larger than the one before")
        if shares and (self.warm_up or 0.0) >= shares[0]:
            raise ValueError("warm_up must end before the first milestone")
        return self


class TeacherSpec(Schema):
    """The temporal stream: a network on flow, trained with cross-entropy."""

    network: NetworkSpec
    train: TrainSpec
    weights: str | None = None
    """Published checkpoint of flow to start from, a path (see `models.checkpoints`); null starts from scratch."""


class StudentSpec(Schema):
    """The network that ships: RGB only."""

    network: NetworkSpec
    train: TrainSpec
    initialise: Literal["scratch", "teacher"]
    """teacher: start from the teacher's weights, all but the first convolution (same network needed)."""
    weights: str | None = None
    """Published checkpoint of RGB to start from, a path; null for none. Baselines from scratch start there too."""


class BaselineSpec(Schema):
    """The student's network trained on RGB without a teacher, to compare the student with."""

    frames: Literal["clip", "one"] = "clip"
    """one: single frames instead of clips. Near chance means that the classes differ by motion alone."""
    train: TrainSpec | None = None
    """null: exactly as the student is trained, which makes the comparison one of equal budgets."""
    initialise: Literal["scratch", "teacher"] = "scratch"
    """As for the student. From the teacher's weights, but without distillation."""


class DistillSpec(Schema):
    """What the student minimises: the weighted sum of cross-entropy and of its distances to the teacher.

    D3D: MSE of the logits. MARS: MSE of the pooled features. Hinton: KL divergence of the softened answers.
    """

    teacher: Literal["flow", "two_stream"] = "flow"
    """two_stream: the mean of the logits of the flow teacher and of the baseline `spatial`."""
    cross_entropy_weight: float = Field(default=1.0, ge=0)
    weight: float = Field(ge=0)
    """Lambda, the weight of the MSE of the logits; 0 leaves it out."""
    reduction: Literal["mean", "sum"]
    """The MSE of one clip is the mean, or the sum, over its classes. A batch is always averaged."""
    features_weight: float = Field(default=0.0, ge=0)
    """Weight of the MSE of the pooled features, the mean over their channels. Where teacher and student have different
    widths, a linear projection is trained beside the student and thrown away. Not in quantization-aware training."""
    divergence_weight: float = Field(default=0.0, ge=0)
    """Weight of temperature^2 x KL(teacher || student), both softened by the temperature."""
    temperature: float = Field(default=4.0, ge=0.01, le=100)
    """Logits are divided by it in the KL divergence, of which float32 holds nothing where it is much larger."""

    @model_validator(mode="after")
    def _learns_something(self) -> Self:
        if not (self.cross_entropy_weight or self.uses_teacher):
            raise ValueError("every weight is 0, so there is nothing to learn")
        return self

    @property
    def uses_answers(self) -> bool:
        """Whether the loss asks for the teacher's logits, and not for its features alone."""
        return bool(self.weight or self.divergence_weight)

    @property
    def uses_teacher(self) -> bool:
        """Whether any of the distances to the teacher counts."""
        return self.uses_answers or bool(self.features_weight)
