"""What the videos were like that a run was trained on, as an app that feeds its network has to know."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median

from d3d_edge.errors import DataError
from d3d_edge.manifest import Clip
from d3d_edge.runs import Run
from d3d_edge.schema import Schema
from d3d_edge.video.container import declared_length_s, frame_rate_hz

NAME = "videos"
"""In the student's done.json."""
_HEADERS_READ = 64


class Videos(Schema):
    """Medians of the training videos; None where none of those that were looked at says."""

    length_s: float | None
    rate_hz: float | None
    """Frames a second."""


def looked_at(run: Run) -> Videos:
    """From the headers of some of the training videos."""
    clips = run.data.of("train")
    some = clips[:: max(1, -(-len(clips) // _HEADERS_READ))]
    return Videos(length_s=_median(some, _length_s), rate_hz=_median(some, _rate_hz))


def trained_on(run: Run) -> Videos:
    """As `looked_at` when the student was trained; its videos may be away since. Older versions did not look then."""
    kept = (run.results("student") or {}).get(NAME)
    return looked_at(run) if kept is None else Videos.model_validate(kept)


def _length_s(clip: Clip) -> float:
    ends_s = (declared_length_s(Path(clip.path)) or None, clip.end_s)  # a list may end behind the video
    return min((end_s for end_s in ends_s if end_s), default=0.0) - (clip.start_s or 0.0)


def _rate_hz(clip: Clip) -> float:
    return frame_rate_hz(Path(clip.path))


def _median(clips: tuple[Clip, ...], measure: Callable[[Clip], float]) -> float | None:
    found = []
    for clip in clips:
        with suppress(DataError):
            found.append(measure(clip))
    found = [value for value in found if value > 0]
    return round(median(found), 3) if found else None
