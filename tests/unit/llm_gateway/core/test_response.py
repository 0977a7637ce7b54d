"""Final answers against a response format."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.messages import AssistantMessage, ToolCall
from schemas.requests import ResponseFormat
from services.llm_gateway.core import response
from services.llm_gateway.core.response import flaw_of, problem_of

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "degrees": {"type": "number"}},
    "required": ["city", "degrees"],
    "additionalProperties": False,
}
FORMAT = ResponseFormat(name="weather", schema=SCHEMA)
FITTING = '{"city": "Rome", "degrees": 31.5}'


def problem(content: str, response_format: ResponseFormat | None = FORMAT) -> str:
    return problem_of(AssistantMessage(content=content), response_format)


@pytest.mark.parametrize(
    "content",
    [
        FITTING,
        f"  {FITTING}\n",
        f"```json\n{FITTING}\n```",
        f"```\n{FITTING}```",
        f"```JSON  \n{FITTING}\n  ```\n",
    ],
)
def test_an_answer_that_fits_has_no_problem(content: str) -> None:
    assert problem(content) == ""


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("It is 31 degrees in Rome.", "not valid JSON"),
        (f"Here you are:\n```json\n{FITTING}\n```", "not valid JSON"),
        (FITTING[:-5], "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"city": "Rome"}', "'degrees' is a required property"),
        ('{"city": "Rome", "degrees": "hot"}', "$.degrees"),
        ('{"city": "Rome", "degrees": 1, "wind": 2}', "wind"),
        ("[]", "is not of type 'object'"),
        ("null", "is not of type 'object'"),
    ],
)
def test_an_answer_that_does_not_fit_is_told_why(content: str, word: str) -> None:
    assert word in problem(content)


def test_what_is_no_final_answer_is_not_checked() -> None:
    call = ToolCall(id="a", name="t", arguments="{}")
    assert problem_of(AssistantMessage(content="Looking.", tool_calls=(call,)), FORMAT) == ""
    assert problem("  ") == ""
    assert problem("words", None) == ""


def test_the_words_are_bounded() -> None:
    schema = {"type": "array", "items": {"enum": ["x" * 500 for _ in range(20)]}}
    content = "[" + ",".join(f'"{"y" * 900}{n}"' for n in range(50)) + "]"
    found = problem(content, ResponseFormat(schema=schema))
    assert 0 < len(found) <= response.PROBLEM_LENGTH_MAX


def test_an_answer_that_takes_too_long_to_check_is_not_accepted() -> None:
    schema = {"type": "array", "items": {"anyOf": [{"const": n} for n in range(50)] + [{"type": "integer"}]}}
    found = problem(str([1000] * 5_000), ResponseFormat(schema=schema))
    assert "cannot be checked" in found


@pytest.mark.parametrize(
    ("schema", "word"),
    [
        ({"type": "objekt"}, "objekt"),
        ({"properties": 3}, "no JSON Schema"),
        ({"type": "array", "items": {"type": "nope"}}, "nope"),
        ({"required": "city"}, "no JSON Schema"),
        ({"$ref": "#"}, "circle"),
        ({"$ref": "https://schemas.example/gone"}, "gone"),
        ({"$ref": "#/$defs/missing"}, "missing"),
    ],
)
def test_a_schema_that_cannot_be_used_is_found_before_anything_is_paid(schema: dict[str, Any], word: str) -> None:
    assert word in flaw_of(ResponseFormat(schema=schema))


@pytest.mark.parametrize(
    "schema",
    [
        SCHEMA,
        {},
        {"type": "array", "items": {"$ref": "#/$defs/n"}, "$defs": {"n": {"type": "integer"}}},
        {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "definitions": {"a": {}}},
        {"type": "object", "properties": {"next": {"$ref": "#"}}},
    ],
)
def test_an_ordinary_schema_has_no_flaw(schema: dict[str, Any]) -> None:
    assert flaw_of(ResponseFormat(schema=schema)) == ""


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(["type", "properties", "items", "anyOf", "$ref", "required", "enum", "not", "$id", "$schema"])


@given(st.dictionaries(KEYS, JSON, max_size=4), st.text(max_size=40))
def test_no_schema_and_no_answer_is_a_crash(schema: dict[str, Any], content: str) -> None:
    response_format = ResponseFormat(schema=schema)
    assert isinstance(flaw_of(response_format), str)
    assert isinstance(problem(content, response_format), str)
