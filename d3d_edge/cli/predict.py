"""d3d-edge predict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from d3d_edge.cli import options
from d3d_edge.cli.console import json_of

if TYPE_CHECKING:
    from d3d_edge.pipeline.predict import Answer
    from d3d_edge.pipeline.watch import Wanted
    from d3d_edge.pipeline.watched import Moment, Watched

_SECONDS = options.Number(0.02, 600)


@click.command("predict")
@click.argument("bundle", type=options.PATH)
@click.argument("source", metavar="SOURCE")
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="Classes to name.")
@click.option(
    "--overlay",
    type=options.PATH,
    metavar="FILE",
    help="Write the video with the answers drawn on it, each frame of a file with that of the window around it, of a "
    "live source with the last: .mp4, .mov, .mkv, .avi, or .webm, which browsers play.",
)
@click.option(
    "--timeline", type=options.PATH, metavar="PNG", help="Draw the scores of the likeliest classes over time."
)
@click.option(
    "--window",
    "window_s",
    type=_SECONDS,
    metavar="SECONDS",
    help="Length of a window, for a bundle with uniform sampling. Default: the median length of the videos it was "
    "trained on, since their frames were taken from the whole of each; 2 if the bundle does not say. With dense "
    "sampling the bundle sets it.",
)
@click.option(
    "--stride", "stride_s", type=_SECONDS, metavar="SECONDS", help="From one window to the next. Default: 0.25."
)
@click.option("--seconds", type=options.Number(0, min_open=True), help="Stop there. Default: at the end, or Ctrl-C.")
@options.threads
@options.as_json
def command(
    bundle: Path,
    source: str,
    top: int,
    overlay: Path | None,
    timeline: Path | None,
    window_s: float | None,
    stride_s: float | None,
    seconds: float | None,
    threads: int,
    as_json: bool,
) -> None:
    """Name the action in SOURCE with any BUNDLE: a video file, the number of a camera, or the URL of a stream.

    All that is needed (sampling, size, labels) is in the bundle. A file gets one answer, for the whole of it. A camera
    or stream is answered for window by window, as it goes, until Ctrl-C; so is a file with one of --overlay,
    --timeline, --window, --stride and --seconds. With --json, each window is then a line of JSON, and the last line
    sums them up.

    \b
    d3d-edge predict bundles/android clip.mp4
    d3d-edge predict bundles/android match.mp4 --overlay out.mp4 --timeline out.png
    d3d-edge predict bundles/android 0
    d3d-edge predict bundles/android rtsp://10.0.0.5/live --seconds 60
    """
    from d3d_edge.video.stream import Source

    found = Source.of(source)
    if found.live or overlay or timeline or window_s or stride_s or seconds:
        from d3d_edge.pipeline.watch import Wanted

        wanted = Wanted(
            source=found,
            top=top,
            threads=threads,
            window_s=window_s,
            stride_s=stride_s,
            seconds=seconds,
            overlay=overlay,
            timeline=timeline,
        )
        _over_time(bundle, wanted, as_json=as_json)
    else:
        _once(bundle, Path(source), top=top, threads=threads, as_json=as_json)


def _once(bundle: Path, video: Path, *, top: int, threads: int, as_json: bool) -> None:
    """One answer for a whole file."""
    from d3d_edge.pipeline.predict import predict

    found = predict(bundle, video, top=top, threads=threads)
    if as_json:
        click.echo(json_of(found))
        return
    width = min(40, max(len(answer.label) for answer in found.answers))  # one long name need not widen all rows
    for answer in found.answers:
        click.echo(f"{answer.label:<{width}}  {answer.probability:6.1%}")
    times = f"open {found.open_ms:.0f} ms, decode {found.decode_ms:.1f} ms, network {found.network_ms:.1f} ms"
    click.echo(
        f"{times}: {found.end_to_end_fps:.0f} frames/s of {found.frames} frames ({found.where}: {found.runtime})"
    )
    for note in found.notes:
        click.echo(f"note: {note}")


def _over_time(bundle: Path, wanted: Wanted, *, as_json: bool) -> None:
    """An answer for each window."""
    from d3d_edge.pipeline.watch import watch

    def tell(moment: Moment) -> None:
        line = json_of(moment, indent=None) if as_json else f"{_span(moment)}  {_line(moment.answers)}"
        click.echo(line)

    def end(found: Watched) -> None:
        for line in [json_of(found, indent=None, exclude={"moments"})] if as_json else _summary(found, wanted):
            click.echo(line)

    watch(bundle, wanted, tell, end)


def _span(moment: Moment) -> str:
    return f"{moment.start_s:7.2f} to {moment.end_s:.2f} s"


def _line(answers: Sequence[Answer]) -> str:
    first, *others = (f"{answer.label} {answer.probability:.1%}" for answer in answers)
    return first + (f"  ({', '.join(others[:2])})" if others else "")


def _counted(windows: int) -> str:
    return f"{windows} window{'s' * (windows != 1)}"


def _summary(found: Watched, wanted: Wanted) -> list[str]:
    why = {"seconds": f", stopped after {found.source_s:.1f} s", "interrupted": ", stopped"}.get(found.ended, "")
    lines = [
        f"{_counted(found.windows)} of {found.window_s:.2f} s every {found.stride_s:g} s ({found.sampling} sampling)"
        + why,
        f"end to end {found.end_to_end_fps:.1f} frames/s of {found.frames} frames: decode {found.decode_ms:.2f} ms and "
        f"preprocess {found.preprocess_ms:.2f} ms a frame, network {found.network_ms:.1f} ms a window "
        f"({found.where}: {found.runtime})",
    ]
    if wanted.source.live:
        lines.append("waiting for the next frame counts as decoding")
    if found.left_out:
        lines.append(f"{_counted(found.left_out)} left out, to keep up or for want of frames")
    lines += [f"note: {note}" for note in found.notes]
    return lines + [f"wrote {path}" for path in (wanted.overlay, wanted.timeline) if path]
