"""Which clips the check of motion reorders."""

from __future__ import annotations

from itertools import pairwise

import pytest

from d3d_edge.pipeline.motion import reordered_places
from d3d_edge.report import REORDERED_CLIPS_MAX


@pytest.mark.parametrize("clips", [1, 2, REORDERED_CLIPS_MAX])
def test_all_clips_of_a_small_split_are_reordered(clips: int) -> None:
    assert reordered_places(clips) == list(range(clips))


@pytest.mark.parametrize("clips", [REORDERED_CLIPS_MAX + 1, 140, 20_000])
def test_of_a_large_one_so_many_are_evenly_spread(clips: int) -> None:
    places = reordered_places(clips)
    assert len(set(places)) == REORDERED_CLIPS_MAX
    assert places[0] == 0
    gaps = {after - before for before, after in pairwise(places)}
    assert max(gaps) - min(gaps) <= 1
    assert clips - places[-1] <= max(gaps) + 1
