"""Which clips of a set a benchmark measures."""

from collections.abc import Sequence

from d3d_edge.manifest import Clip


def spread(clips: Sequence[Clip], limit: int) -> list[Clip]:
    """At most `limit` clips, each once, evenly spread over all of them."""
    count = min(limit, len(clips))
    return [clips[place * len(clips) // count] for place in range(count)]
