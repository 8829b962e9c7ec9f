"""docs/export.md: its target of one's own is one, and has each field that a target can have."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from d3d_edge import runtimes, target
from d3d_edge.target import Target
from tests.cli.conftest import D3DEdge, with_references

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
(OWN,) = re.findall(r"^```yaml\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def watch(tmp_path: Path) -> Path:
    folder = tmp_path / "targets" / "watch"
    folder.mkdir(parents=True)
    (folder / "target.yaml").write_text(OWN)
    return folder


def test_the_target_in_the_docs_is_one_with_every_field(watch: Path) -> None:
    loaded = target.load(str(watch))
    assert set(yaml.safe_load(OWN)) == set(Target.model_fields)
    assert set(loaded.precisions) <= set(runtimes.get(loaded.runtime).precisions)


@pytest.mark.slow
def test_it_is_exported_as_the_docs_say(made: Path, d3d_edge: D3DEdge, watch: Path, tmp_path: Path) -> None:
    pytest.importorskip("coremltools")
    (words,) = re.findall(r"^d3d-edge (export run --target targets/watch .*)$", TEXT, flags=re.MULTILINE)
    bundles = with_references(made, tmp_path / "bundles")
    found = {"run": made / "run", "targets/watch": watch, "bundles": bundles}
    done = d3d_edge(*(found.get(word, word) for word in words.split()), "--workers", 0)
    assert done.code == 0, done.err
    assert (tmp_path / "bundles" / "watch" / "manifest.json").is_file()


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)#]+)", TEXT))
def test_links_lead_somewhere(link: str) -> None:
    assert (ROOT / "docs" / link).exists()
