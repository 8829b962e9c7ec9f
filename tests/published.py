"""The JSON Schema of a report as it is published, used as a program does that knows nothing of this package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

PATH = Path(__file__).resolve().parents[1] / "docs" / "report.schema.json"
SCHEMA = json.loads(PATH.read_text(encoding="utf-8"))
_VALIDATOR = Draft202012Validator(SCHEMA)


def check(report: Any) -> None:
    """Raise jsonschema's ValidationError unless `report`, read from JSON, keeps to the schema."""
    _VALIDATOR.validate(report)
