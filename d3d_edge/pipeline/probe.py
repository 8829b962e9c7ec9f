"""d3d-edge probe: how much of motion the features of a run's networks hold, and how much their answers hang on it.

After the first experiment of D3D (Stroud et al., arXiv 1812.08249): a network is frozen, and a decoder without kernels
in time learns optical flow from its features. Changes no other stage of the run.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from d3d_edge.distill import distributed
from d3d_edge.errors import RecipeError
from d3d_edge.files import check_writable, read_json, write_json
from d3d_edge.harness import accuracy
from d3d_edge.models.count import parameter_count
from d3d_edge.models.decoder import DECODER_WIDTH
from d3d_edge.pipeline import decoding, marks
from d3d_edge.pipeline.alone import at_work_alone
from d3d_edge.pipeline.data import RunData, prepare
from d3d_edge.pipeline.decoding import READ, Fields, Network, Probed
from d3d_edge.pipeline.environment import environment
from d3d_edge.pipeline.motion import ORDERS
from d3d_edge.pipeline.streams import counted, top1
from d3d_edge.progress import Progress
from d3d_edge.recipe import TrainSpec
from d3d_edge.report import FILE_NAME, Environment
from d3d_edge.runs import Run, Stage, fingerprint
from d3d_edge.schema import Schema
from d3d_edge.video.arrays import write_picture
from d3d_edge.video.datasets import ClipDataset
from d3d_edge.video.flow_figure import Shown, figure
from d3d_edge.video.reorder import ReorderedDataset

FIGURE_NAME = "flow.png"
NAMES: dict[Probed, str] = {"spatial": "RGB stream", "student": "D3D student", "teacher": "flow stream"}
"""What may be probed, as it is called in tables."""
_STAGES: dict[Probed, Stage] = {"spatial": "probe/spatial", "student": "probe/student", "teacher": "probe/teacher"}
_FIGURE_ROWS = 6
_FORMAT = 1
"""Raised when the same specs would give other figures, so that finished stages are made again."""


class ProbeRow(Schema):
    """One network of the run."""

    name: str
    stage: Probed
    sees: Literal["RGB", "flow"]
    epe_px: float
    """Mean end-point error of the flow decoded from its features, in pixels of the resized frame."""
    top1: float
    """Share of test clips named rightly, 0 to 1."""
    top1_reversed: float
    """The same for clips whose frames come last to first; flow is computed anew."""
    top1_shuffled: float
    """The same for clips whose frames come in a random order; flow is computed anew."""
    decoder_parameters: int


class ProbeReport(Schema):
    """RUN/probe/report.json."""

    format: Literal["d3d-edge probe"] = "d3d-edge probe"
    format_version: Literal[1] = 1
    title: str
    split: str
    clips: int
    """Clips measured on."""
    classes: int
    chance: float
    """Top-1 of always naming the commonest class of those clips."""
    end_points: tuple[str, ...]
    """Layers that the decoder reads."""
    epochs: int
    """Of each decoder's training."""
    flow_frames: tuple[int, ...]
    """For each step of decoded flow, the frame whose flow to the next one it is compared with, counted from 0."""
    flow_size: tuple[int, int]
    """Rows and columns of decoded flow. The reference is averaged down to it; its unit stays the frame's pixel."""
    zero_epe_px: float
    """Error of guessing no motion: the mean length of the reference."""
    mean_epe_px: float
    """Error of guessing the mean vector of the training split everywhere."""
    rows: tuple[ProbeRow, ...]
    missing: tuple[Probed, ...]
    """Stages that the run does not have, or has not finished."""
    notes: tuple[str, ...] = ()
    environment: Environment


@at_work_alone
def probe(
    run: Run, *, epochs: int, out: Path | None, cache_dir: Path, workers: int, strict: bool, progress: Progress
) -> ProbeReport:
    """Probe each finished network of `run`, and write report.json and flow.png to `out`, or to RUN/probe.

    Decoders are stages of the run, RUN/probe/STAGE: a finished one is kept, and one that was killed goes on.

    Raises:
        RecipeError: `out` has a report of something else, or there is no such device as $D3D_EDGE_DEVICE names.
        DataError: no network of the run is trained, or the data cannot be used.
        StorageError: something cannot be written.
    """
    started = datetime.now(UTC)
    place = out or run.path / "probe"
    _refuse_other_report(place / FILE_NAME)
    if out and (out / FIGURE_NAME).exists() and not (out / FILE_NAME).exists():
        raise RecipeError(f"{out / FIGURE_NAME} is no picture of probe", hint="choose another folder with --out")
    networks = [network for source in NAMES if (network := Network.of(run, source))]
    if not networks:
        run.need("student")
    missing = tuple(source for source in NAMES if source not in {network.source for network in networks})
    for source in missing:
        why = f"{run.folder(source)} is not there, not finished, or of single frames"
        progress.note(f"{NAMES[source]}: not probed, since {why}")
    distributed.device()  # a wrong one is told before any clip is decoded
    check_writable(place / FILE_NAME)
    data = prepare(run, cache_dir, workers=workers, strict=strict, progress=progress)
    notes = marks.notes_on_tests(run, [network.source for network in networks], data)
    for note in notes:
        progress.note(note)
    fields = Fields.of(run, networks[0])
    guesses = _guesses(run, data, fields)
    spec = decoding.train_spec(epochs)
    report = ProbeReport(
        title=run.recipe.name,
        split="test",
        clips=len(data.of("test")),
        classes=len(data.labels),
        chance=accuracy.chance(data.label_indices("test")),
        end_points=READ,
        epochs=epochs,
        flow_frames=tuple(range(0, run.recipe.clip.frames, fields.stride)),
        flow_size=fields.size,
        zero_epe_px=guesses["zero_epe_px"],
        mean_epe_px=guesses["mean_epe_px"],
        rows=tuple(_row(run, data, network, fields, spec, progress) for network in networks),
        missing=missing,
        notes=notes,
        environment=environment(started, ()),
    )
    figure = _figure(run, data, networks, fields, report)
    write_json(place / FILE_NAME, report.model_dump(mode="json"))  # first: beside it, the picture is known for its own
    write_picture(place / FIGURE_NAME, figure)
    return report


def _refuse_other_report(path: Path) -> None:
    """A report of training or validation has the same name, and is not to be lost."""
    try:
        found = read_json(path)
    except FileNotFoundError:
        return
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or found.get("format") != ProbeReport.model_fields["format"].default:
        raise RecipeError(f"{path} is a report of something else", hint="choose another folder with --out")


def _guesses(run: Run, data: RunData, fields: Fields) -> dict[str, Any]:
    """The errors of the two guesses that look at nothing."""
    parts = [part.model_dump(mode="json") for part in (run.recipe.clip, run.recipe.flow)]
    mark = fingerprint("probe", _FORMAT, data.content(), parts, fields.stride, fields.size)
    done = run.results("probe", mark)
    if done is None:
        test = data.dataset("test")
        mean = decoding.mean_vector(fields, data.dataset("train"))
        done = {
            "zero_epe_px": decoding.epe_px(lambda batch: torch.zeros(1, 2, 1, 1), fields, test),
            "mean_epe_px": decoding.epe_px(lambda batch: mean, fields, test),
        }
        run.finish("probe", mark, **done)
    return done


def _row(run: Run, data: RunData, network: Network, fields: Fields, spec: TrainSpec, progress: Progress) -> ProbeRow:
    """Probe one network, unless that is done, and give its row."""
    name, stage = NAMES[network.source], _STAGES[network.source]
    mark = fingerprint(stage, _FORMAT, network.mark, data.content(), READ, DECODER_WIDTH, spec.model_dump(mode="json"))
    done = run.results(stage, mark)
    if done is None:
        began = time.monotonic()
        run.begin(stage)
        decoder = decoding.trained(run, data, network, fields, run.folder(stage), mark, spec, progress)
        done = {
            "epe_px": decoding.epe_px(decoding.decoded(network, decoder), fields, data.dataset("test")),
            "decoder_parameters": parameter_count(decoder),
            **_top1(run, data, network, progress),
            "seconds": round(time.monotonic() - began, 1),
        }
        run.finish(stage, mark, **done)
        progress.note(f"{name}: end-point error {done['epe_px']:.3f} px -> {run.folder(stage)}")
    else:
        progress.note(f"{name}: finished before, end-point error {done['epe_px']:.3f} px -> {run.folder(stage)}")
    figures = {key: value for key, value in done.items() if key in ProbeRow.model_fields}
    return ProbeRow(name=name, stage=network.source, sees="flow" if network.source == "teacher" else "RGB", **figures)


def _top1(run: Run, data: RunData, network: Network, progress: Progress) -> dict[str, float]:
    """Top-1 on the test clips as they are, backwards, and shuffled."""
    flow = run.recipe.flow if network.source == "teacher" else None
    datasets: dict[str, ClipDataset] = {"top1": data.dataset("test")}
    for order in ORDERS:
        datasets[f"top1_{order}"] = ReorderedDataset(
            data.of("test"), data.labels, run.recipe.clip, seed=run.recipe.seed, order=order, flow=flow
        )
    with progress.task(f"frames in another order, {network.source}", len(datasets) * len(data.of("test"))) as task:
        outputs = counted(network.outputs, task)
        return {name: top1(outputs, dataset, network.source) for name, dataset in datasets.items()}


@torch.no_grad()
def _figure(
    run: Run, data: RunData, networks: Sequence[Network], fields: Fields, report: ProbeReport
) -> NDArray[np.uint8]:
    """Decoded flow beside its reference at the middle step of some test clips, spread over the classes."""
    test = data.dataset("test")
    decoders = [decoding.load(run, network, run.folder(_STAGES[network.source])) for network in networks]
    step = len(report.flow_frames) // 2
    rows = []
    for index in np.unique(np.linspace(0, len(test) - 1, _FIGURE_ROWS).round().astype(int)).tolist():
        batch = test.batch([index])
        flows = [fields.reference(batch)]
        flows += [
            decoding.decoded(network, decoder)(batch) for network, decoder in zip(networks, decoders, strict=True)
        ]
        rows.append(
            Shown(
                label=test.clips[index].clip.label,
                frame=batch.clip[0, report.flow_frames[step]].numpy(),
                fields=[flow[step].permute(1, 2, 0).cpu().numpy() for flow in flows],
            )
        )
    lengths = np.concatenate([np.hypot(*np.moveaxis(row.fields[0], -1, 0)).ravel() for row in rows])
    titles = [("frame", ""), ("reference", "zero: " + _px(report.zero_epe_px))]
    titles += [(row.name, _px(row.epe_px)) for row in report.rows]
    # A hand is a small part of a frame, and a few vectors far longer than the rest would leave the rest pale.
    return figure(rows, titles, max(float(np.percentile(lengths, 95)), 1.0))


def _px(epe_px: float) -> str:
    return f"{epe_px:.3f} px"
