"""YAML in, a frozen value out; every mistake at once, each with its line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from d3d_edge.errors import RecipeError
from d3d_edge.schema import Schema, assign, build, merge, read_yaml

TREES = st.recursive(
    st.integers() | st.text("xyz", max_size=2) | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
    max_leaves=10,
)
MAPPINGS = st.dictionaries(st.sampled_from("abcd"), TREES, max_size=4)


class Inner(Schema):
    width: float = Field(gt=0)
    depth: int = 1


class Outer(Schema):
    name: str
    inner: Inner
    maybe: Inner | None = None
    either: int | str = 0
    switch: bool = False


class Nested(Schema):
    named: dict[str, Inner] = Field(default_factory=dict)
    maybe: Inner | None = None
    source: int = Field(default=0, alias="from")


class Texts(Schema):
    value: Any


def yaml_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "file.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def built(tmp_path: Path, text: str) -> Outer:
    path = yaml_file(tmp_path, text)
    data, places = read_yaml(path)
    return build(Outer, data, str(path), places)


def test_a_schema_is_frozen_and_closed() -> None:
    value = Inner(width=1)
    with pytest.raises(ValidationError, match="frozen"):
        value.width = 2  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs"):
        Inner(width=1, height=2)  # type: ignore[call-arg]


def test_the_hash_is_that_of_the_values_given_or_not() -> None:
    assert Inner(width=1).hash() == Inner(width=1.0, depth=1).hash()
    assert Inner(width=1).hash() != Inner(width=1, depth=2).hash()


@pytest.mark.parametrize("text", ["half \ud800", ["\ud800"], {"\ud800": 1}, {"a": ["\udfff"]}])
def test_text_is_of_whole_characters(text: Any) -> None:
    with pytest.raises(ValidationError, match="holds half of a character"):
        Texts(value=text)


def test_the_name_of_a_file_that_is_not_utf8_is_left_to_who_lists_files() -> None:
    assert Texts(value=os.fsdecode(b"caf\xe9")).value == "caf\udce9"


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan"])
def test_numbers_are_finite(tmp_path: Path, value: str) -> None:
    with pytest.raises(RecipeError, match=r"file.yaml:2: inner.width: "):
        built(tmp_path, f"name: a\ninner: {{width: {value}}}\n")


def test_a_good_file_reads_with_the_lines_of_its_keys(tmp_path: Path) -> None:
    path = yaml_file(tmp_path, "# comment\nname: a\ninner:\n  width: 1\nlist:\n- x\n- {deep: 1}\n")
    data, places = read_yaml(path)
    assert data == {"name": "a", "inner": {"width": 1}, "list": ["x", {"deep": 1}]}
    lines = {
        ("name",): 2,
        ("inner",): 3,
        ("inner", "width"): 4,
        ("list",): 5,
        ("list", 0): 6,
        ("list", 1): 7,
        ("list", 1, "deep"): 7,
    }
    assert places == {key: f"{path}:{line}" for key, line in lines.items()}


def bomb(form: str) -> str:
    """Thirty values, each of which holds the one before twice."""
    lines = ["v0: &v0 {x: 1}", *(f"v{n}: &v{n} " + form.format(f"*v{n - 1}", f"*v{n - 1}") for n in range(1, 31))]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "does not hold a mapping"),
        ("- a\n", "does not hold a mapping"),
        ("a: [1\n", "is not YAML"),
        ("a: 1\nb:\n  c: 1\n  c: 2\n", r"file.yaml:4: b.c is given twice"),
        ("a: !!python/name:os.system x\n", "is not YAML"),
        ("[a]: 1\n", "is not YAML"),
        ("a: 1\nb: 2020-13-45\n", "is not YAML: '2020-13-45' is no timestamp .*line 2"),
        ("a: 0x_\n", "is not YAML: '0x_' is no int"),
        ("a: 1\nb: 010\n", "is not YAML: '010' means 8 in YAML 1.1 only.*line 2"),
        ("a: 1:30\n", "is not YAML: '1:30' means 90 in YAML 1.1 only"),
        ("a: 1:30.5\n", r"is not YAML: '1:30.5' means 90.5 in YAML 1.1 only"),
        ("a: !!int abc\n", "is not YAML: 'abc' is no int"),
        ("a: !!int ''\n", "is not YAML: '' is no int"),
        ("a: !!bool maybe\n", "is not YAML: 'maybe' is no bool"),
        ("a: !!timestamp abc\n", "is not YAML: 'abc' is no timestamp"),
        pytest.param(f"a: {'9' * 5000}\n", "is not YAML: '9{40}' is no int", id="many digits"),
        pytest.param(f"a: 0x{'f' * 5000}\n", "is not YAML: '0xf{38}' is no int", id="many hexadecimal digits"),
        ('a: "\\uD800"\n', r"is not YAML: '\\ud800' is no str"),
        ('a: "\\Uffffffff"\n', "is not YAML"),
        ("a: &a [*a]\n", "part of itself"),
        ("a: &a {b: *a}\n", "part of itself"),
        pytest.param(f"a: {'[' * 1000}{']' * 1000}\n", "50 deep", id="deep"),
        pytest.param(bomb("[{}, {}]"), "more than 20000 values", id="lists of lists"),
        pytest.param(bomb("{{a: {}, b: {}}}"), "more than 20000 values", id="mappings of mappings"),
        pytest.param(bomb("{{<<: [{}, {}]}}"), "more than 20000 values", id="mappings merged"),
    ],
)
def test_a_bad_file_is_a_recipe_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        read_yaml(yaml_file(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_an_unreadable_file_is_a_recipe_error(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot read"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9\n")
    with pytest.raises(RecipeError, match="cannot read"):
        read_yaml(tmp_path / "latin.yaml")


def test_all_mistakes_are_told_at_once_each_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        built(tmp_path, "nam: a\ninner:\n  widht: 1\n  depth: many\nmaybe:\n  width: -1\n")
    assert sorted(caught.value.message.replace(f"{tmp_path}/", "").split("; ")) == [
        "did you mean 'name'? known: either, inner, maybe, name, switch",
        "did you mean 'width'? known: depth, width",
        "file.yaml: 'inner.width' is missing",
        "file.yaml: 'name' is missing",
        "file.yaml:1: unknown key 'nam'",
        "file.yaml:3: unknown key 'inner.widht'",
        "file.yaml:4: inner.depth: input should be a valid integer, unable to parse string as an integer",
        "file.yaml:6: maybe.width: input should be greater than 0",
    ]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"source": 1}, "unknown key 'source'; known: from, maybe, named"),
        ({"named": {"one": {"width": 1, "dpeth": 2}}}, "unknown key 'named.one.dpeth'; did you mean 'depth'?"),
        ({"maybe": {"width": 1, "dpeth": 2}}, "unknown key 'maybe.dpeth'; did you mean 'depth'?"),
    ],
)
def test_an_unknown_key_is_told_with_those_that_are_known(data: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        build(Nested, data, "here")
    assert said in str(caught.value)


@pytest.mark.parametrize("number", ["inner: {width: 1, depth: true}", "inner: {width: true}", "maybe: {width: false}"])
def test_a_switch_is_no_number(tmp_path: Path, number: str) -> None:
    with pytest.raises(RecipeError, match=r"file\.yaml:\d: \S+: is a number, not (true|false)"):
        built(tmp_path, f"name: a\n{number}\n")
    assert built(tmp_path, "name: a\ninner: {width: 1}\nswitch: true\n").switch


def test_a_value_that_is_of_none_of_several_kinds_is_told_once(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        built(tmp_path, "name: a\ninner: {width: 1}\neither: [1]\n")
    assert caught.value.message == (
        f"{tmp_path}/file.yaml:3: either: input should be a valid integer, or input should be a valid string"
    )


@pytest.mark.parametrize("text", ["1: a\n", "true: a\n", "null: a\n", "name: a\ninner: {1: 2}\n"])
def test_a_key_that_is_not_text_is_a_recipe_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeError, match=r"file\.yaml"):
        built(tmp_path, text)


def test_merging_goes_key_by_key_and_replaces_all_else() -> None:
    base = {"a": {"x": 1, "y": [1, 2]}, "b": 1}
    over = {"a": {"y": [3]}, "b": {"z": None}}
    assert merge(base, over) == {"a": {"x": 1, "y": [3]}, "b": {"z": None}}
    assert base == {"a": {"x": 1, "y": [1, 2]}, "b": 1}, "the base is not touched"


@given(data=MAPPINGS)
def test_merging_with_nothing_or_with_itself_changes_nothing(data: dict[str, Any]) -> None:
    assert merge(data, {}) == merge({}, data) == merge(data, data) == data


@given(one=MAPPINGS, two=MAPPINGS, three=MAPPINGS)
def test_merging_a_second_time_changes_nothing(one: Any, two: Any, three: Any) -> None:
    merged = merge(one, two)
    assert merge(merged, two) == merged
    assert set(merge(merged, three)) == set(one) | set(two) | set(three)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("a.b=1", {"a": {"b": 1, "c": 2}}),
        ("a.b=1.5", {"a": {"b": 1.5, "c": 2}}),
        ("a.b=text", {"a": {"b": "text", "c": 2}}),
        ("a.b=x=y", {"a": {"b": "x=y", "c": 2}}),
        ("a.b=[1, 2]", {"a": {"b": [1, 2], "c": 2}}),
        ("a.b={d: 1}", {"a": {"b": {"d": 1}, "c": 2}}),
        ("a.b=null", {"a": {"b": None, "c": 2}}),
        ("a.b=", {"a": {"b": None, "c": 2}}),
        (" a.b =1", {"a": {"b": 1, "c": 2}}),
        ("new.er=1", {"a": {"b": 0, "c": 2}, "new": {"er": 1}}),
        ("a=1", {"a": 1}),
    ],
)
def test_a_setting_replaces_one_value(setting: str, value: dict[str, Any]) -> None:
    data = {"a": {"b": 0, "c": 2}}
    assert assign(data, [setting]) == value
    assert data == {"a": {"b": 0, "c": 2}}, "the data is not touched"


def test_the_last_setting_of_a_key_holds() -> None:
    assert assign({}, ["a.b=1", "a.b=2", "a.c=3"]) == {"a": {"b": 2, "c": 3}}


@pytest.mark.parametrize(
    "setting",
    [
        *("a", "=1", "a..b=1", ".a=1", "a.=1", "a=[1", "", "a=2024-02-30", "a=!!int abc", 'a="\\uD800"'),
        pytest.param(f"a={'[' * 1000}", id="deep"),
    ],
)
def test_a_malformed_setting_is_a_recipe_error(setting: str) -> None:
    with pytest.raises(RecipeError, match="--set"):
        assign({}, [setting])
