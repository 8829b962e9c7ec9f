"""A graph that is read or written quickly is the one that is read or written slowly."""

from __future__ import annotations

import io
import typing
from pathlib import Path

import pytest
import torch
from torch._export.serde import serialize

from d3d_edge.quantize import graph_files
from d3d_edge.quantize.quick_files import hints_kept, written_without_trial
from tests import networks


def test_the_same_graph_is_read_and_each_class_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph_files.save(networks.quantized(), tmp_path / "graph.pt2")
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


def test_the_same_bytes_are_written() -> None:
    program, slow, quick = networks.quantized(), io.BytesIO(), io.BytesIO()
    torch.export.save(program, slow)
    with written_without_trial():
        torch.export.save(program, quick)
    assert quick.getvalue() == slow.getvalue()


def test_the_form_is_worked_out_again_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(serialize, "canonicalize", lambda *words: asked.append(words))
    with written_without_trial():
        torch.export.save(networks.quantized(), io.BytesIO())
    assert not asked
    torch.export.save(networks.quantized(), io.BytesIO())
    assert asked
