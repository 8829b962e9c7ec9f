"""d3d-edge models: the presets, what a network costs before it is trained, and which fits a budget of time."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import yaml
from rich.console import Console
from rich.table import Table

from d3d_edge import recipe as recipes
from d3d_edge.bundle import check_output
from d3d_edge.cli import options
from d3d_edge.cli.console import TerminalProgress, json_of, plain
from d3d_edge.cli.tables import columns, gmac
from d3d_edge.files import write_text
from d3d_edge.presets import PRESETS

if TYPE_CHECKING:
    from d3d_edge.pipeline.latencies import Latencies, Timed
    from d3d_edge.pipeline.models import Model

KINETICS_CLASSES = 400
"""Classes of Kinetics-400, which published counts of parameters are of."""


TARGET = "android"
FRAMES, SIDES, WIDTHS = (8, 16, 32), (56, 112, 160), (0.25, 0.5)
"""What is measured for a budget, every combination of them, beside the presets."""
_ROWS = 12
"""Networks in the table of a budget; all are in the JSON."""


@click.command("models")
@click.option("--recipe", metavar="RECIPE", help="Show the networks of this recipe, a name or a file, instead.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="With --recipe: a setting to change.")
@click.option(
    "--classes",
    type=click.IntRange(1, 1_000_000),
    default=KINETICS_CLASSES,
    show_default=True,
    help="Classes of the classifier; those of your data decide in training.",
)
@click.option("--budget-ms", type=options.Number(0, min_open=True), help="Propose a student that takes no longer.")
@click.option(
    "--on",
    metavar="host|ssh:USER@HOST|adb[:SERIAL]|ios[:UDID]",
    help="Measure networks on this machine or that device, INT8 with random weights: the curve of latency.",
)
@click.option("--target", default=TARGET, show_default=True, help="With --on: whose runtime is timed.")
@click.option("--frames", type=click.IntRange(1, 512), multiple=True, default=FRAMES, show_default=True)
@click.option("--side", "sides", type=click.IntRange(16, 3584), multiple=True, default=SIDES, show_default=True)
@click.option("--width", "widths", type=options.Number(0, 2, True), multiple=True, default=WIDTHS, show_default=True)
@click.option("--plot", type=options.PATH, metavar="FILE.svg", help="With --on: also draw the curve.")
@click.option("--again", is_flag=True, help="With --on: measure again what was measured before.")
@options.threads
@options.cache
@options.workers
@options.as_json
def command(
    recipe: str | None,
    settings: tuple[str, ...],
    classes: int,
    budget_ms: float | None,
    on: str | None,
    target: str,
    frames: tuple[int, ...],
    sides: tuple[int, ...],
    widths: tuple[float, ...],
    plot: Path | None,
    again: bool,
    threads: int,
    cache_dir: Path,
    workers: int,
    as_json: bool,
) -> None:
    """List the presets, show the networks of a recipe, or find the one that fits a budget of time.

    A preset is a network and a clip size that go together. In a recipe, `preset: NAME` at the top sets both, and
    whatever else the recipe says wins over it.

    Sizes are worked out. With --on times are measured: every combination of --frames, --side and --width, and the
    presets but paper, is lowered and timed there, which takes minutes the first time, and is kept for the next.
    --frames, --side and --width can be given several times.

    \b
    d3d-edge models
    d3d-edge models --recipe mine.yaml --classes 27
    d3d-edge models --recipe compact --set preset=base
    d3d-edge models --budget-ms 30 --on host --threads 2 --plot latency.svg
    """
    if settings and recipe is None:
        raise click.UsageError("--set changes a recipe; name it with --recipe")
    grid = (frames, sides, widths)
    lowered = target != TARGET
    if on is None and (budget_ms or plot or again or threads or lowered or grid != (FRAMES, SIDES, WIDTHS)):
        raise click.UsageError("times are measured, nowhere by default: say where with --on host, or a device")
    if on is not None:
        if classes != KINETICS_CLASSES:
            raise click.UsageError("--classes changes sizes that are worked out; a classifier takes no time")
        if plot and plot.suffix.lower() != ".svg":
            raise click.BadParameter(f"{plot} is no .svg, which is what is drawn.", param_hint="--plot")
        if recipe is not None:
            raise click.UsageError("--on measures presets and combinations of sizes, not a recipe")
        if plot:
            check_output(plot, "--plot")
        found = _measured(on, target, grid, threads, cache_dir, workers, again)
        _show(found, budget_ms, plot, as_json)
        return
    loaded = recipes.load(recipe, settings) if recipe is not None else None
    from d3d_edge.pipeline import models

    sizes = models.of_presets(classes) if loaded is None else models.of_recipe(loaded, classes)
    if as_json:
        click.echo(json_of(sizes))
        return
    print_models(sizes.rows, classes)


def _measured(
    on: str,
    target: str,
    sizes: tuple[tuple[int, ...], tuple[int, ...], tuple[float, ...]],
    threads: int,
    cache_dir: Path,
    workers: int,
    again: bool,
) -> Latencies:
    """The times of the presets, but of the one that is too large for a phone, and of every combination of `sizes`."""
    from d3d_edge import target as targets
    from d3d_edge.pipeline import latencies

    presets = [preset.shape for name, preset in PRESETS.items() if name != "paper"]
    return latencies.measure(
        [*presets, *latencies.grid(*sizes)],
        targets.load(target),
        on=on,
        threads=threads,
        cache_dir=cache_dir,
        workers=workers,
        again=again,
        progress=TerminalProgress(),
    )


def _show(found: Latencies, budget_ms: float | None, plot: Path | None, as_json: bool) -> None:
    if plot:
        from d3d_edge.page.curves import Place, latency_curves

        places = [Place(row.shape.frames, row.shape.side, row.shape.width, row.latency_ms_p50) for row in found.curve]
        write_text(plot, latency_curves(f"One clip, INT8, {_place(found)}", places, budget_ms))
    fitting = found.rows if budget_ms is None else found.within(budget_ms)
    if as_json:
        proposed = fitting[0].model_dump(mode="json") if budget_ms is not None and fitting else None
        whole = {"budget_ms": budget_ms, "proposed": proposed, **found.model_dump(mode="json")}
        click.echo(json.dumps(whole, indent=2))
        return
    print_latencies(found, fitting, budget_ms)
    if plot:
        click.echo(f"wrote {plot}")


def print_latencies(found: Latencies, fitting: Sequence[Timed], budget_ms: float | None) -> None:
    """Print the rows of `fitting`, the best first, what to write into a recipe, and where it was measured."""
    console = plain(soft_wrap=True)
    if not fitting:
        fastest = min(found.rows, key=lambda row: row.latency_ms_p50)
        console.print(f"none takes {budget_ms:g} ms; the fastest is {fastest.shape}, {fastest.latency_ms_p50:.2f} ms")
    else:
        shown = fitting if budget_ms is None else fitting[:_ROWS]
        console.print(_table(shown), crop=False)
        if len(shown) < len(fitting):
            console.print(f"and {len(fitting) - len(shown)} smaller ones")
        if slower := len(found.rows) - len(fitting):
            console.print(f"measured beside them, and slower than that: {slower}")
        if budget_ms is not None:
            _print_proposal(fitting[0], budget_ms, console)
    console.print(f"milliseconds of one clip, INT8, measured {_place(found)}, {found.environment.started}")
    if busy := sum(bool(row.busy) for row in found.rows):
        console.print(
            f"others kept the machine busy while {busy} of {len(found.rows)} were timed: not to be trusted "
            "(--again measures again)"
        )


def _table(rows: Sequence[Timed]) -> Table:
    table = columns(("clip", "width", "temporal from", "stem", "preset"), ("p50", "p90", "GMAC", "MB"))
    for row in rows:
        shape = row.shape
        table.add_row(
            f"{shape.frames}x{shape.side}x{shape.side}",
            f"{shape.width:g}",
            shape.temporal_from,
            shape.stem.removeprefix("conv3d_"),
            row.name,
            *(f"{time:.2f}" for time in (row.latency_ms_p50, row.latency_ms_p90)),
            gmac(row.gmac),
            f"{row.size_bytes / 1e6:.2f}",
        )
    return table


def _print_proposal(row: Timed, budget_ms: float, console: Console) -> None:
    from d3d_edge.pipeline import latencies

    shape, name = row.shape, f" ({row.name})" if row.name else ""
    console.print(
        f"proposed for {budget_ms:g} ms: {shape.frames}x{shape.side}x{shape.side}, width {shape.width:g}{name}, "
        f"{row.latency_ms_p50:.2f} ms: of those with {latencies.FRAMES_ENOUGH} frames or more, "
        "or else of all, what computes most. A recipe of it, which keeps all else that the one it extends says:"
    )
    # No `preset`, which the sizes of the extended recipe would win over.
    console.print("  extends: compact  # or the file of your own, where that extends none\n  name: mine")
    console.print(f"  clip: {_in_yaml(shape.settings['clip'])}")
    console.print(f"  teacher: {{network: &network {_in_yaml(shape.network)}}}\n  student: {{network: *network}}")
    console.print("what is most accurate depends on your clips too: docs/models.md has what was tried on one set")


def _in_yaml(settings: Mapping[str, object]) -> str:
    return yaml.safe_dump(settings, default_flow_style=True, sort_keys=False, width=math.inf).strip()


def _place(found: Latencies) -> str:
    threads = f"{found.threads or 'default'} threads"
    place = f"this host ({found.environment.kind})" if found.device == "host" else found.device
    return f"on {place} by {found.runtime}, {threads}"


def print_models(rows: Sequence[Model], classes: int) -> None:
    """Print a table that fits 80 columns, what each row is, and what the columns count."""
    table = columns(("model", "one clip"), ("params M", "GMAC", "act MB", "act int8 MB", "weights int8 MB"))
    for row in rows:
        sizes = (row.activation_float32_bytes, row.activation_int8_bytes, row.weights_int8_bytes)
        table.add_row(
            row.name,
            f"{row.input} {row.frames}x{row.height}x{row.width}",
            f"{row.parameters / 1e6:.2f}",
            gmac(row.gmac),
            *(f"{size / 1e6:.2f}" for size in sizes),
        )
    console = plain(soft_wrap=True)
    console.print(table, crop=False)
    for row in rows:
        network = row.network
        widths = " ".join(filter(None, (f"{network.width:g}", str(network.stage_widths))))
        what = f"width {widths}, stem {network.stem}, temporal from {network.temporal_from}"
        what += "" if network.gating else ", no gates"
        console.print(f"{row.name}: {what}; {row.description}")
    notes = (
        "",
        f"params and weights: with {classes} classes; GMAC: of one clip; weights: kernels, folded biases and scales",
        "act: the most memory that activations need at once, float32 and INT8, the clip included; batch norms and",
        "ReLUs belong to their convolutions; weights and a runtime's own buffers come on top",
        "all worked out, nothing measured: --on host measures times, and d3d-edge benchmark those of bundles",
    )
    for note in notes:
        console.print(note)
