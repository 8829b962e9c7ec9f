"""d3d-edge prepare."""

from __future__ import annotations

from pathlib import Path

import click

from d3d_edge import recipe as recipes
from d3d_edge.cli import options
from d3d_edge.cli.console import TerminalProgress, json_of
from d3d_edge.manifest import Source


@click.command("prepare")
@options.data_argument
@click.option("--recipe", required=True, metavar="NAME|FILE", help="Whose clips: d3d-edge recipes ls, or a file.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a setting, e.g. clip.frames=32.")
@click.option("--compress", is_flag=True, help="Write new entries as lossless pictures: about half the bytes.")
@click.option(
    "--engine",
    default="processes",
    show_default=True,
    metavar="NAME",
    help="Who works: processes (of this machine), ray (a Ray started here), ray:ADDRESS (a cluster; 'ray:auto').",
)
@click.option(
    "--verify", is_flag=True, help="Also read all videos and entries that are there, and make damaged ones anew."
)
@options.decoding
@options.as_json
def command(
    data: Source,
    recipe: str,
    settings: tuple[str, ...],
    compress: bool,
    engine: str,
    verify: bool,
    cache_dir: Path,
    workers: int,
    strict: bool,
    as_json: bool,
) -> None:
    """Decode the clips of DATA into the cache and compute their flow, ahead of training.

    DATA is what --data is elsewhere: a folder per class, or such folders in train, val and test; a CSV
    path,label,split[,group][,start_s,end_s]; the folder of the split files of UCF101 or HMDB51; or a Kinetics CSV or a
    folder of such. In UCF101 the groups of the file names are kept apart. Kinetics files may be cut
    (ID_000010_000020.mp4) or whole (ID.mp4); where the list has no rows of the split test, those of val are the test
    clips. Files that are missing are skipped and counted.

    First it says how large the cache becomes, raw and compressed, and stops if that does not fit. A run that was
    interrupted goes on where it stood. Training with the same recipe and --cache then starts at once. Compressed
    entries give the same bits, take some forty times as long to read, and so may leave a GPU waiting. Training checks
    what it reads, and stops at an entry that a disk has changed; --verify finds and mends all of them at once.

    \b
    d3d-edge prepare clips/ --recipe compact --cache /data/cache
    d3d-edge prepare clips/ --recipe compact --cache /data/cache --verify
    d3d-edge prepare ucfTrainTestlist/ --videos UCF-101/ --fold 2 --recipe compact --compress
    d3d-edge prepare kinetics/annotations/ --videos kinetics/ --recipe compact --engine ray:auto --json
    """
    loaded = recipes.load(recipe, settings)
    options.refuse_in_data(data, cache_dir=cache_dir)
    from d3d_edge.pipeline.prepare import gigabytes, prepare

    report = prepare(
        loaded,
        data,
        cache_dir,
        form="compressed" if compress else "raw",
        workers=workers,
        engine=engine,
        verify=verify,
        strict=strict,
        progress=TerminalProgress(),
    )
    if as_json:
        click.echo(json_of(report))
        return
    click.echo(
        f"{report.clips} clips ready ({report.computed} new), {len(report.skipped)} skipped, "
        f"{gigabytes(report.size_bytes)} in {report.cache}"
    )
    if report.computed:
        click.echo(
            f"{report.decoded_frames} frames decoded in {report.seconds:.1f} s: {report.frames_per_s:.0f} frames/s"
        )
