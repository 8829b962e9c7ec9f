"""What making parts of a network INT8 costs, as `d3d-edge sensitivity` leaves it in a run. Measures nothing."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from d3d_edge.report import Environment, Share
from d3d_edge.schema import Schema
from d3d_edge.target import Scheme
from d3d_edge.timing import Count

FILE_NAME = "sensitivity.json"
FIGURE_NAME = "sensitivity.png"
Kind = Literal["stem", "spatial", "temporal", "gate", "pool", "join", "head"]
"""What a group of operators is; a join is a concatenation, and the head is the classifier."""


class Cost(Schema):
    """What the logits lose when only these operators are INT8."""

    name: str
    kind: Literal[Kind, "all"]
    sqnr_db: float = Field(ge=-1000, le=1000)
    """Power of the float logits to that of their change, in dB; 200 where nothing changes. The lower the worse."""
    changed: Share
    """Of the clips, those whose first answer is another one."""
    top1_drop_points: float = Field(ge=-100, le=100)
    """Percentage points of top-1 lost on these clips."""
    weights: Count
    """Weights of its convolutions, with the zeros of a stem of blocks: in float, each takes up to 3 bytes more."""


class SensitivityReport(Schema):
    """RUN/sensitivity.json."""

    format: Literal["d3d-edge sensitivity"] = "d3d-edge sensitivity"
    format_version: Literal[1] = 1
    title: str
    scheme: Scheme
    calibration: str
    """Name of the plan that found the ranges, and drew the clips."""
    clips: Count
    """Clips measured on, all of the training split."""
    float_top1: Share
    """Of the float student on them."""
    whole: Cost
    """Everything INT8 at once."""
    kinds: tuple[Cost, ...]
    """All groups of one kind at once, the worst first."""
    groups: tuple[Cost, ...]
    """Each group alone, the worst first."""
    environment: Environment
