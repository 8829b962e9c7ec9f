"""Files with recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml


@pytest.fixture
def path(tmp_path: Path, recipe_data: dict[str, Any]) -> Path:
    """A file with the least recipe."""
    return write(tmp_path / "least.yaml", recipe_data)


def write(path: Path, data: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path
