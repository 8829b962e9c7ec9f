"""What a network says of test clips as they are, backwards and shuffled. Trains nothing.

A network that lost its sense of motion may still name the clips of a test split, by looks. Then it answers to clips in
another order as if nothing had happened, and that is where it differs from the network it was made from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from d3d_edge.harness import accuracy
from d3d_edge.harness.accuracy import Logits
from d3d_edge.pipeline.data import RunData
from d3d_edge.pipeline.streams import Stream, counted, evaluate
from d3d_edge.progress import Progress
from d3d_edge.report import REORDERED_CLIPS_MAX
from d3d_edge.video.datasets import ClipDataset
from d3d_edge.video.reorder import Order, ReorderedDataset

ORDERS: tuple[Order, ...] = ("reversed", "shuffled")


def answers(streams: Mapping[str, Stream], data: RunData, progress: Progress) -> dict[str, dict[str, Logits]]:
    """Logits float32 [N, classes] of test clips, by network and order: all of them in the order they have, which is
    '', and those of `reordered_places` in the others."""
    datasets: dict[str, ClipDataset] = {"": data.dataset("test")}
    clips = data.of("test")
    sample = [clips[place] for place in reordered_places(len(clips))]
    for order in ORDERS:
        datasets[order] = ReorderedDataset(
            sample, data.labels, data.recipe.clip, seed=data.recipe.seed, order=order, flow=None
        )
    total = len(streams) * sum(len(dataset) for dataset in datasets.values())
    with progress.task("test clips in three orders", total) as task:
        return {
            name: {order: evaluate(counted(stream, task), dataset, name)[0] for order, dataset in datasets.items()}
            for name, stream in streams.items()
        }


def reordered_places(clips: int) -> list[int]:
    """Which of that many test clips are reordered."""
    count = min(clips, REORDERED_CLIPS_MAX)
    return [place * clips // count for place in range(count)]


def figures(
    logits: Mapping[str, Logits], data: RunData, reference: Mapping[str, Logits] | None = None
) -> dict[str, Any]:
    """The fields of a report's row that the answers in each order give; agreement is with `reference`."""
    labels = data.label_indices("test")
    reordered = labels[reordered_places(len(labels))]
    found: dict[str, Any] = {"clips": len(labels), "top5": accuracy.topk(logits[""], labels, 5)}
    for order in ("", *ORDERS):
        suffix = f"_{order}" if order else ""
        found[f"top1{suffix}"] = accuracy.topk(logits[order], reordered if order else labels, 1)
        if reference is not None:
            found[f"agreement{suffix}"] = accuracy.agreement(logits[order], reference[order])
    if reference is not None:
        found["logit_difference_max"] = accuracy.largest_difference(logits[""], reference[""])
    return found
