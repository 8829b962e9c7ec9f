"""How long the device of a training has nothing to do because its next batch is not there. Reads no data itself."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import torch

from d3d_edge.video.datasets import Batch


class Waiting:
    """The wait for batches, added up over an epoch.

    A CPU waits as long as the next batch takes. A GPU works on what it was given meanwhile, and waits only once that is
    done: its own clock tells.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cpu_s = 0.0
        self.clips = 0
        """Clips that came."""
        self._spans: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def over(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """`batches`, the wait for each measured."""
        iterator = iter(batches)
        while True:
            asked_s, asked = time.perf_counter(), self._now()
            batch = next(iterator, None)
            if batch is None:
                return
            self._cpu_s += time.perf_counter() - asked_s
            self.clips += len(batch.label)
            if asked and (came := self._now()):
                self._spans.append((asked, came))
            yield batch

    def seconds(self) -> float:
        """The wait so far. A GPU is waited for until it has done all it was given."""
        if self._device.type != "cuda":
            return self._cpu_s
        torch.cuda.synchronize(self._device)
        return float(sum(asked.elapsed_time(came) for asked, came in self._spans)) / 1e3

    def _now(self) -> torch.cuda.Event | None:
        if self._device.type != "cuda":
            return None
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event
