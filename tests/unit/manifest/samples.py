"""Manifests of any kind, for properties."""

from __future__ import annotations

from hypothesis import strategies as st

from d3d_edge.manifest import Clip, Manifest

NAMES = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="/"), min_size=1, max_size=8).filter(
    lambda name: name not in (".", "..")
)


@st.composite
def manifests(draw: st.DrawFn, *, with_splits: bool) -> Manifest:
    """Any manifest that `load` could give: two or more classes, paths all different, groups in one split."""
    labels = draw(st.lists(NAMES, min_size=2, max_size=4, unique=True))
    groups = draw(st.lists(NAMES, min_size=2, max_size=12, unique=True))
    split_of = {group: draw(st.sampled_from(["train", "val", "test"])) if with_splits else "" for group in groups}
    clips = []
    for index in range(draw(st.integers(len(labels), 24))):
        group = draw(st.sampled_from(groups))
        path = f"/data/{draw(NAMES)}/{index} {draw(NAMES)}.mp4"
        start_s = draw(st.none() | st.floats(0, 1e4))
        end_s = draw(st.none() | st.floats(0.001, 1e4).map(lambda length, start_s=start_s: (start_s or 0) + length))
        label = labels[index % len(labels)]
        split = split_of[group]
        clips.append(Clip(path=path, label=label, split=split, group=group, start_s=start_s, end_s=end_s))  # type: ignore[arg-type]
    return Manifest(clips=tuple(clips))
