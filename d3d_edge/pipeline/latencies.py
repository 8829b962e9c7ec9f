"""How long students of many shapes take on a machine, and which fit a budget. No time is worked out from others.

Each shape is lowered with random weights and timed as `d3d-edge benchmark` times a bundle. What was measured is kept in
the cache, by machine, target, versions and threads, so that asking again takes no time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from d3d_edge import runtimes, transports
from d3d_edge.errors import RecipeError
from d3d_edge.files import sha256_of_value, write_json
from d3d_edge.harness.stopwatch import Plan
from d3d_edge.pipeline import models, students
from d3d_edge.pipeline.benchmark import UNTIMED, benchmark
from d3d_edge.pipeline.devices import HERE, Devices, check
from d3d_edge.pipeline.environment import environment
from d3d_edge.presets import PRESETS, Shape
from d3d_edge.progress import Progress
from d3d_edge.report import Environment, Row
from d3d_edge.runner import Where
from d3d_edge.schema import Schema
from d3d_edge.target import Target

HOST = "host"
"""This machine, in the user's words."""
FRAMES_ENOUGH = 16
"""Networks on fewer frames come last: on gestures, half of these cost more accuracy than pixels could make good
(docs/models.md)."""
PLAN = Plan(runs=50, rounds=5, warmup_runs=5, budget_s=1.0)


class Timed(Schema):
    """One shape, measured."""

    name: str
    """Of the preset that it is; else empty."""
    shape: Shape
    parameters: int
    gmac: float
    size_bytes: int
    """Of the model file."""
    latency_ms_p50: float
    latency_ms_p90: float
    latency_ms_min: float
    runs: int
    busy: str
    """What else the machine did meanwhile, so that the time is not to be trusted; empty where it was quiet."""


class Latencies(Schema):
    """Shapes on one machine."""

    device: str
    """`host` for this machine, else as `--device` names it."""
    where: Where
    runtime: str
    """Name and version of what ran the files."""
    target: str
    threads: int
    """That the runtime was told to use; 0: its own choice."""
    environment: Environment
    """Of the machine that asked, when the first of these was measured."""
    rows: tuple[Timed, ...]

    @property
    def curve(self) -> tuple[Timed, ...]:
        """Rows that differ in frames, pixels and width alone."""
        return tuple(
            row for row in self.rows if row.shape == Shape.of(row.shape.frames, row.shape.side, row.shape.width)
        )

    def within(self, budget_ms: float) -> list[Timed]:
        """Rows that take no longer, the best guess first: with FRAMES_ENOUGH if there are any, then by computation."""
        fitting = [row for row in self.rows if row.latency_ms_p50 <= budget_ms]
        return sorted(fitting, key=lambda row: (row.shape.frames < FRAMES_ENOUGH, -row.gmac, row.latency_ms_p50))


def grid(frames: Iterable[int], sides: Iterable[int], widths: Iterable[float]) -> tuple[Shape, ...]:
    """Every combination, with the stem and first temporal layer of the published network."""
    sides = tuple(sides)
    return tuple(Shape.of(t, side, width) for width in widths for t in frames for side in sides)


def measure(
    shapes: Sequence[Shape],
    target: Target,
    *,
    on: str,
    threads: int,
    cache_dir: Path,
    workers: int,
    again: bool,
    progress: Progress,
) -> Latencies:
    """The times of `shapes` on the machine `on`: `host` (or `local`), or a device as `--device` takes it.

    What was measured before is not measured `again` unless that is asked for; other shapes stay as they are, unless
    something else runs there than ran them: then they are measured again too, or dropped.

    Raises:
        RecipeError: `on` is no device or has no runtime for the target; or a shape has no clip, or names a layer that
            does not exist.
        MissingDependency: the package that lowers, or that runs, is not installed.
        LoweringError: a network cannot be lowered.
        DeviceError: the device failed.
        StorageError: the cache cannot be written.
    """
    if on == HERE:
        on = HOST
    if on != HOST:
        transports.check(on, here=HOST)
    machine = environment(datetime.now(UTC), [target.runtime])
    path = cache_dir / "students" / f"latencies-{_key(target, on, threads, machine)}.json"
    wanted = tuple(dict.fromkeys(shapes))
    for shape in wanted:
        students.clip_of(shape)
        models.spec_of(shape)
    kept = _read(path)
    known = {row.shape: row for row in kept.rows} if kept else {}
    missing = [shape for shape in wanted if again or shape not in known]
    if missing:
        _check(on, missing[0], target, path.parent, progress)

        def timed(some: Sequence[Shape]) -> tuple[dict[Shape, Timed], Row]:
            made = students.bundles(some, target, path.parent, workers=workers, progress=progress)
            paths = [bundle.path for bundle in made.values()]
            report, failed = benchmark(paths, plan=PLAN, threads=threads, progress=progress, devices=_devices(on))
            if failed:
                raise failed[0]
            rows = {row.bundle: row for row in report.rows}
            return {shape: _timed(shape, rows[bundle.path.name]) for shape, bundle in made.items()}, report.rows[0]

        times, first = timed(missing)
        if kept and (kept.where, kept.runtime) != (first.where, first.runtime):
            # Another board answers to that name now, or another version runs there: what is kept is not its.
            known = {}
            if others := [shape for shape in wanted if shape not in times]:
                times |= timed(others)[0]
        if (now := _read(path)) and (now.where, now.runtime) == (first.where, first.runtime):
            known |= {row.shape: row for row in now.rows}  # another command may have added to it meanwhile
        known |= times
        kept = Latencies(
            device=on,
            where=first.where,
            runtime=first.runtime,
            target=target.name,
            threads=threads,
            environment=kept.environment if kept and len(times) < len(known) else machine,
            rows=tuple(known.values()),
        )
        write_json(path, kept.model_dump(mode="json"))
    if kept is None:
        raise RecipeError("there are no shapes to measure")
    return kept.model_copy(update={"rows": tuple(known[shape] for shape in wanted)})


def _devices(on: str) -> Devices:
    return Devices((HERE if on == HOST else on,))


def _check(on: str, shape: Shape, target: Target, folder: Path, progress: Progress) -> None:
    """Whether `on` is there and can run what is lowered to `target`, before all of it is: by the first `shape`."""
    devices = _devices(on)
    runtime = runtimes.get(target.runtime)
    if on == HOST:
        runtime.check_run()
    (bundle,) = students.bundles([shape], target, folder, workers=1, progress=progress).values()
    check([bundle], devices)
    for name in devices.remote:
        with transports.get(name):  # it is reached, or says why not
            pass
    if on == HOST:
        with runtime.open(bundle) as runner:
            if runner.where == Where.REFERENCE_INTERPRETER:
                raise RecipeError(f"{target.name}: {UNTIMED}", hint="name a device with --on, or another --target")


def _key(target: Target, on: str, threads: int, machine: Environment) -> str:
    """Of everything but the shape that a time depends on."""
    fixed = machine.model_dump(mode="json", exclude={"started"})
    return sha256_of_value([target.model_dump(mode="json"), on, threads, fixed])[:16]


def _read(path: Path) -> Latencies | None:
    with suppress(OSError, ValueError):  # pydantic's errors are ValueErrors
        return Latencies.model_validate_json(path.read_text(encoding="utf-8"))
    return None


def _timed(shape: Shape, row: Row) -> Timed:
    network = models.of_shape(shape, students.CLASSES)
    found = row.latency
    if found is None or row.size_bytes is None:
        raise RecipeError(f"{shape} was not timed")
    return Timed(
        name=next((name for name, preset in PRESETS.items() if preset.shape == shape), ""),
        shape=shape,
        parameters=network.parameters,
        gmac=network.gmac,
        size_bytes=row.size_bytes,
        latency_ms_p50=found.latency_ms_p50,
        latency_ms_p90=found.latency_ms_p90,
        latency_ms_min=found.latency_ms_min,
        runs=found.runs,
        busy=found.busy,
    )
