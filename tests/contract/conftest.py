"""A device of every kind, reached."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from d3d_edge import transports
from d3d_edge.transports import Transport
from tests.devices import KINDS, reach


class Device(NamedTuple):
    """A device, reached, and the folder of this machine that its files are in."""

    kind: str
    transport: Transport
    folder: Path


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def device(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Device]:
    name, folder = reach(kind, request, tmp_path / "device", monkeypatch)
    with transports.get(name) as transport:
        yield Device(kind, transport, folder)
