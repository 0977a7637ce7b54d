"""Which schemas are sent as a rule, and what is said in words instead."""

from __future__ import annotations

import json
from typing import Any

import pytest

from schemas.messages import SystemMessage, UserMessage
from schemas.requests import ResponseFormat
from services.llm_gateway.core.formats import (
    ANTHROPIC,
    OPENAI,
    Dialect,
    instruction,
    qualifies,
    with_instructions,
)


def closed(*required: str, **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


TEXT = {"type": "string"}
NODE = closed("next", next={"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]})


@pytest.mark.parametrize(
    ("schema", "openai", "anthropic"),
    [
        (closed("a", a=TEXT), True, True),
        ({"$schema": "https://json-schema.org/draft/2020-12/schema", **closed("a", a=TEXT)}, True, True),
        (closed("a", a={"type": ["string", "null"], "description": "d", "title": "t"}), True, True),
        (closed("a", a={"type": "array", "items": closed("b", b={"enum": ["x", 1, None, True]})}), True, True),
        (closed("a", a={"$ref": "#/$defs/text"}) | {"$defs": {"text": TEXT}}, True, True),
        (closed("a", a={"type": "string", "format": "date-time"}), True, True),
        (closed(a=TEXT), False, True),  # a property that is not required
        (closed("a", a={"type": "number", "minimum": 0}), True, False),
        (closed("a", a={"type": "string", "pattern": "^a"}), True, False),
        (closed("a", a={"type": "array", "items": TEXT, "minItems": 3}), True, False),
        (closed("a", a={"$ref": "#/$defs/node"}) | {"$defs": {"node": NODE}}, True, False),  # a schema of itself
        (closed("a", a={"anyOf": [{"$ref": "#"}, {"type": "null"}]}), True, False),
        ({**closed("a", a=TEXT), "additionalProperties": True}, False, False),
        ({"type": "object", "properties": {"a": TEXT}, "required": ["a"]}, False, False),
        ({"type": "object", "additionalProperties": TEXT}, False, False),
        (closed("a", a={"allOf": [TEXT]}), False, False),
        (closed("a", a={"type": "string", "minLength": 3}), False, False),
        (closed("a", a={"type": "string", "format": "iban"}), False, False),
        (closed("a", a={"type": "array"}), False, False),
        (closed("a", a={"enum": [{"x": 1}]}), False, False),
        (closed("a", a={}), False, False),
        (closed("a", a=True), False, False),
        (closed("a", a={"$ref": "https://example.com/schema"}), False, False),
        (closed("a", a={"$ref": "#/$defs/none"}), False, False),
        (closed("a", a={"type": "text"}), False, False),
        ({"type": "array", "items": TEXT}, False, False),
        ({"anyOf": [closed("a", a=TEXT)]}, False, False),
        ({}, False, False),
    ],
)
def test_a_schema_is_a_rule_only_where_all_of_it_is_taken(
    schema: dict[str, Any], openai: bool, anthropic: bool
) -> None:
    wanted = ResponseFormat(schema=schema)
    assert (qualifies(wanted, OPENAI), qualifies(wanted, ANTHROPIC)) == (openai, anthropic)


@pytest.mark.parametrize("dialect", [OPENAI, ANTHROPIC])
def test_what_is_not_meant_strictly_or_too_deep_is_no_rule(dialect: Dialect) -> None:
    assert not qualifies(ResponseFormat(schema=closed("a", a=TEXT), strict=False), dialect)
    deep: dict[str, Any] = TEXT
    for _ in range(200):
        deep = closed("a", a=deep)
    assert not qualifies(ResponseFormat(schema=deep), dialect)


NO_SCHEMAS: list[dict[str, Any]] = [
    {"type": "object", "properties": [], "additionalProperties": False},
    {"type": "object", "$defs": [], "additionalProperties": False},
    {"type": "object", "required": 3, "additionalProperties": False},
    {"type": "object", "additionalProperties": False, "enum": 3},
    {"type": "object", "additionalProperties": False, "anyOf": 3},
    {"type": "object", "additionalProperties": False, "minItems": "x"},
    {"type": {}, "additionalProperties": False},
    {"type": ["object", {}], "additionalProperties": False},
]


@pytest.mark.parametrize("schema", NO_SCHEMAS)
def test_a_schema_that_is_none_is_no_rule_and_no_error(schema: dict[str, Any]) -> None:
    assert not qualifies(ResponseFormat(schema=schema), OPENAI)
    assert not qualifies(ResponseFormat(schema=schema), ANTHROPIC)


def test_the_instruction_holds_the_schema_in_its_own_order() -> None:
    schema = {"$schema": "x", **closed("b", "a", b=TEXT, a={"type": "string", "description": "« ä »"})}
    said = instruction(ResponseFormat(schema=schema))
    assert json.loads(said.splitlines()[-1]) == closed("b", "a", b=TEXT, a={"type": "string", "description": "« ä »"})
    assert said.index('"b"') < said.index('"a"')
    assert "« ä »" in said


def test_instructions_are_at_the_end_of_the_first_ones_or_in_front() -> None:
    user = UserMessage(content="Hi")
    assert with_instructions((), "x") == (SystemMessage(content="x"),)
    assert with_instructions((user,), "x") == (SystemMessage(content="x"), user)
    assert with_instructions((SystemMessage(content="a"), user), "x") == (SystemMessage(content="a\n\nx"), user)
    assert with_instructions((SystemMessage(content=" "), user), "x") == (SystemMessage(content="x"), user)
