"""What is saved of an INT8 graph is the same graph when it is read, and a file that is not is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from d3d_edge.errors import BundleError
from d3d_edge.quantize import graph_files, pt2e
from tests import networks


def test_a_graph_has_no_dropout_no_float_weights_and_no_paths(tmp_path: Path) -> None:
    program = networks.quantized()
    assert not [node for node in program.graph.nodes if "dropout" in str(node.target)]
    assert all(value.dtype == torch.int8 or value.dim() == 1 for value in program.state_dict.values())
    graph_files.save(program, tmp_path / "graph.pt2")
    assert b"site-packages" not in (tmp_path / "graph.pt2").read_bytes()
    assert b"networks.py" not in (tmp_path / "graph.pt2").read_bytes()


def test_a_saved_graph_is_the_same_graph(tmp_path: Path) -> None:
    graph_files.save(networks.quantized(), tmp_path / "graph.pt2")
    program = graph_files.load(tmp_path / "graph.pt2")
    clip = networks.clip(4)
    with torch.no_grad():
        assert torch.equal(program.module()(clip), networks.quantized().module()(clip))
    assert pt2e.logit_step(program) == pt2e.logit_step(networks.quantized())


@pytest.mark.parametrize("keep", [0, 100, 5000])
def test_a_damaged_graph_is_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "graph.pt2"
    graph_files.save(networks.quantized(), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BundleError, match="not a readable graph"):
        graph_files.load(path)


def test_a_graph_with_a_changed_weight_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "graph.pt2"
    graph_files.save(networks.quantized(), path)
    data = bytearray(path.read_bytes())
    data[data.index(networks.quantized().state_dict["_scale_0"].numpy().tobytes())] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match=r"not a readable graph: its part .* is damaged"):
        graph_files.load(path)
