"""The base of everything read from YAML: frozen, closed, and precise about what is wrong. Holds no field itself."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from yaml.constructor import ConstructorError

from d3d_edge.errors import RecipeError
from d3d_edge.files import sha256_of_value
from d3d_edge.resources import near_miss

MAX_PLACES = 20_000
"""Values in a file, each counted where it stands: aliases of aliases make millions of a few lines."""
MAX_DEPTH = 50
"""Mappings and lists inside one another."""
_SHOWN = 40
"""Characters of a bad value that are shown."""
_OLD_NUMBER = re.compile(r"[-+]?(0[0-9_]+$|[0-9_]+:)")
"""010 and 1:30, which are 8 and 90 in YAML 1.1 and 10 and a text in YAML 1.2. PyYAML reads 1.1."""


class Schema(BaseModel):
    """A frozen value with named, typed fields; an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        # pydantic takes true for 1, and the author of `epochs: true` does not.
        if isinstance(value, bool) and info.field_name:
            annotation = cls.model_fields[info.field_name].annotation
            kinds = (annotation, *get_args(annotation))
            if bool not in kinds and (int in kinds or float in kinds):
                raise ValueError(f"is a number, not {str(value).lower()}")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _whole_characters(cls, value: Any) -> Any:
        for text in _texts(value):
            try:
                # What Python makes of a file's name that is not UTF-8 is let pass: who lists files knows the place.
                text.encode("utf-8", "surrogateescape")
            except UnicodeEncodeError:
                raise ValueError(f"{text[:_SHOWN]!r} holds half of a character") from None
        return value

    def hash(self) -> str:
        """Hex SHA-256 of the canonical JSON of all fields."""
        return sha256_of_value(self.model_dump(mode="json"))


S = TypeVar("S", bound=Schema)
Location = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """YAML whose every value can be written down again; what cannot be is a YAMLError with its line."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """The value of `node`. PyYAML matches 2024-02-30, 0x_ and !!int abc by their looks, and fails as it may."""
        try:
            value = super().construct_object(node, deep)
            if isinstance(value, str):
                value.encode()  # "\ud800" is half of a character
            elif isinstance(value, int):
                str(value)  # Python reads any number of digits in hexadecimal, and refuses to write them
        except (ValueError, LookupError, AttributeError, ArithmeticError) as error:
            kind = node.tag.rpartition(":")[2]
            raise ConstructorError(None, None, f"{node.value[:_SHOWN]!r} is no {kind}", node.start_mark) from error
        if isinstance(value, int | float) and _OLD_NUMBER.match(node.value):
            said = f"{node.value[:_SHOWN]!r} means {value} in YAML 1.1 only; write the number plainly, or quote a text"
            raise ConstructorError(None, None, said, node.start_mark)
        return value


def _texts(value: Any) -> Iterator[str]:
    """The texts in `value` and in its lists and mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _texts([*value, *value.values()])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def read_text(path: Path) -> str:
    """The text of a file that a person writes.

    Raises:
        RecipeError: it cannot be read, or is no text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read {path}: {error}") from error


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[Location, str]]:
    """The mapping in a YAML file, and where each key in it stands: file:line.

    Raises:
        RecipeError: the file cannot be read, is not YAML, is too large, is not a mapping, or has a key twice.
    """
    value, lines = _parse(read_text(path), str(path), f"{path} is not YAML")
    if not isinstance(value, dict):
        raise RecipeError(f"{path} does not hold a mapping of settings")
    return value, {key: f"{path}:{line}" for key, line in lines.items()}


def _parse(text: str, source: str, fault: str) -> tuple[Any, dict[Location, int]]:
    """The value that `text` says, and the line of each key in it; `fault` begins the message where it says none."""
    lines: dict[Location, int] = {}
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        # First: building a value follows each alias, and so does all that reads it.
        _collect_lines(node, (), lines, source)
        return loader.construct_document(node) if node else None, lines
    except RecursionError:
        raise _too_deep(source) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the last two: "\Uffffffff"
        raise RecipeError(f"{fault}: {' '.join(str(error).split())}") from error


def _collect_lines(node: yaml.Node | None, at: Location, lines: dict[Location, int], source: str) -> None:
    if len(at) > MAX_DEPTH:
        raise _too_deep(source)
    if len(lines) > MAX_PLACES:
        raise RecipeError(f"{source} holds more than {MAX_PLACES} values", hint="aliases count wherever they stand")
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*at, str(key.value))
            if here in lines:
                raise RecipeError(f"{source}:{key.start_mark.line + 1}: {_dotted(here)} is given twice")
            lines[here] = key.start_mark.line + 1
            _collect_lines(value, here, lines, source)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*at, index)] = item.start_mark.line + 1
            _collect_lines(item, (*at, index), lines, source)


def _too_deep(source: str) -> RecipeError:
    return RecipeError(f"{source} holds values more than {MAX_DEPTH} deep, or one that is part of itself")


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`; mappings merge key by key, all else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def assign(data: dict[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """`data` with each `a.b.c=value` of `settings` set; the value is read as YAML.

    Raises:
        RecipeError: a setting is not of that form, or its value is not YAML.
    """
    for setting in settings:
        dotted, equals, text = setting.partition("=")
        keys = dotted.strip().split(".")
        if not equals or not all(keys):
            raise RecipeError(f"--set {setting!r} is not of the form key=value", hint="--set student.network.width=0.5")
        source = f"--set {dotted}"
        value, _ = _parse(text, source, f"{source}: the value is not YAML")
        over: dict[str, Any] = {keys[-1]: value}
        for key in reversed(keys[:-1]):
            over = {key: over}
        data = merge(data, over)
    return data


def build(cls: type[S], data: dict[str, Any], source: str, places: dict[Location, str] | None = None) -> S:
    """A `cls` made of `data`.

    Raises:
        RecipeError: with every mistake in `data` at once, each with its place, or `source` where `places` has none.
    """
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        found = [_explain(cls, source, places or {}, detail) for detail in _one_a_value(error.errors(), data)]
        raise RecipeError("; ".join(found)) from error


def _one_a_value(details: Iterable[Any], data: Any) -> list[Any]:
    """The errors with their messages joined where a value could be of several kinds, and is of none.

    pydantic gives one for each kind, named behind the place.
    """
    found: dict[Location, Any] = {}
    for detail in details:
        location = detail["loc"]
        if detail["type"] not in ("extra_forbidden", "missing"):
            location = _reached(location, data)
        earlier = found.get(location)
        message = detail["msg"] if earlier is None else f"{earlier['msg']}, or {detail['msg'].lower()}"
        found[location] = {**detail, "loc": location, "msg": message}
    return list(found.values())


def _reached(location: Location, data: Any) -> Location:
    """As much of `location` as leads to a value in `data`."""
    for length, part in enumerate(location):
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return location[:length]
    return location


def _explain(cls: type[Schema], source: str, places: dict[Location, str], detail: Any) -> str:
    location: Location = detail["loc"]
    where = places.get(location, source)
    key = _dotted(location)
    if detail["type"] == "extra_forbidden":
        known = _fields_at(cls, location[:-1])
        return f"{where}: unknown key {key!r}; {near_miss(str(location[-1]), known)}"
    if detail["type"] == "missing":
        return f"{where}: {key!r} is missing"
    message = detail["msg"].removeprefix("Value error, ")
    return f"{where}: {key}: {message[0].lower()}{message[1:]}" if key else f"{where}: {message}"


def _dotted(location: Location) -> str:
    return ".".join(str(part) for part in location)


def _fields_at(cls: type[Schema], location: Location) -> list[str]:
    """Keys of the schema that `location` leads to, through optional and nested schemas and those under free names."""
    parts = iter(location)
    for part in parts:
        field = next((one for name, one in cls.model_fields.items() if (one.alias or name) == part), None)
        candidates = (field.annotation, *get_args(field.annotation)) if field else ()
        nested = [c for c in candidates if isinstance(c, type) and issubclass(c, Schema)]
        if not nested:
            return []
        cls = nested[0]
        if field and get_origin(field.annotation) is dict:
            next(parts, None)  # the name
    return sorted(field.alias or name for name, field in cls.model_fields.items())
