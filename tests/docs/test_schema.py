"""docs/report.schema.json is the code's own, and any program can tell by it what is a report and what is none.

Every report that a test has a command write or print is held to it as well (`d3d_edge` in tests/cli/conftest.py).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from jsonschema import Draft202012Validator, ValidationError

from d3d_edge.errors import DataError
from d3d_edge.report import Report
from tests import published
from tests.cli.conftest import D3DEdge
from tests.unit.page import samples


def test_the_schema_in_the_docs_is_that_of_the_code() -> None:
    assert Report.model_json_schema() == published.SCHEMA


def test_it_is_a_schema_of_the_draft_that_it_names() -> None:
    assert published.SCHEMA["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    Draft202012Validator.check_schema(published.SCHEMA)


@pytest.mark.parametrize("path", ["run/report.json", "run/quantized/report.json"])
def test_training_writes_such_a_report(made: Path, path: str) -> None:
    published.check(json.loads((made / path).read_text()))


def test_what_is_timed_is_written_and_printed_as_such_a_report(made: Path, d3d_edge: D3DEdge, tmp_path: Path) -> None:
    out = tmp_path / "times.json"
    done = d3d_edge("benchmark", made / "bundles" / "jetson", "--runs", 2, "--out", out, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out) == json.loads(out.read_text())
    published.check(json.loads(done.out))


class Place(NamedTuple):
    """A value of a report, and the keys that lead to it."""

    keys: tuple[str | int, ...]
    value: Any


def places(value: Any, keys: tuple[str | int, ...] = ()) -> Iterator[Place]:
    """Every value of a report, of a list its first only."""
    yield Place(keys, value)
    if isinstance(value, dict):
        for key, part in value.items():
            yield from places(part, (*keys, key))
    elif isinstance(value, list) and value:
        yield from places(value[0], (*keys, 0))


def changed(keys: tuple[str | int, ...], value: Any) -> Any:
    """The report with another value at a place."""
    report = copy.deepcopy(WHOLE)
    holder = report
    for key in keys[:-1]:
        holder = holder[key]
    holder[keys[-1]] = value
    return report


def without(keys: tuple[str | int, ...]) -> Any:
    """The report without a field."""
    report = copy.deepcopy(WHOLE)
    holder = report
    for key in keys[:-1]:
        holder = holder[key]
    del holder[keys[-1]]
    return report


def refused(report: Any, folder: Path) -> None:
    """By the schema, and by this package too."""
    with pytest.raises(ValidationError):
        published.check(report)
    (folder / "report.json").write_text(json.dumps(report))
    with pytest.raises(DataError, match="is not a readable report"):
        Report.read(folder / "report.json")


WHOLE = samples.report().model_dump(mode="json")
WHOLE["rows"].reverse()  # the last one has all that a row can have
PLACES = [place for place in places(WHOLE) if place.keys]


def test_the_report_that_is_damaged_here_is_one() -> None:
    published.check(WHOLE)
    # Every part that a report can have is in it.
    assert {"samples", "latency", "answers", "paired", "machine"} <= {
        str(place.keys[-1]) for place in PLACES if place.value
    }


@pytest.mark.parametrize("keys", [("title",), ("classes",), ("environment",), ("rows",), ("environment", "cpus")])
def test_a_report_without_what_it_must_say_is_none(keys: tuple[str | int, ...], tmp_path: Path) -> None:
    refused(without(keys), tmp_path)


@pytest.mark.parametrize("field", ["name", "role", "precision", "where"])
def test_a_row_without_what_it_must_say_is_none(field: str, tmp_path: Path) -> None:
    refused(without(("rows", 0, field)), tmp_path)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place.keys)))
def test_a_value_of_another_type_is_refused(place: Place, tmp_path: Path) -> None:
    refused(changed(place.keys, {} if isinstance(place.value, list) else []), tmp_path)


@pytest.mark.parametrize(
    "keys", [place.keys for place in PLACES if isinstance(place.value, dict)], ids=lambda keys: ".".join(map(str, keys))
)
def test_a_field_that_nobody_knows_is_refused(keys: tuple[str | int, ...], tmp_path: Path) -> None:
    refused(changed((*keys, "unknown"), []), tmp_path)


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("format",), "another"),
        (("format_version",), 2),
        (("rows", 0, "role"), "student"),
        (("rows", 0, "where"), "somewhere"),
        (("rows", 0, "precision"), "int4"),
        (("rows", 0, "clips"), -1),
        (("gates", 0, "verdict"), "maybe"),
        (("pairs", 0, "agreement"), 1.5),
    ],
    ids=str,
)
def test_a_value_that_means_nothing_is_refused(keys: tuple[str | int, ...], value: Any, tmp_path: Path) -> None:
    refused(changed(keys, value), tmp_path)
