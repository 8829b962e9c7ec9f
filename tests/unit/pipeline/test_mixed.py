"""The smallest number of groups in float, searched by halves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from d3d_edge.pipeline.mixed import fewest


@given(most=st.integers(1, 300), needed=st.integers(1, 400))
def test_the_fewest_are_found_with_few_trials(most: int, needed: int) -> None:
    tried: list[int] = []

    def holds(count: int) -> bool:
        tried.append(count)
        return count >= needed

    assert fewest(most, holds) == (needed if needed <= most else None)
    assert len(tried) <= 2 * most.bit_length() + 1
    assert all(1 <= count <= most for count in tried)
