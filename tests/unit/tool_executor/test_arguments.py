from __future__ import annotations

import json
import socket
import threading
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.tool_executor.core.arguments import BadArguments, check, parse, unusable
from services.tool_executor.core.names import unknown_tool

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEYWORDS = st.sampled_from(
    [
        *("type", "properties", "required", "items", "anyOf", "oneOf", "allOf", "not", "if", "then", "else", "enum"),
        *("const", "$ref", "$defs", "$id", "$anchor", "$dynamicRef", "$schema", "additionalProperties", "contains"),
        *("patternProperties", "pattern", "format", "minimum", "maximum", "multipleOf", "minLength", "maxItems"),
        *("uniqueItems", "propertyNames", "dependentRequired", "dependentSchemas", "unevaluatedProperties"),
        *("prefixItems", "definitions", "dependencies", "$recursiveRef", "extends", "disallow", "divisibleBy"),
    ]
)
SCHEMAS = st.dictionaries(KEYWORDS, JSON | st.dictionaries(KEYWORDS, JSON, max_size=3), max_size=5)


@pytest.mark.parametrize("text", ["", "  ", "\n", "{}"])
def test_no_arguments_are_no_arguments(text: str) -> None:
    assert parse(text) == {}


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{", "not valid JSON"),
        ("[1]", "an array"),
        ('"text"', "a string"),
        ("1", "a number"),
        ("true", "a boolean"),
        ("null", "null"),
        ("{'a': 1}", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_what_is_not_a_json_object_is_said_to_be_what_it_is(text: str, word: str) -> None:
    with pytest.raises(BadArguments, match=word) as caught:
        parse(text)
    assert "JSON object" in str(caught.value)


@given(st.text())
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        value = parse(text)
    except BadArguments:
        return
    assert value == (json.loads(text) if text.strip() else {})


def refusal(schema: dict[str, Any], arguments: dict[str, Any]) -> str:
    with pytest.raises(BadArguments) as caught:
        check(schema, arguments)
    return str(caught.value)


NESTED = {
    "type": "object",
    "properties": {
        "user": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "tags": {"type": "array", "items": {"type": "integer"}}},
            "required": ["name"],
            "additionalProperties": False,
        }
    },
    "required": ["user"],
}


def test_a_refusal_says_where_and_what_would_be_right() -> None:
    text = refusal(NESTED, {"user": {"name": "x", "tags": [1, "two"]}})
    assert "$.user.tags[1]: 'two' is not of type 'integer'" in text
    assert 'the schema there: {"type":"integer"}' in text


def test_a_missing_property_is_named() -> None:
    assert "'user' is a required property" in refusal(NESTED, {})


def test_a_misspelt_property_is_told_its_neighbour() -> None:
    assert "perhaps 'name' instead of 'nmae'" in refusal(NESTED, {"user": {"name": "x", "nmae": "y"}})


def test_all_problems_are_named_at_once_but_not_hundreds() -> None:
    schema = {"properties": {f"p{n}": {"type": "integer"} for n in range(100)}}
    assert refusal(schema, {f"p{n}": "x" for n in range(100)}).count("- at ") == 5


def test_of_alternatives_the_likeliest_is_explained() -> None:
    schema = {"properties": {"a": {"anyOf": [{"type": "null"}, {"type": "integer", "minimum": 5}]}}}
    assert "3 is less than the minimum of 5" in refusal(schema, {"a": 3})


def test_a_long_value_is_not_repeated_in_full() -> None:
    assert len(refusal({"properties": {"a": {"type": "integer"}}}, {"a": "x" * 100_000})) < 2000


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$ref": "#/$defs/missing"},
        {"$ref": "file:///etc/passwd"},
        {"type": "no-such-type"},
        {"type": 7},
        {"required": 5},
        {"properties": []},
        {"multipleOf": 0, "properties": {"a": {"multipleOf": 0}}},
        {"$schema": ["odd"]},
        {"$dynamicRef": "#x"},
    ],
)
def test_a_schema_that_cannot_be_used_checks_nothing(schema: dict[str, Any]) -> None:
    try:
        check(schema, {"a": 1})
    except BadArguments:
        pytest.fail("a broken schema refused arguments")


def test_a_schema_that_doubles_at_every_step_is_given_up() -> None:
    definitions = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(60)}
    schema = {"$defs": {**definitions, "d60": {"type": "object"}}, "$ref": "#/$defs/d0"}
    assert "steps" in unusable(schema)
    check(schema, {"a": 1})


def test_a_regular_expression_that_takes_for_ever_is_not_run() -> None:
    evil = "^(a+)+$"
    inside = {"properties": {"a": {"pattern": evil}}, "patternProperties": {evil: {"type": "integer"}}}
    schema = {**inside, "allOf": [inside], "additionalProperties": False, "unevaluatedProperties": False}
    check(schema, {"a": "a" * 60 + "!", "a" * 60 + "!": "b"})


def test_a_dialect_named_inside_a_schema_does_not_switch_the_limits_off() -> None:
    evil = {"$schema": "http://json-schema.org/draft-07/schema#", "pattern": "^(a+)+$"}
    check({"properties": {"a": evil}}, {"a": "a" * 60 + "!"})


def test_a_reference_to_another_place_is_never_fetched() -> None:
    asked = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.5)

        def listen() -> None:
            try:
                listening.accept()
            except TimeoutError:
                return
            asked.set()

        thread = threading.Thread(target=listen)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/schema.json"
        for schema in ({"$ref": url}, {"properties": {"a": {"$ref": url}}}, {"$id": url, "$ref": "other.json"}):
            check(schema, {"a": 1})
            assert unusable({**schema, "properties": {}, "$ref": url})
        thread.join()
    assert not asked.is_set()


def test_references_inside_the_schema_work_in_every_dialect() -> None:
    for dialect in ("http://json-schema.org/draft-07/schema#", "https://json-schema.org/draft/2020-12/schema"):
        schema = {"$schema": dialect, "definitions": {"n": {"type": "integer"}}, "properties": {}}
        schema["properties"] = {"a": {"$ref": "#/definitions/n"}}
        check(schema, {"a": 1})
        assert "not of type 'integer'" in refusal(schema, {"a": "x"})


@given(SCHEMAS, st.dictionaries(st.text(max_size=4), JSON, max_size=4))
def test_no_schema_breaks_the_check(schema: dict[str, Any], arguments: dict[str, Any]) -> None:
    try:
        check(schema, arguments)
    except BadArguments as error:
        msgspec.json.encode(str(error))


def test_an_unknown_tool_is_told_what_is_near() -> None:
    known = ["time__get_current_time", "time__convert_time", "git__git_log"]
    assert "Perhaps you mean time__get_current_time" in unknown_tool("time__get_current_tme", known)
    assert "The tools are: git__git_log, time__convert_time" in unknown_tool("weather", known)
    assert "This agent has no tools." in unknown_tool("weather", [])


@given(st.text(max_size=200), st.lists(st.text(min_size=1, max_size=64), max_size=50))
def test_what_is_said_of_an_unknown_tool_stays_short(name: str, known: list[str]) -> None:
    assert len(unknown_tool(name, known)) < 3000
