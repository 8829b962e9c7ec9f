"""Splits keep groups whole and classes balanced, and prove something."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d3d_edge.errors import DataError
from d3d_edge.manifest import Clip, Manifest, Split, with_split
from tests.unit.manifest.samples import manifests


class TestSplit:
    def numbered(self, classes: int, groups: int, clips_of_group: int = 1) -> Manifest:
        return Manifest(
            clips=tuple(
                Clip(path=f"/{label}/{group}/{n}.mp4", label=f"class {label}", split="", group=f"{label}-{group}")
                for label in range(classes)
                for group in range(groups)
                for n in range(clips_of_group)
            )
        )

    @given(
        classes=st.integers(2, 4),
        groups=st.integers(2, 12),
        size=st.integers(1, 3),
        val_share=st.floats(0, 0.49),
        test_share=st.floats(0.01, 0.49),
        seed=st.integers(),
    )
    def test_groups_stay_whole_and_every_class_is_trained_and_tested(
        self, classes: int, groups: int, size: int, val_share: float, test_share: float, seed: int
    ) -> None:
        manifest = self.numbered(classes, groups, size)
        drawn = with_split(manifest, val_share=val_share, test_share=test_share, seed=seed)
        assert [clip.model_copy(update={"split": ""}) for clip in drawn.clips] == list(manifest.clips)
        splits_of_group = {(clip.group, clip.split) for clip in drawn.clips}
        assert len(splits_of_group) == classes * groups, "a group is in one split only"
        for label in drawn.labels:
            per_split = Counter(clip.split for clip in drawn.clips if clip.label == label)
            assert per_split["train"] >= size
            assert per_split["test"] >= size
            assert abs(per_split["test"] / size - test_share * groups) <= 1, "stratified: each class has its share"

    @given(
        sizes=st.lists(st.lists(st.integers(8, 12), min_size=3, max_size=3), min_size=3, max_size=20),
        val_share=st.floats(0, 0.3),
        test_share=st.floats(0.1, 0.3),
        seed=st.integers(),
    )
    def test_people_who_act_out_all_classes_are_shared_out_by_their_clips(
        self, sizes: list[list[int]], val_share: float, test_share: float, seed: int
    ) -> None:
        clips = [
            Clip(path=f"/{person}/{label}/{n}.mp4", label=f"class {label}", split="", group=f"person {person}")
            for person, counts in enumerate(sizes)
            for label, count in enumerate(counts)
            for n in range(count)
        ]
        drawn = with_split(Manifest(clips=tuple(clips)), val_share=val_share, test_share=test_share, seed=seed)
        assert len({(clip.group, clip.split) for clip in drawn.clips}) == len(sizes), "a person is in one split only"
        most = 1.5 / len(sizes)  # of a person's share of all clips, who may have half as many again as another
        assert abs(len(drawn.of("test")) / len(clips) - test_share) <= most
        assert abs(len(drawn.of("val")) / len(clips) - val_share * len(_rest(drawn)) / len(clips)) <= most
        assert bool(drawn.of("val")) == bool(val_share)
        assert {clip.label for clip in drawn.of("train")} == set(drawn.labels)

    @given(groups=st.integers(2, 4), seed=st.integers())
    def test_a_class_with_few_groups_beside_people_of_several_classes_is_tested(self, groups: int, seed: int) -> None:
        clips = [
            Clip(path=f"/{label}/{group}.mp4", label=f"class {label}", split="", group=f"{label} {group}")
            for label in range(3)
            for group in range(groups)
        ]
        clips += [clip.model_copy(update={"path": f"{clip.path}.mp4", "group": "a person"}) for clip in clips[:2]]
        clips += [clip.model_copy(update={"path": f"/b{clip.path}", "group": "a person"}) for clip in clips[-1:]]
        clips += [Clip(path="/c.mp4", label="class 1", split="", group="a person")]
        drawn = with_split(Manifest(clips=tuple(clips)), val_share=0.1, test_share=0.2, seed=seed)
        for split in ("train", "test"):
            assert {clip.label for clip in drawn.of(split)} == set(drawn.labels)

    @given(manifest=manifests(with_splits=False), seed=st.integers())
    def test_a_drawn_split_depends_on_the_seed_and_not_on_the_order(self, manifest: Manifest, seed: int) -> None:
        def split_of(clips: tuple[Clip, ...]) -> dict[str, str]:
            drawn = with_split(Manifest(clips=clips), val_share=0.2, test_share=0.3, seed=seed)
            return {clip.path: clip.split for clip in drawn.clips}

        try:
            expected = split_of(manifest.clips)
        except DataError:  # too few groups: another test's matter
            return
        assert split_of(manifest.clips) == expected
        labels_of_group = {(clip.group, clip.label) for clip in manifest.clips}
        if len(labels_of_group) == len({clip.group for clip in manifest.clips}):
            assert split_of(manifest.clips[::-1]) == expected

    def test_another_seed_draws_another_split(self) -> None:
        manifest = self.numbered(2, 12)
        drawn = {with_split(manifest, val_share=0.2, test_share=0.2, seed=seed).data_hash() for seed in range(6)}
        assert len(drawn) > 1

    def test_a_given_split_is_kept(self) -> None:
        splits: tuple[Split, ...] = ("train", "test")
        given_split = Manifest(
            clips=tuple(
                Clip(path=f"/{label}{split}", label=label, split=split, group=f"{label}{split}")
                for label in "ab"
                for split in splits
            )
        )
        assert with_split(given_split, val_share=0.4, test_share=0.4, seed=3) == given_split

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ([("a", "train"), ("b", "train")], "has no test clips"),
            ([("a", "test"), ("b", "val")], "has no train clips"),
            ([("a", "train"), ("b", "test")], "no training clip for the class b"),
            ([("a", "train"), ("a", "test"), ("b", "val")], "no training clip for the class b"),
            ([("a", ""), ("b", "")], "has no test clips"),
            ([("\u00e9", "train"), ("e\u0301", "test")], "two classes are called \u00e9, with"),
        ],
    )
    def test_a_split_that_proves_nothing_is_refused(self, rows: list[tuple[str, Split]], message: str) -> None:
        clips = tuple(
            Clip(path=f"/{label}{n}", label=label, split=s, group=str(n)) for n, (label, s) in enumerate(rows)
        )
        with pytest.raises(DataError, match=message):
            with_split(Manifest(clips=clips), val_share=0.2, test_share=0.2, seed=0)


def test_clips_that_cannot_be_read_are_taken_out() -> None:
    clips = tuple(Clip(path=f"/{n}", label="a", split="train", group=str(n)) for n in range(3))
    assert Manifest(clips=clips).without(["/1", "/none"]).clips == (clips[0], clips[2])


def _rest(drawn: Manifest) -> list[Clip]:
    """What val is a share of."""
    return [clip for clip in drawn.clips if clip.split != "test"]
