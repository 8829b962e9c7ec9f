"""A graph that is read quickly is the one that is read slowly."""

from __future__ import annotations

import typing
from pathlib import Path

import pytest
import torch

from d3d_edge.quantize import pt2e
from d3d_edge.quantize.quick_loading import hints_kept
from tests import networks


def test_the_same_graph_is_read_and_each_class_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pt2e.save(networks.quantized(), tmp_path / "graph.pt2")
    slow = torch.export.load(tmp_path / "graph.pt2")
    asked: list[object] = []
    ask = typing.get_type_hints

    def counted(obj: object, *rest: typing.Any) -> typing.Any:
        asked.append(obj)
        return ask(obj, *rest)

    monkeypatch.setattr(typing, "get_type_hints", counted)
    with hints_kept():
        quick = torch.export.load(tmp_path / "graph.pt2")
    assert typing.get_type_hints is counted
    assert 10 < len(asked) == len(set(asked))
    assert str(quick) == str(slow)
    for name, value in slow.state_dict.items():
        assert torch.equal(quick.state_dict[name], value)
    for clip in (networks.clip(1), networks.clip(2)):
        assert torch.equal(quick.module()(clip), slow.module()(clip))


def test_what_others_ask_meanwhile_is_answered_as_ever() -> None:
    def takes(number: int) -> typing.Annotated[str, "note"]:
        return str(number)

    plain, whole = typing.get_type_hints(takes), typing.get_type_hints(takes, include_extras=True)
    with hints_kept():
        assert typing.get_type_hints(takes) == plain
        assert typing.get_type_hints(takes, include_extras=True) == whole != plain
