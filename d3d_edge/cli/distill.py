"""d3d-edge distill."""

from __future__ import annotations

from pathlib import Path

import click

from d3d_edge import recipe as recipes
from d3d_edge.cli import options
from d3d_edge.cli.console import TerminalProgress
from d3d_edge.cli.tables import print_report
from d3d_edge.files import in_shell
from d3d_edge.manifest import Source
from d3d_edge.progress import Silent
from d3d_edge.report import FILE_NAME


@click.command("distill")
@click.argument("recipe")
@options.data
@click.option("--out", required=True, type=options.PATH, metavar="RUN", help="The run folder.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a setting, e.g. seed=1.")
@click.option("--resume", is_flag=True, help="Only go on with a run that exists; never begin a new one.")
@click.option(
    "--teacher",
    type=options.PATH,
    metavar="RUN",
    help="Take the flow teacher of another run instead of training it again: same data, same teacher in the recipe.",
)
@options.decoding
def command(
    recipe: str,
    data: Source,
    out: Path,
    settings: tuple[str, ...],
    resume: bool,
    teacher: Path | None,
    cache_dir: Path,
    workers: int,
    strict: bool,
) -> None:
    """Train the flow teacher of RECIPE on DATA, and distil the RGB student from it.

    RECIPE is the name of one that ships (d3d-edge recipes ls) or a file. The same command goes on with a run that was
    interrupted, and keeps what is finished.

    \b
    d3d-edge distill compact --data clips/ --out run
    d3d-edge distill mine.yaml --data clips.csv --out run --set student.train.epochs=100
    d3d-edge distill mine.yaml --data clips.csv --out other --set distill.weight=0.3 --teacher run
    d3d-edge distill compact --data ucfTrainTestlist/ --videos UCF-101/ --fold 1 --out run
    d3d-edge distill compact --data kinetics/annotations/ --videos kinetics/ --out run
    torchrun --nproc-per-node 2 -m d3d_edge distill compact --data clips/ --out run

    The GPU is used where there is one; D3D_EDGE_DEVICE=cpu (or cuda:1) chooses. Under torchrun every process takes
    batch_size clips of each step on a GPU of its own, the first one writes, and a run goes on with as many processes
    as began it. On several machines RUN and the cache must lie on a file system that all of them see.

    Each stage's folder has its curves: log.jsonl, a row an epoch (loss, clips a second, the share of the time in which
    training waited for clips, and in some ten of them top-1 on val clips), and events for `tensorboard --logdir RUN`
    where tensorboard is installed (pip install 'd3d-edge[train]').
    """
    loaded = recipes.load(recipe, settings)
    options.refuse_in_data(data, out=out, cache_dir=cache_dir)
    from d3d_edge.distill import distributed
    from d3d_edge.pipeline.distill import distill

    with distributed.group():
        main = distributed.is_main()
        report = distill(
            loaded,
            data,
            out,
            cache_dir=cache_dir,
            workers=workers,
            strict=strict,
            resume=resume,
            progress=TerminalProgress() if main else Silent(),
            teacher=teacher,
        )
    if main:
        print_report(report, out / FILE_NAME)
        click.echo(f"next: d3d-edge quantize {in_shell(out)}")
