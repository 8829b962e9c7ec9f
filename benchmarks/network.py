"""Time one clip through S3D-G on this machine: PyTorch and ONNX Runtime with Conv3d, and this project's `.pte` files.

All forms have the same weights and take the same bytes; that their float logits agree is checked first. They take turns
within each repetition, so that whatever else the machine does falls on all of them alike.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from benchmarks.conv3d import Conv3dS3DG
from benchmarks.train_step import RELATIVE_TOLERANCE, Times
from benchmarks.turns import take_turns
from d3d_edge import target
from d3d_edge.cli.tables import columns
from d3d_edge.files import write_json
from d3d_edge.models.recogniser import OFFSET, SCALE, Recogniser
from d3d_edge.models.s3dg import S3DG
from d3d_edge.pipeline.environment import environment
from d3d_edge.quantize import pt2e
from d3d_edge.runtimes.executorch import RUNTIME, ExecuTorchRunner
from d3d_edge.schema import Schema
from d3d_edge.target import Precision

CLASSES = 10
WIDTHS = (1.0, 0.5, 0.25)
CONV3D, CONV3D_LAST = "PyTorch Conv3d", "PyTorch, channels last"
ORT, ORT_INT8 = "ONNX Runtime Conv3d", "ONNX Runtime INT8"
PTE, PTE_INT8 = ".pte", ".pte INT8"


R = TypeVar("R", bound=Schema)
"""What is known of one width."""


class Clip(NamedTuple):
    """What one clip is."""

    frames: int
    height: int
    width: int


class Form(Schema):
    """One way to compute the network."""

    times: Times
    size_bytes: int | None
    """Of its file."""
    relative_difference: float
    """Largest difference of a logit from the first form's, in parts of the largest one."""


class Result(Schema):
    """One width."""

    multiplier: float
    clip: str
    threads: int
    forms: dict[str, Form]
    speed_up: dict[str, float]
    """Of the INT8 `.pte` over each other form: the middle of the ratios within a repetition."""


class FromBytes(nn.Module):
    """The Conv3d network behind the normalisation of `Recogniser`: uint8 [T, H, W, C] to logits [1, classes]."""

    def __init__(self, net: Conv3dS3DG, layout: torch.memory_format) -> None:
        super().__init__()
        self.net, self.layout = net, layout

    def forward(self, clip: Tensor) -> Tensor:
        volume = (clip.float() * SCALE + OFFSET).permute(3, 0, 1, 2).unsqueeze(0)
        logits: Tensor = self.net(volume.contiguous(memory_format=self.layout))
        return logits


def networks(multiplier: float) -> tuple[S3DG, Conv3dS3DG]:
    """The rank-4 network and the Conv3d one, in evaluation mode, with the same weights."""
    torch.manual_seed(0)
    rank4 = S3DG(CLASSES, width=multiplier, bn_scale=True)
    for layer in rank4.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    conv3d = Conv3dS3DG(CLASSES, width=multiplier)
    conv3d.load_rank4(rank4.state_dict())
    return rank4.eval(), conv3d.eval()


def _torch(net: nn.Module, sample: Tensor, layout: torch.memory_format) -> Callable[[], Any]:
    module = FromBytes(net.to(memory_format=layout), layout)  # type: ignore[call-overload]

    def run() -> Any:
        with torch.no_grad():
            return module(sample)[0].numpy()

    return run


def _onnx_files(net: Conv3dS3DG, sample: Tensor, folder: Path) -> Iterator[Path]:
    """The Conv3d network in float32, then in INT8 as ONNX Runtime's own tool makes it."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class OneClip(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.clips = iter([{"clip": sample.numpy()}])

        def get_next(self) -> dict[str, Any] | None:
            return next(self.clips, None)

    whole, quantized = folder / "float.onnx", folder / "int8.onnx"
    module = FromBytes(net, torch.contiguous_format)
    torch.onnx.export(
        module, (sample,), whole, input_names=["clip"], output_names=["logits"], dynamo=True, external_data=False,
        verbose=False,
    )  # fmt: skip
    yield whole
    quantize_static(whole, quantized, OneClip(), quant_format=QuantFormat.QDQ, per_channel=True)
    yield quantized


def _onnx(path: Path, sample: Tensor, threads: int) -> Callable[[], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")  # The others' turns are not ours.
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"clip": sample.numpy()})[0][0]


def pte(net: S3DG, sample: Tensor, precision: Precision, folder: Path) -> Path:
    """A `.pte` file of the network; INT8 of calibration by one clip, which is enough for its time."""
    recogniser = Recogniser(net)
    if precision == "int8":
        graph = pt2e.prepare(pt2e.capture(recogniser, sample), scheme="symmetric", observer="minmax", qat=False)
        pt2e.calibrate(graph, [sample])
        program = pt2e.convert(graph, sample)
    else:
        program = pt2e.export_float(recogniser, sample)
    folder.mkdir()
    return folder / RUNTIME.lower(program, folder, target.load("android"), precision=precision).model


def measure(multiplier: float, clip: Clip, threads: int, repetitions: int) -> Result:
    """Build all forms, check that the float ones agree, and time them; ends the program where they do not."""
    torch.set_num_threads(threads)
    rank4, conv3d = networks(multiplier)
    sample = torch.randint(0, 256, (*clip, 3), dtype=torch.uint8)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        folder = Path(scratch)
        onnx, onnx_int8 = _onnx_files(conv3d, sample, folder)
        files = {ORT: onnx, ORT_INT8: onnx_int8}
        files[PTE] = pte(rank4, sample, "float32", folder / "float32")
        files[PTE_INT8] = pte(rank4, sample, "int8", folder / "int8")
        runs = {
            CONV3D: _torch(conv3d, sample, torch.contiguous_format),
            CONV3D_LAST: _torch(networks(multiplier)[1], sample, torch.channels_last_3d),
            **{name: _onnx(files[name], sample, threads) for name in (ORT, ORT_INT8)},
        }
        for name in (PTE, PTE_INT8):
            runner = stack.enter_context(ExecuTorchRunner(files[name], threads))
            runs[name] = lambda runner=runner: runner.run(sample.numpy())  # type: ignore[misc]
        logits = {name: run() for name, run in runs.items()}
        expected = logits[CONV3D]
        differences = {name: float(abs(got - expected).max() / abs(expected).max()) for name, got in logits.items()}
        worst = max(difference for name, difference in differences.items() if "INT8" not in name)
        if not worst <= RELATIVE_TOLERANCE:
            sys.exit(f"error: the forms differ by {worst:.2g} of the largest logit, so they are not one network")
        times = take_turns(runs, repetitions)
        return Result(
            multiplier=multiplier,
            clip="x".join(map(str, clip)),
            threads=threads,
            forms={
                name: Form(
                    times=Times(ms_p50=np.median(row), ms_p90=np.percentile(row, 90), ms_min=min(row)),
                    size_bytes=files[name].stat().st_size if name in files else None,
                    relative_difference=differences[name],
                )
                for name, row in times.items()
            },
            speed_up={
                name: np.median(np.divide(row, times[PTE_INT8])) for name, row in times.items() if name != PTE_INT8
            },
        )


def clip_from_text(text: str) -> Clip:
    """Read TxHxW. Raises argparse.ArgumentTypeError for anything else."""
    try:
        clip = Clip(*(int(side) for side in text.split("x")))
    except (TypeError, ValueError):
        raise argparse.ArgumentTypeError(f"{text!r} is not TxHxW, as 16x112x112 is") from None
    if min(clip) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} has a number that is not above 0")
    return clip


def arguments_of(
    name: str, description: str | None, repetitions: int, arguments: list[str] | None
) -> argparse.Namespace:
    """Read the command line of a benchmark of networks of several widths."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    parser.add_argument("widths", type=float, nargs="*", default=WIDTHS, help="channel multipliers")
    parser.add_argument("--clip", type=clip_from_text, default=Clip(16, 112, 112), metavar="TxHxW")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=repetitions)
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    return parser.parse_args(arguments)


def of_widths(
    wanted: argparse.Namespace,
    measure: Callable[[float, Clip, int, int], R],
    show: Callable[[R], None],
    runtimes: Sequence[str],
) -> None:
    """Measure and show one width after the other; write all, and the machine, where asked to."""
    started = datetime.now(UTC)
    results = []
    for width in wanted.widths:
        results.append(measure(width, wanted.clip, wanted.threads, wanted.repetitions))
        show(results[-1])
    if wanted.out:
        where = environment(started, runtimes).model_dump(mode="json")
        rows = [result.model_dump(mode="json") for result in results]
        write_json(wanted.out, {"environment": where, "results": rows})


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table, and write JSON where asked to."""
    wanted = arguments_of("network", __doc__, 20, arguments)
    of_widths(wanted, measure, _print, ["executorch", "tensorrt"])


def _print(result: Result) -> None:
    table = columns(("form",), ("p50", "min", "ratio", "MB", "diff"))
    for name, form in result.forms.items():
        size = "-" if form.size_bytes is None else f"{form.size_bytes / 1e6:.2f}"
        faster = f"{result.speed_up[name]:.2f}" if name in result.speed_up else "-"
        times = (f"{form.times.ms_p50:.1f}", f"{form.times.ms_min:.1f}")
        table.add_row(name, *times, faster, size, f"{form.relative_difference:.1e}")
    console = Console(soft_wrap=True)
    console.print(f"\nwidth {result.multiplier:g}, {result.clip}, {result.threads} threads; milliseconds of one clip,")
    console.print(
        "how many times as fast the INT8 .pte is, file, largest difference of a logit in parts of the largest"
    )
    console.print(table)


if __name__ == "__main__":
    main()
