"""Time a training step of the rank-4 S3D-G against the same network with PyTorch's 3D operators, on this machine.

A step is forward, cross-entropy, backward and AdamW. All forms start from the same weights and get the same clips; that
they give the same logits and gradients is checked first. The forms take turns within each repetition, so that whatever
else the machine does falls on all of them alike. In bfloat16 forward runs under autocast, as `precision` does.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.conv3d import Conv3dS3DG, rank5
from d3d_edge.cli.tables import columns
from d3d_edge.files import write_json
from d3d_edge.models.s3dg import S3DG
from d3d_edge.pipeline.environment import environment
from d3d_edge.schema import Schema

CLASSES = 10
WARM_UP = 2
"""Steps of each form before any is timed: the first ones allocate memory and choose kernels."""
RELATIVE_TOLERANCE = 1e-3
"""Largest difference of a logit, in parts of the largest logit: float32 through some sixty layers."""
GRADIENT_TOLERANCE = 1e-9
"""Largest length of the difference of all gradients, in parts of their length, in float64: in float32 it is some
hundredths, since a rounding error lets ReLUs and maxima choose otherwise."""
KERNELS = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384")
"""What keeps the compiled kernels of all forms. oneDNN keeps 1024, enough to train one form alone, but not for three
that take turns: each would be timed while it compiles its kernels anew."""
RANK4, CONV3D, CONV3D_LAST = "rank 4", "Conv3d", "Conv3d, channels last"


class Case(NamedTuple):
    """What is trained."""

    multiplier: float
    """Of every channel count."""
    frames: int
    height: int
    width: int
    batch: int

    def __str__(self) -> str:
        return f"{self.multiplier:g}:{self.frames}x{self.height}x{self.width}:{self.batch}"


CASES = (Case(0.25, 16, 112, 112, 4), Case(0.25, 16, 56, 56, 16), Case(1.0, 8, 112, 112, 2))


class Times(Schema):
    """The steps of one form."""

    ms_p50: float
    ms_p90: float
    ms_min: float


class Result(Schema):
    """One case."""

    case: str
    """multiplier:TxHxW:batch"""
    relative_difference: float
    """Largest difference of a logit between the forms before training, in parts of the largest logit."""
    gradient_difference: float
    """Length of the difference of all gradients between the forms, in parts of their length, in float64."""
    forms: dict[str, Times]
    speed_up: dict[str, float]
    """Of rank 4 over each other form: the middle of the ratios within a repetition."""


class Form(NamedTuple):
    """A network, its clips in the layout that it takes, and its optimizer."""

    net: nn.Module
    logits: Callable[[], Tensor]
    optimizer: torch.optim.Optimizer


def forms(case: Case, dtype: torch.dtype = torch.float32) -> dict[str, Form]:
    """The same network three times, in training mode, with the same weights and the same clips."""
    torch.manual_seed(0)
    rank4 = S3DG(CLASSES, width=case.multiplier, dropout=0.0, bn_scale=True, bn_momentum=0.1).to(dtype)
    conv3d = Conv3dS3DG(CLASSES, width=case.multiplier).to(dtype)
    conv3d.load_rank4(rank4.state_dict())
    last = deepcopy(conv3d).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    rank4.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    clips = torch.randn(case.batch, case.frames, case.height, case.width, 3, dtype=dtype)
    frames = clips.flatten(0, 1).permute(0, 3, 1, 2)  # channels-last, as decoded frames come
    volume = clips.permute(0, 4, 1, 2, 3)
    contiguous, channels_last = volume.contiguous(), volume.contiguous(memory_format=torch.channels_last_3d)
    return {
        RANK4: _form(rank4, lambda: rank4(frames, case.batch)),
        CONV3D: _form(conv3d, lambda: conv3d(contiguous)),
        CONV3D_LAST: _form(last, lambda: last(channels_last)),
    }


def _form(net: nn.Module, logits: Callable[[], Tensor]) -> Form:
    net.train()
    return Form(net, logits, torch.optim.AdamW(net.parameters(), lr=1e-3, fused=True))


def relative_difference(made: dict[str, Form]) -> float:
    """Largest difference of a logit from those of rank 4, in parts of the largest one."""
    with torch.no_grad():
        logits = {name: form.logits() for name, form in made.items()}
    largest = max(float((other - logits[RANK4]).abs().max()) for other in logits.values())
    return largest / float(logits[RANK4].abs().max())


def gradient_difference(case: Case, labels: Tensor) -> float:
    """Length of the difference of all gradients from those of rank 4, in parts of their length, in float64."""
    gradients = {}
    for name, form in forms(case, torch.float64).items():
        _backward(form, labels)
        gradients[name] = {key: value.grad for key, value in form.net.named_parameters() if value.grad is not None}
    expected = gradients.pop(RANK4)
    length = _length(expected.values())
    return max(
        _length(value - rank5(key, expected[key], value) for key, value in other.items()) / length
        for other in gradients.values()
    )


def _length(gradients: Iterable[Tensor]) -> float:
    return math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients))


def step(form: Form, labels: Tensor, precision: str = "float32") -> None:
    """One step of training."""
    _backward(form, labels, precision)
    form.optimizer.step()


def _backward(form: Form, labels: Tensor, precision: str = "float32") -> None:
    form.optimizer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        logits = form.logits()
    if precision == "bfloat16":
        logits = logits.float()
    F.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]


def measure(case: Case, repetitions: int, precision: str = "float32") -> Result:
    """Time `repetitions` steps of each form after warm-up; ends the program if the forms are not one network."""
    made = forms(case)
    labels = torch.arange(case.batch) % CLASSES
    difference, gradients = relative_difference(made), gradient_difference(case, labels)
    if not (difference <= RELATIVE_TOLERANCE and gradients <= GRADIENT_TOLERANCE):
        sys.exit(
            f"error: {case}: the forms differ by {difference:.2g} of the largest logit and {gradients:.2g} of the "
            "gradients, so they are not one network"
        )
    times: dict[str, list[float]] = {name: [] for name in made}
    for repetition in range(WARM_UP + repetitions):
        for name, form in made.items():
            began = time.perf_counter()
            step(form, labels, precision)
            if repetition >= WARM_UP:
                times[name].append(1e3 * (time.perf_counter() - began))
    return Result(
        case=str(case),
        relative_difference=difference,
        gradient_difference=gradients,
        forms={
            name: Times(ms_p50=np.median(values), ms_p90=np.percentile(values, 90), ms_min=min(values))
            for name, values in times.items()
        },
        speed_up={name: np.median(np.divide(times[name], times[RANK4])) for name in (CONV3D, CONV3D_LAST)},
    )


def case_from_text(text: str) -> Case:
    """Read multiplier:TxHxW:batch. Raises argparse.ArgumentTypeError for anything else."""
    try:
        multiplier, shape, batch = text.split(":")
        frames, height, width = (int(side) for side in shape.split("x"))
        case = Case(float(multiplier), frames, height, width, int(batch))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not multiplier:TxHxW:batch, as {CASES[0]} is") from None
    if min(case) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} has a number that is not above 0")
    return case


def table(results: Sequence[Result]) -> Table:
    """A line a form."""
    drawn = columns(("width:TxHxW:batch", "form"), ("p50 ms", "p90 ms", "min ms", "speed-up"))
    for result in results:
        for name, times in result.forms.items():
            faster = f"{result.speed_up[name]:.2f}x" if name in result.speed_up else "-"
            figures = (f"{ms:.1f}" for ms in (times.ms_p50, times.ms_p90, times.ms_min))
            drawn.add_row(result.case if name == RANK4 else "", name, *figures, faster)
    return drawn


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print a table, and write the figures as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.train_step", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "cases", nargs="*", type=case_from_text, metavar="WIDTH:TxHxW:BATCH", help="default: three sizes"
    )
    parser.add_argument("--repetitions", type=int, default=10, help="timed steps of each form (default: 10)")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="default: float32")
    parser.add_argument("--threads", type=int, default=0, help="threads of PyTorch; 0 leaves its own choice")
    parser.add_argument(
        "--out", type=Path, default=Path("build/train_step.json"), help="default: build/train_step.json"
    )
    given = parser.parse_args(words)
    if given.repetitions < 1 or given.threads < 0:
        parser.error("--repetitions must be 1 or more, and --threads 0 or more")
    os.environ.setdefault(*KERNELS)  # before the first convolution, which reads it
    if given.threads:
        torch.set_num_threads(given.threads)
    started = datetime.now(UTC)
    results = [measure(case, given.repetitions, given.precision) for case in given.cases or CASES]
    machine = environment(started, ())
    write_json(
        given.out,
        {
            "environment": machine.model_dump(mode="json"),
            "precision": given.precision,
            "threads": torch.get_num_threads(),
            "repetitions": given.repetitions,
            "results": [result.model_dump(mode="json") for result in results],
        },
    )
    console = Console(soft_wrap=True, highlight=False)
    console.print(table(results))
    console.print("speed-up: of rank 4 over this form, the middle of the ratios within a repetition")
    console.print(
        f"{machine.kind}, {machine.cpus} CPUs, {torch.get_num_threads()} threads, torch {torch.__version__}; "
        f"{given.repetitions} steps of each form in {given.precision}, in turns"
    )
    console.print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
